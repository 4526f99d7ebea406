"""The presets from `perpcs init` to the recipes: every step does what the preset states, and says so."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from shell import RUNTIME, Shell, refused

SHORT = "--plain --steps 1 --lr 1e-2"
LINES = (
    "init . --task news_headline --model {model} --device cpu --dtype float32 --preset {preset}",
    "synth --count 6 --history 4 --queries 1",
    "split --targets 1",
    f"train-sharer {SHORT}",
    f"gate {SHORT}",
    "pool build",
    "assemble --plain",
    "predict --recipes recipes",
    "embed --encoder {model}",
)
PRIME = "prime --similar 2 --budget 3"
ANSWERS = {"PERPCS_PREDICT_MAX_NEW_TOKENS": "4"}


def settings_of(content: str | bytes) -> dict[str, Any]:
    """What a card's provenance says of the settings."""
    found: dict[str, Any] = json.loads(content)["provenance"]["settings"]
    return found


@pytest.mark.parametrize(
    ("preset", "init", "dropout", "schedule", "merge", "scoring"),
    [
        ("perpcs", "shared", 0.0, "linear", "product", "published"),
        ("paper", "shared", 0.0, "linear", "product", "paper"),
        ("published-code", "own", 0.05, "cosine", "factor", "published"),
    ],
)
def test_a_preset_holds_in_every_step(
    tiny_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    preset: str,
    init: str,
    dropout: float,
    schedule: str,
    merge: str,
    scoring: str,
) -> None:
    monkeypatch.setitem(sys.modules, "nevergrad", None)
    shell = Shell(tmp_path, tiny_dir)
    for line in LINES:
        done = shell(line.format(model=tiny_dir, preset=preset), **ANSWERS)
        assert done.exit_code == 0, done.stderr
    first, second = (tmp_path / "sharers" / name for name in shell.ids("candidate")[:2])
    lora = settings_of((first / "sharer.json").read_bytes())
    assert (lora["lora"]["init"], lora["train"]["schedule"]) == (init, schedule)
    with safe_open(first / "gate.safetensors", "pt") as file:
        gate = settings_of(file.metadata()["perpcs"])["gate"]
    assert (gate["dropout"], gate["schedule"]) == (dropout, schedule)
    (recipe,) = (tmp_path / "recipes").glob("*.json")
    assembled = settings_of(recipe.read_bytes())["assemble"]
    assert (assembled["merge"], assembled["scoring"]) == (merge, scoring)
    code = preset == "published-code"
    assert assembled["shuffle"] is code
    predicted = settings_of((tmp_path / "predictions" / "per-pcs.meta.json").read_bytes())["predict"]
    assert (predicted["temperature"], predicted["top_p"]) == ((0.1, 0.9) if code else (0.0, 1.0))
    assert json.loads(recipe.read_bytes())["merge"] == merge
    starts = []
    for directory in (first, second):
        with safe_open(directory / "adapter_model.safetensors", "pt") as file:
            key = next(key for key in file.keys() if "lora_A" in key)  # noqa: SIM118
            starts.append(file.get_tensor(key).flatten())
    cosine = (starts[0] @ starts[1] / starts[0].norm() / starts[1].norm()).item()
    assert cosine > 0.9 if init == "shared" else abs(cosine) < 0.4
    searches_as(shell, code)


def searches_as(shell: Shell, code: bool) -> None:
    """Without nevergrad the published code's search alone is refused, says what to do, and another optimizer does."""
    done = shell(PRIME, **ANSWERS)
    if code:
        message = refused(done, RUNTIME)
        assert "'nevergrad-cma' needs nevergrad, which is not installed" in message
        assert "pip install 'perpcs[nevergrad]', or take --optimizer cma" in message
        done = shell(f"{PRIME} --optimizer cma", **ANSWERS)
    assert done.exit_code == 0, done.stderr
    (recipe,) = (shell.root / "recipes-prime").glob("*.json")
    searched = settings_of(recipe.read_bytes())["prime"]
    assert (searched["prompts"], searched["ties"]) == (("both", "candidate") if code else ("once", "base"))
