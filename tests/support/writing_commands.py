"""The commands that write, as command lines over one finished workspace."""

from __future__ import annotations

import os

from embedded_workspace import EMBED, PRIME

TORTURE = bool(os.environ.get("PERPCS_TORTURE"))
"""The long form, for `make torture`."""

SHORT = "--plain --steps 1"
PARTS = ("predict --base --max-new-tokens 2 --name parts", f"{EMBED} --out parts.safetensors")
"""Commands of which a shard has ended already, 1/2."""
SWEEP = """format = "perpcs.sweep/1"
task = "news_headline"
model = "{model}"
[settings]
adapt = { batch_size = 4, steps = 1 }
train = { batch_size = 4, steps = 1 }
gate = { batch_size = 4, steps = 1 }
predict = { max_new_tokens = 2 }
[steps]
split = { targets = 2 }
adapt = { plain = true, max-examples = 4 }
train-sharer = { plain = true, recent = 2 }
gate = { plain = true, recent = 2 }
assemble = { plain = true, top-k = 1 }
[[experiment]]
name = "main"
method = ["per-pcs", "oppu"]
"""
FORMS = {
    "init": "init elsewhere --task news_headline --model MODEL",
    "import": "import users.jsonl --out new.jsonl",
    "synth": "synth --count 3 --history 3 --queries 1 --out new.jsonl",
    "split": "split --targets 2 --files --out new",
    "split again": "split --targets 2 --seed 5 --files --force",
    "profile": "profile --max-new-tokens 2 --recent 1 --out new.jsonl",
    "embed": f"{EMBED} --out new.safetensors",
    "embed again": f"{EMBED} --force",
    "select": "select --clusters 2 --min-items 1 --out new",
    "select again": "select --strategy random --count 2 --min-items 1 --force",
    "adapt": f"adapt {SHORT} --out new --save-merged new-merged",
    "adapt again": f"adapt {SHORT} --force",
    "train-sharer": f"train-sharer {SHORT} --users SHARER,TARGET --together 2 --out new",
    "train-sharer again": f"train-sharer {SHORT} --user SHARER --force",
    "adopt": "adopt foreign --user TARGET --out new",
    "adopt again": "adopt foreign --user SHARER --force",
    "gate": f"gate {SHORT} --user SHARER --out new",
    "gate again": f"gate {SHORT} --user SHARER --force",
    "pool build": "pool build --out new.json",
    "pool build again": "pool build --share-ratio 0.5 --force",
    "pool build --pseudonymize": "pool build --pseudonymize --out new.json",
    "pool revoke, renormalize": "pool revoke SHARER --recipes-then renormalize",
    "pool revoke, delete": "pool revoke SHARER --recipes-then delete",
    "pool revoke, reassemble": "pool revoke SHARER --recipes-then reassemble",
    "assemble": "assemble --plain --top-k 2 --out new",
    "assemble, packed": "assemble --plain --top-k 2 --out new.jsonl",
    "assemble, packed again": "assemble --plain --top-k 1 --out recipes-packed.jsonl --force",
    "assemble again": "assemble --plain --top-k 1 --force",
    "retrieve": "retrieve --similar 2 --out new",
    "retrieve, packed": "retrieve --similar 2 --out new.jsonl",
    "prime": f"{PRIME},1 --pareto new.json --traces new-traces --out new",
    "export": "export recipes/TARGET.json --out new",
    "export --merged": "export recipes/TARGET.json --merged --out new",
    "prime, racing": f"{PRIME} --race 0.5 --race-items 2 --prompts both --alpha 1 --traces new-traces --out new",
    "prime, packed": f"{PRIME},1 --traces new-traces --out new.jsonl",
    "predict": "predict --recipes recipes --max-new-tokens 2 --name new",
    "predict again": "predict --base --max-new-tokens 2 --force",
    "train-sharer, a shard": f"train-sharer {SHORT} --users SHARER,TARGET --out new --shard 2/2",
    "predict, a shard": f"{PARTS[0]} --shard 2/2",
    "predict, from a shard": PARTS[0],
    "embed, a shard": f"{PARTS[1]} --shard 2/2",
    "embed, from a shard": PARTS[1],
    "profile, a shard": "profile --max-new-tokens 2 --recent 1 --out new.jsonl --shard 1/2",
    "mia, a shard": "mia --recipes recipes-retrieve --max-items 2 --attacks loss --out new.json --shard 1/1",
    "eval": "eval predictions/base.jsonl predictions/per-pcs.jsonl --resamples 20 --out new.json",
    "eval --write-lamp": "eval predictions/base.jsonl --write-lamp new.json",
    "mia": "mia --recipes recipes-retrieve --resamples 5 --max-items 2 --attacks loss --out new.json",
    "report": "report --out new.html",
    "workflow": "workflow . --out flow --shards 2",
    "workflow of a sweep": "workflow sweep.toml --data users.jsonl --out new --device cpu --dtype float32",
    "sweep": "sweep sweep.toml --data users.jsonl --out new --device cpu --dtype float32",
}
"""Each command that writes, into a new place, and over what is there."""
NOT_HERE = {
    "model fetch": "downloads",
    "fetch lamp": "downloads; what is left of a stopped one is in artifacts/io/test_download.py",
    "table": "--plot writes one file, as eval --out does",
}
"""Commands that write, and why they are not above."""
