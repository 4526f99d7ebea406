"""`--quantize 4bit` and number types that are not for training, from the command line."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from shell import DATA, RUNTIME, USAGE, Shell, named, refused

from perpcs_cli.model.loading import four_bit

FOUR = "--quantize 4bit"
bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="needs the package bitsandbytes"
)


@pytest.mark.parametrize("command", ["adapt --plain --steps 1", "train-sharer --plain --steps 1", "gate --plain"])
def test_float16_is_not_for_training(walked: Shell, command: str) -> None:
    text = refused(walked(f"{command} --force --dtype float16"), USAGE)
    assert "float16 is not for training" in text
    assert "--dtype bfloat16 or float32" in text


def test_float16_runs(shell: Shell) -> None:
    result = shell("predict --base --max-new-tokens 2 --dtype float16 --out half.jsonl --quiet --json")
    assert result.exit_code == 0, result.stderr


def test_without_bitsandbytes(walked: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(four_bit.importlib.util, "find_spec", lambda name: None)
    text = refused(
        walked(named(walked, f"train-sharer --user SHARER --out elsewhere --plain --steps 1 {FOUR}")), RUNTIME
    )
    assert "bitsandbytes, which is not installed" in text
    assert "pip install 'perpcs[4bit]'" in text


def test_the_adapted_weights_cannot_be_saved(walked: Shell) -> None:
    text = refused(walked(f"adapt --plain --steps 1 --out elsewhere --save-merged elsewhere-merged {FOUR}"), USAGE)
    assert "cannot be merged into weights in 4 bits" in text


@bitsandbytes
def test_artifacts_of_another_base_are_refused(shell: Shell) -> None:
    text = refused(shell(f"predict --recipes recipes --max-new-tokens 2 --out small.jsonl {FOUR}"), DATA)
    assert "--quantize none; this is --quantize 4bit" in text
    refused(shell(f"predict --recipes recipes --max-new-tokens 2 --out small.jsonl --task-adapter none {FOUR}"), DATA)


@bitsandbytes
def test_the_whole_path(shell: Shell, tmp_path: Path) -> None:
    small = Shell(tmp_path / "small", shell.model)
    small.root.mkdir()
    assert small.step("init", FOUR).exit_code == 0
    assert 'quantize = "4bit"' in (small.root / "perpcs.toml").read_text()
    for name in ("synth", "split"):
        assert small.step(name).exit_code == 0
    result = small("adapt --plain --steps 2 --lr 1e-2")
    assert result.exit_code == 0, result.stderr
    for name in ("train-sharer", "gate", "pool build", "assemble", "predict recipes"):
        result = small.step(name)
        assert result.exit_code == 0, result.stderr
    card = json.loads(next((small.root / "recipes").glob("*.json")).read_text())
    assert card["provenance"]["settings"]["quantize"] == "4bit"
    pytest.importorskip("opacus")
    result = small(named(small, "train-sharer --user SHARER --plain --steps 2 --out private --dp-epsilon 8"))
    assert result.exit_code == 0, result.stderr
    # In 4 bits or not, a finished command has nothing left to do.
    again = small.step("predict recipes")
    assert again.exit_code == 0, again.stderr
