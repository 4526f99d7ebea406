"""`perpcs bench train`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from shell import DATA, Shell, refused

LINE = "bench train --items 4 --sharer-count 2 --repeats 1 --batch-size 3 --device cpu"


@pytest.fixture
def bare(tmp_path: Path, tiny_dir: Path) -> Shell:
    return Shell(tmp_path, tiny_dir)


def test_it_measures(bare: Shell) -> None:
    results = [bare(f"{LINE} --json --model {bare.model} {more}") for more in ("", "--steps 2")]
    once, twice = (json.loads(result.stdout) for result in results)
    assert (once["sharers"], once["steps"], once["device"], once["peak_mb"]) == (2, 1, "cpu", None)
    for name in ("together", "alone", "limit"):
        assert once[f"{name}_s"] > 0
        assert once[f"{name}_cpu_s"] > 0
    assert 0 < once["answer_tokens"] < once["tokens"] < twice["tokens"]
    assert not list(bare.root.iterdir())


def test_it_says_how_it_compares(bare: Shell) -> None:
    lines = bare(f"{LINE} --model {bare.model}").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["together", "alone", "products", "in"]


def test_too_few_users_are_said(walked: Shell) -> None:
    message = refused(walked("bench train --users-file users.jsonl --items 5000"), DATA)
    assert "0 users have 5000 history items, not 8" in message
