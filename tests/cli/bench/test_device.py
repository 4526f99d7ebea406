"""`perpcs bench device` with a tiny model."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from shell import USAGE, Shell, refused

WORKS = ["read", "decode", "train", "train_together", "assemble"]


@pytest.fixture
def bare(tmp_path: Path, tiny_dir: Path) -> Shell:
    return Shell(tmp_path, tiny_dir)


@pytest.mark.parametrize(
    "quantize",
    [
        "none",
        pytest.param(
            "4bit",
            marks=pytest.mark.skipif(
                importlib.util.find_spec("bitsandbytes") is None, reason="needs the package bitsandbytes"
            ),
        ),
    ],
)
def test_every_work_is_beside_its_limit(bare: Shell, quantize: str) -> None:
    result = bare(f"bench device --device cpu --dtype float32 --quantize {quantize} --json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["device"], found["shape"], found["dtype"], found["quantize"]) == ("cpu", "tiny", "float32", quantize)
    assert found["operations"] > 1e6
    assert found["bandwidth"] > 1e6
    assert list(found["rates"]) == WORKS
    for rate in found["rates"].values():
        assert rate["tokens_per_second"] > 0
        assert rate["share"] == pytest.approx(rate["tokens_per_second"] / rate["limit"])
        assert rate["peak_gib"] is None
    assert not list(bare.root.iterdir())


def test_it_prints_a_table(bare: Shell) -> None:
    result = bare("bench device --device cpu")
    assert result.exit_code == 0, result.stderr
    head, measured, *lines = result.stdout.splitlines()
    assert head.startswith("tiny, 0.1 million random weights, ")
    assert "TFLOP/s" in measured
    assert [line.split()[0] for line in lines[2:]] == WORKS


def test_it_trains(bare: Shell) -> None:
    assert "float16 is not for training" in refused(bare("bench device --device cpu --dtype float16"), USAGE)


def test_a_shape_that_is_not_known(bare: Shell) -> None:
    assert "--shape" in refused(bare("bench device --shape enormous"), USAGE)
