"""Tensors that are missing, cut off, garbled, changed or not finite, foreign adapters, pickles, unreadable text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from shell import DATA, USAGE, Shell, named, refused


def damage(path: Path, how: str) -> None:
    """Break a safetensors file."""
    whole = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(whole[:-100])
    elif how == "garbled":
        path.write_bytes(b"\xff" * 64 + whole[64:])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = file.metadata()
        next(iter(tensors.values())).view(-1)[0] = torch.nan if how == "NaN" else 7.0
        save_file(tensors, path, metadata)


FILES = {
    "adapter in a pool": ("sharers/SHARER/adapter_model.safetensors", "pool build --force"),
    "adapter of a sharer": ("sharers/SHARER/adapter_model.safetensors", "predict --sharer SHARER --name n"),
    "adapter to train gates on": ("sharers/SHARER/adapter_model.safetensors", "gate --plain --steps 2 --lr 1e-1"),
    "adapter that is finished": (
        "sharers/SHARER/adapter_model.safetensors",
        "train-sharer --plain --steps 2 --lr 1e-2",
    ),
    "adapter of a recipe": ("sharers/SHARER/adapter_model.safetensors", "predict --recipes all.json --name n"),
    "task adapter": ("task-adapter/adapter_model.safetensors", "predict --base --name n"),
    "gate": ("sharers/SHARER/gate.safetensors", "pool build --force"),
    "pool's gates": ("pool.gates.safetensors", "assemble --out r"),
    "base model": ("model/model.safetensors", "predict --base --name n --task-adapter none --model model"),
}


DAMAGES = ("missing", "truncated", "garbled", "empty", "NaN", "changed")
UNRECORDED = ("gate", "base model")
"""Files whose digest nothing has recorded yet: another value in them is not damage."""


@pytest.mark.parametrize(
    ("what", "how"), [(what, how) for what in FILES for how in DAMAGES if how != "changed" or what not in UNRECORDED]
)
def test_broken_tensors(what: str, how: str, shell: Shell) -> None:
    if what == "base model":
        shutil.copytree(shell.model, shell.root / "model")
    if what == "adapter of a recipe":
        recipe = json.loads((shell.root / named(shell, "recipes/TARGET.json")).read_bytes())
        mix = {"sharers": [shell.ids("candidate")[0]], "weights": {"*": [[[0, 1.0]]]}}
        (shell.root / "all.json").write_text(json.dumps({**recipe, **mix}))
    place, line = (named(shell, text) for text in FILES[what])
    damage(shell.root / place, how)
    message = refused(shell(line), DATA)
    assert place.rpartition("/")[0] in message.splitlines()[0]
    if "/" not in place:
        assert message.startswith(place)
    if how == "NaN" and what in ("adapter in a pool", "gate", "base model"):
        assert "holds NaN or infinity" in message


def foreign(shell: Shell, tensors: dict[str, torch.Tensor], **config: Any) -> None:
    """Write an adapter of somebody else's into `foreign`."""
    directory = shell.root / "foreign"
    directory.mkdir()
    save_file(tensors, directory / "adapter_model.safetensors")
    plain = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"], **config}
    (directory / "adapter_config.json").write_text(json.dumps(plain))


