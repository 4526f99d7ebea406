"""`perpcs plan`: a table of a sweep's steps, with tokens from data or from typical users."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from shell import DATA, USAGE, Shell, refused

ROOT = Path(__file__).parents[3]
CONFIGS = sorted((ROOT / "examples" / "configs").glob("llama*.toml"))
CONFIG = """
format = "perpcs.sweep/1"
task = "news_headline"
model = "{model}"
{data}
[steps]
split = {{ targets = 2 }}
adapt = {{ plain = true, steps = 2 }}
train-sharer = {{ plain = true, steps = 2 }}
gate = {{ plain = true, steps = 2 }}
[[experiment]]
name = "main"
method = ["base", "per-pcs", "oppu"]
[[experiment]]
name = "top-k"
method = "per-pcs"
assemble = {{ top-k = [1, 2] }}
[[experiment]]
name = "alpha"
method = "prime"
prime = {{ alpha = [0.5, 1.0], budget = 9 }}
[plan]
targets = 3
"""


@pytest.fixture
def here(tmp_path: Path, tiny_dir: Path) -> Shell:
    return Shell(tmp_path, tiny_dir)


def write(shell: Shell, data: str = "") -> None:
    (shell.root / "sweep.toml").write_text(CONFIG.format(model=shell.model, data=data))


def planned(shell: Shell, line: str = "") -> dict[str, Any]:
    result = shell(f"plan sweep.toml --json {line}")
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def named(found: dict[str, Any], step: str) -> list[dict[str, Any]]:
    return [one for one in found["steps"] if one["step"] == step]


def test_steps_that_cells_share_are_planned_once(here: Shell) -> None:
    write(here)
    found = planned(here)
    assert len(named(found, "adapt")) == len(named(found, "train-sharer")) == len(named(found, "gate")) == 1
    # The top-k of the published settings is 1: one of the two is that of the first experiment.
    assert [one["of"] for one in named(found, "assemble")] == [
        ["main per-pcs seed=0", "top-k per-pcs seed=0 assemble.top-k=1"],
        ["top-k per-pcs seed=0 assemble.top-k=2"],
    ]
    assert found["total"]["tokens"] == pytest.approx(sum(one["tokens"] for one in found["steps"]))
    assert found["total"]["peak"] == max(one["peak"] for one in found["steps"])


def test_a_second_alpha_shares_the_first_generation(here: Shell) -> None:
    write(here)
    first, second = named(planned(here), "prime")
    assert 0 < second["tokens"] < first["tokens"]


def test_the_table_says_what_it_rests_on(here: Shell) -> None:
    write(here)
    result = here("plan sweep.toml --device-profile l4")
    assert result.exit_code == 0, result.stderr
    assert (
        "no data: users as [plan] says, else as Tan et al. (2024), arXiv:2406.10471, Table 4 says of news_headline "
        "(base_users 100, targets 3, candidates 200, items 31, target_items 156, queries 39, "
    ) in result.stdout
    assert "device: l4, bfloat16; 121 TFLOP/s of the data sheet, of which training reaches 35%" in result.stdout
    assert "24 GB" in result.stdout


def test_data_is_counted_with_the_models_tokenizer(here: Shell) -> None:
    assert here("synth --count 8 --history 4 --queries 2 --out data.jsonl").exit_code == 0
    write(here, 'data = "data.jsonl"')
    found = planned(here, "--dtype float32")
    assert found["assumptions"][0].startswith("tokens are counted in the data")
    (oppu,) = named(found, "oppu")
    assert oppu["users"] == 2
    assert named(planned(here, "--data data.jsonl --experiment top-k"), "oppu") == []


def test_the_sizes_on_disk_are_those_of_the_real_path(here: Shell, walked: Shell) -> None:
    assert here("synth --count 8 --history 4 --queries 2 --out data.jsonl").exit_code == 0
    write(here, 'data = "data.jsonl"')
    found = planned(here)
    (trained,) = named(found, "train-sharer")
    files = list((walked.root / "sharers").glob("*/adapter_model.safetensors"))
    assert trained["users"] == len(files) == 4
    # Of so small a model the headers are a good part.
    assert trained["disk"] == pytest.approx(sum(file.stat().st_size for file in files), rel=0.05)


def test_measuring_gives_this_machines_rates(here: Shell) -> None:
    write(here)
    found = planned(here, "--measure --dtype float32 --device cpu --experiment main")
    assert found["device"]["name"] == "this machine"
    assert all(found["device"][rate] > 0 for rate in ("train", "read", "decode", "load"))
    assert found["total"]["seconds"] > 0


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_the_full_size_configs_fit_24_gb(here: Shell, config: Path) -> None:
    result = here(f"plan {config} --device-profile rtx-4090 --json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["total"]["fits"] == "24 GB"


def test_the_full_size_configs_are_there() -> None:
    assert [path.stem for path in CONFIGS] == ["llama-2-7b", "llama-3.1-8b", "llama-3.2-3b"]


def test_errors(here: Shell) -> None:
    assert "no such file" in refused(here("plan none.toml"), DATA).lower()
    write(here)
    assert "unknown experiment 'mian'" in refused(here("plan sweep.toml --experiment mian"), USAGE)
    assert "not known" in refused(here("plan sweep.toml --model nobody/nothing"), 1)
    (here.root / "sweep.toml").write_text(CONFIG.format(model=here.model, data="") + "items = 0\n")
    assert "plan.items is too small: 0" in refused(here("plan sweep.toml"), USAGE)
