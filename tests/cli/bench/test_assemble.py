"""`perpcs bench`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from shell import USAGE, Shell, refused

LINE = "bench assemble --items 3 --pool-size 2 --repeats 1"


@pytest.fixture
def bare(tmp_path: Path, tiny_dir: Path) -> Shell:
    return Shell(tmp_path, tiny_dir)


def test_it_measures(bare: Shell) -> None:
    result = bare(f"{LINE} --device cpu --json --model {bare.model}")
    assert result.exit_code == 0, result.stderr
    times = json.loads(result.stdout)
    assert (times["items"], times["sharers"], times["device"], times["dtype"]) == (3, 2, "cpu", "float32")
    for key in ("assemble_s", "forward_s", "oppu_s", "recipe_bytes", "adapter_bytes", "tokens"):
        assert times[key] > 0, key
    assert times["recipe_bytes"] < times["adapter_bytes"]
    assert not list(bare.root.iterdir())


def test_training_can_be_left_out(bare: Shell) -> None:
    result = bare(f"{LINE} --skip-oppu --device cpu --model {bare.model}")
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["assemble", "adapter"]


def test_it_runs_in_a_workspace_on_its_users(walked: Shell) -> None:
    result = walked(f"{LINE} --skip-oppu --users-file users.jsonl --json")
    assert (result.exit_code, json.loads(result.stdout)["oppu_s"]) == (0, None)


def test_the_synthetic_user_has_headlines_only(bare: Shell) -> None:
    message = refused(bare(f"{LINE} --task LaMP_2M --model {bare.model}"), USAGE)
    assert "--users-file" in message