LAYER = "base_model.model.model.layers.0."
GOOD = {
    f"{LAYER}self_attn.q_proj.lora_A.weight": torch.ones(2, 64),
    f"{LAYER}self_attn.q_proj.lora_B.weight": torch.ones(64, 2),
}
KEY_A, KEY_B = GOOD
FOREIGN = {
    "unknown module": (
        {key.replace("self_attn.q_proj", "mlp.odd_proj"): value for key, value in GOOD.items()},
        {},
        "changes 'model.layers.0.mlp.odd_proj', which is not among",
    ),
    "another layer's shape": (
        {KEY_A: torch.ones(2, 32), KEY_B: GOOD[KEY_B]},
        {},
        "is for a 64 × 32 layer, and the model's is 64 × 64",
    ),
    "another rank": (GOOD, {"r": 4}, "not rank 4"),
    "no matrix": ({**GOOD, KEY_A: torch.ones(2)}, {}, "has shapes [2] and [64, 2]"),
    "A alone": ({KEY_A: GOOD[KEY_A]}, {}, "missing tensors"),
    "no tensors": ({}, {}, "holds no tensors"),
    "more tensors": ({**GOOD, f"{LAYER}input_layernorm.weight": torch.ones(64)}, {}, "unexpected tensor"),
    "infinity": ({**GOOD, KEY_A: GOOD[KEY_A] * torch.inf}, {}, "holds NaN or infinity"),
    "no LoRA": (GOOD, {"peft_type": "IA3"}, "not a plain LoRA of one rank: peft_type"),
    "DoRA": (GOOD, {"use_dora": True}, "not a plain LoRA of one rank: use_dora"),
    "ranks by layer": (GOOD, {"rank_pattern": {"q_proj": 4}}, "not a plain LoRA of one rank: rank_pattern"),
    "broken configuration": (
        GOOD,
        {"r": "two"},
        "adapter_config.json: AdapterConfig does not have the expected fields",
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_adapters(name: str, shell: Shell) -> None:
    tensors, config, says = FOREIGN[name]
    foreign(shell, tensors, **config)
    message = refused(shell("predict --adapter foreign --max-new-tokens 2"), DATA)
    assert message.startswith("foreign")
    assert says in message


def test_a_good_foreign_adapter_is_taken(shell: Shell) -> None:
    foreign(shell, GOOD)
    result = shell("predict --adapter foreign --max-new-tokens 2")
    assert (result.exit_code, result.stdout) == (0, "predictions/foreign.jsonl\t4 predictions\n")


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt"])
def test_pickles_are_never_opened(name: str, shell: Shell) -> None:
    trap = b"cos\nsystem\n(S'touch ran'\ntR."
    (shell.root / "pickled").mkdir()
    (shell.root / "pickled" / name).write_bytes(trap)
    message = refused(shell("predict --adapter pickled"), DATA)
    assert message.startswith(f"pickled: {name} is a pickle, which can run code")
    assert "Convert" in message
    assert not (shell.root / "ran").exists()


def test_a_pickled_base_model_is_refused(shell: Shell) -> None:
    shutil.copytree(shell.model, shell.root / "model")
    (shell.root / "model/model.safetensors").rename(shell.root / "model/pytorch_model.bin")
    message = refused(shell("predict --base --name n --task-adapter none --model model"), DATA)
    assert message.startswith("model: holds no safetensors file")


# Every kind of text that a command reads, and a command that reads it.
TEXTS = {
    "perpcs.toml": "predict --base --name n",
    "users.jsonl": "split --force",
    "data.json": "import data.json --out new.jsonl",
    "sharers.txt": "train-sharer --plain --dry-run --user @sharers.txt",
    "split.json": "status --verify",
    "task-adapter/adapter_config.json": "predict --base --name n",
    "sharers/SHARER/adapter_config.json": "pool build --force",
    "sharers/SHARER/sharer.json": "pool build --force",
    "pool.json": "pool list",
    "recipes/TARGET.json": "predict --recipes recipes --name n",
    "model/config.json": "predict --base --name n --task-adapter none --model model",
    "model/tokenizer.json": "predict --base --name n --task-adapter none --model model",
    "grid.toml": "sweep grid.toml --data users.jsonl --out out",
}
UNREADABLE = {
    "nested": b"[" * 100_000,
    "nested objects": b'{"a":' * 100_000,
    "nested tables": b"a = " + b"[" * 100_000,
    "digits": b'{"format": ' + b"9" * 5_000 + b"}",
    "digits in TOML": b"a = " + b"9" * 5_000,
    "half a character": b'{"format": "\\ud800"}',
    "no text": b"\xff\xfe\x00",
    "no object": b"7",
}


@pytest.mark.parametrize("place", TEXTS)
def test_unreadable_text(place: str, shell: Shell) -> None:
    shutil.copytree(shell.model, shell.root / "model")
    path = shell.root / named(shell, place)
    assert path.exists() or "/" not in place
    for how, content in UNREADABLE.items():
        path.write_bytes(content)
        result = shell(named(shell, TEXTS[place]))
        assert result.exit_code in (USAGE, DATA), (how, result.output)
        assert refused(result, result.exit_code)


@pytest.mark.parametrize("place", [".", "sharers"])
@pytest.mark.parametrize(
    "line",
    [
        "pool list --pool",
        "pool verify --pool",
        "pool revoke x --pool",
        "audit --pool",
        "assemble --force --pool",
        "retrieve --force --pool",
        "prime --force --pool",
        "mia --pool",
        "predict --name n --recipes recipes --pool",
    ],
)
def test_a_directory_is_no_pool(line: str, place: str, shell: Shell) -> None:
    before = shell.walk()
    assert refused(shell(f"{line} {place}"), DATA).startswith(f"{place}: is a directory, and no pool")
    assert shell.walk() == before
