"""The presets from `perpcs init` to the recipes: every step does what the preset states, and says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from shell import Shell

SHORT = "--plain --steps 1 --lr 1e-2"
LINES = (
    "init . --task news_headline --model {model} --device cpu --dtype float32 --preset {preset}",
    "synth --count 6 --history 4 --queries 1",
    "split --targets 1",
    f"train-sharer {SHORT}",
    f"gate {SHORT}",
    "pool build",
    "assemble --plain",
)


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
    tiny_dir: Path, tmp_path: Path, preset: str, init: str, dropout: float, schedule: str, merge: str, scoring: str
) -> None:
    shell = Shell(tmp_path, tiny_dir)
    for line in LINES:
        done = shell(line.format(model=tiny_dir, preset=preset))
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
    assert json.loads(recipe.read_bytes())["merge"] == merge
    starts = []
    for directory in (first, second):
        with safe_open(directory / "adapter_model.safetensors", "pt") as file:
            key = next(key for key in file.keys() if "lora_A" in key)  # noqa: SIM118
            starts.append(file.get_tensor(key).flatten())
    cosine = (starts[0] @ starts[1] / starts[0].norm() / starts[1].norm()).item()
    assert cosine > 0.9 if init == "shared" else abs(cosine) < 0.4
