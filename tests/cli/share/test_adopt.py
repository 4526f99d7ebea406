"""`perpcs adopt`: LoRAs that PEFT trained, from their directory to a recipe over a pool of several ranks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from shell import DATA, USAGE, Shell, refused
from transformers import AutoModelForCausalLM

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]
PATTERNS: dict[str, Any] = {
    "r": 2,
    "target_modules": ["q_proj", "v_proj"],
    "rank_pattern": {"model.layers.1.self_attn.q_proj": 6, "v_proj": 3},
    "alpha_pattern": {"v_proj": 5},
    "use_rslora": True,
}


def peft_lora(shell: Shell, name: str, **config: Any) -> Path:
    """A LoRA with random factors, made and saved by PEFT itself."""
    torch.manual_seed(len(name))
    plain = {"r": 3, "lora_alpha": 6, "target_modules": TARGETS, "task_type": "CAUSAL_LM", "init_lora_weights": False}
    base = AutoModelForCausalLM.from_pretrained(shell.model, dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(**{**plain, **config}))
    model.save_pretrained(shell.root / name)
    return shell.root / name


def logits(shell: Shell, adapter: Path) -> torch.Tensor:
    """What PEFT computes with an adapter on the plain base."""
    base = AutoModelForCausalLM.from_pretrained(shell.model, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(adapter)).eval()
    with torch.inference_mode():
        return model(input_ids=torch.arange(5, 45)[None]).logits


def others(shell: Shell) -> list[str]:
    """Two users who are neither sharers nor targets."""
    return shell.ids("base")[:2]


@pytest.mark.parametrize("config", [{}, PATTERNS, {"use_rslora": True, "lora_dropout": 0.1, "bias": "none"}])
def test_it_computes_what_peft_computes(shell: Shell, config: dict[str, Any]) -> None:
    theirs = peft_lora(shell, "theirs", **config)
    done = shell("adopt theirs --user somebody")
    assert done.exit_code == 0, done.stderr
    expected = logits(shell, theirs)
    assert torch.allclose(logits(shell, shell.root / "sharers/somebody"), expected, atol=1e-5)
    base = AutoModelForCausalLM.from_pretrained(shell.model, dtype=torch.float32)
    assert not torch.allclose(base(input_ids=torch.arange(5, 45)[None]).logits, expected, atol=1e-2)


def test_from_their_directory_to_a_recipe(shell: Shell) -> None:
    first, second = others(shell)
    peft_lora(shell, "one", r=9)
    peft_lora(shell, "two", **PATTERNS)
    line = f"adopt one two --user {first} --user {second}"
    assert shell(f"{line} --dry-run").stdout == f"{first}\tsharers/{first}\tto do\n{second}\tsharers/{second}\tto do\n"
    done = shell(line)
    assert done.stdout.splitlines() == [
        f"{first}\tsharers/{first}\trank 9\tscale 0.6667\t8 linear layers",
        f"{second}\tsharers/{second}\trank 6\tscale 1\t4 linear layers",
    ]
    assert "stands upon the task adapter task-adapter" in done.stderr
    assert "2 of 2 sharers are finished already" in shell(line).stderr
    card = json.loads((shell.root / "sharers" / second / "sharer.json").read_text())
    assert (card["examples"], card["steps"], card["first_loss"], card["privacy"]) == (None, None, None, None)
    assert card["adopted"]["unknown"] == ["training data", "settings", "seed", "privacy"]
    assert (card["adopted"]["rank"], card["adopted"]["pieces"]) == (6, 4)
    sharers = [*shell.ids("candidate"), first, second]
    for step in (
        f"gate --plain --steps 2 --lr 1e-1 --user {first} --user {second}",
        f"pool build --users {','.join(sharers)} --force",
        "pool verify",
        "assemble --plain --top-k 4 --force",
        "predict --recipes recipes --max-new-tokens 4 --force",
        f"predict --sharer {second} --name adopted --max-new-tokens 4",
        "audit",
    ):
        done = shell(step)
        assert done.exit_code == 0, f"{step}: {done.stderr}"
    manifest = json.loads((shell.root / "pool.json").read_text())
    assert manifest["rank"] == 9
    assert {one["user_id"]: one.get("rank") for one in manifest["sharers"]}[second] == 6
    used = {name for file in (shell.root / "recipes").iterdir() for name in json.loads(file.read_text())["sharers"]}
    assert used & {first, second}


def test_without_a_history_it_can_be_shared_and_not_gated(shell: Shell) -> None:
    peft_lora(shell, "stranger")
    done = shell("adopt stranger")
    assert done.stdout.startswith("stranger\tsharers/stranger\t")
    assert "stranger: users.jsonl has no such user, so it can be neither gated" in done.stderr
    assert refused(shell("gate --plain --steps 1 --user stranger"), USAGE).startswith("users.jsonl: no such user")
    assert shell("pool build --users stranger --no-gates --out theirs.json").exit_code == 0


def test_a_mia_says_that_it_does_not_know(shell: Shell) -> None:
    first, _ = others(shell)
    peft_lora(shell, "one")
    shell(f"adopt one --user {first}")
    mates = [first, *shell.ids("candidate")]
    assert shell(f"pool build --users {','.join(mates)} --no-gates --out both.json").exit_code == 0
    attacked = f"--target-sharer {mates[0]} --target-sharer {mates[1]}"
    done = shell(f"mia --pool both.json {attacked} --resamples 5 --max-items 2 --attacks loss")
    assert done.exit_code == 0, done.stderr
    assert f"warning: {first}: was adopted; nothing says what it was trained on" in done.stderr


def test_a_base_that_it_was_not_trained_on(shell: Shell) -> None:
    theirs = peft_lora(shell, "theirs")
    config = theirs / "adapter_config.json"
    config.write_text(config.read_text().replace(str(shell.model), "somebody/Another-7B"))
    assert "theirs: was trained on 'somebody/Another-7B' by its configuration" in shell("adopt theirs").stderr
    assert "by its configuration" not in shell("adopt theirs --force --quiet --model " + str(shell.model)).stdout


def test_what_is_there_stays(shell: Shell) -> None:
    peft_lora(shell, "one")
    sharer = shell.ids("candidate")[0]
    before = shell.walk()
    assert refused(shell(f"adopt one --user {sharer}"), DATA).startswith(
        f"sharers/{sharer}: is a sharer that was trained here"
    )
    (shell.root / "sharers/mine").mkdir()
    (shell.root / "sharers/mine/notes.txt").write_text("mine")
    for force in ("", "--force"):
        assert shell(f"adopt one --user mine {force}").exit_code in (USAGE, DATA)
    shutil.rmtree(shell.root / "sharers/mine")
    assert {name: data for name, data in shell.walk().items() if not name.endswith(".lock")} == before
    assert shell(f"adopt one --user {sharer} --force").exit_code == 0


def test_lines_that_cannot_be(shell: Shell) -> None:
    peft_lora(shell, "one")
    peft_lora(shell, "wide", target_modules=["q_proj", "down_proj"])
    for line, says, code in (
        ("adopt one --user a --user b", "--user: names 2 users, and there are 1 adapters", USAGE),
        ("adopt one wide --user a --user a", "--user: two adapters of 'a'", USAGE),
        ("adopt one --user ../a", "--user: '../a' cannot name a file", USAGE),
        (f"adopt sharers/{shell.ids('candidate')[0]}", "sharers/", DATA),
        ("adopt wide", "wide: the adapter changes 'model.layers.0.mlp.down_proj'", DATA),
        ("adopt wide --dry-run", "wide: the adapter changes 'model.layers.0.mlp.down_proj'", DATA),
        ("adopt nowhere", "nowhere: no such directory", DATA),
        ("adopt users.jsonl", "users.jsonl: no such directory", DATA),
        ("adopt splits", "splits: holds no adapter_model.safetensors", DATA),
    ):
        assert refused(shell(line), code).startswith(says)


def test_a_pool_of_copies_of_another_scale_is_not_finished(shell: Shell) -> None:
    theirs = peft_lora(shell, "one")
    build = "pool build --users one --no-gates --no-embeddings --pseudonymize --out copies.json"
    assert shell("adopt one").exit_code == 0
    assert shell(build).exit_code == 0
    assert "copies.json is finished already" in shell(build).stderr
    config = theirs / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 6', '"lora_alpha": 12'))
    assert shell("adopt one --force").exit_code == 0
    assert "already exists, of other sharers or of what they gave before" in refused(shell(build), USAGE)
