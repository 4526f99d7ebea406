"""`perpcs bench prime` on the tiny model: same answers as PEFT, and the figures that it promises."""

from __future__ import annotations

import json

import pytest
from helpers import write_sharer
from typer.testing import CliRunner

from perpcs_cli.cli.main import app
from perpcs_cli.experiments.benchmarks.prime import BOUND, POPULATION, make_candidates

runner = CliRunner()
SMALL = ["--candidates", "4", "--items", "3", "--max-new-tokens", "6", "--dtype", "float32", "--device", "cpu"]


@pytest.fixture
def bench(tiny_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERPCS_CACHE", str(tmp_path / "cache"))
    return lambda *words: runner.invoke(app, ["bench", "prime", "--model", str(tiny_dir), *SMALL, *words])


def test_the_engine_says_what_peft_says(bench, tiny, tmp_path):
    for number in range(3):
        write_sharer(tmp_path / "sharers" / f"s{number}", tiny, number)
    done = bench("--sharers", "sharers", "--ablate", "--json")
    assert done.exit_code == 0, done.output
    times = json.loads(done.stdout)
    assert times["identical"] == 1.0
    assert set(times["without_s"]) == {"drafts", "prefix", "population", "all"}
    assert (times["candidates"], times["items"], times["sharers"]) == (4, 3, 3)
    assert 12 <= times["new_tokens"] <= 4 * 3 * 6
    assert min(times["engine_s"], times["prefill_s"], times["peft_s"], *times["without_s"].values()) > 0
    assert "other" not in done.stderr


def test_trains_sharers_once_and_leaves_peft_out(bench):
    first, second = (bench("--skip-peft", "--without", "drafts, prefix", "--json") for _ in range(2))
    assert first.exit_code == second.exit_code == 0, first.output
    assert "training 3 sharers" in first.stderr
    assert "training 3 sharers" not in second.stderr
    times = json.loads(second.stdout)
    assert (times["peft_s"], times["identical"], times["without"]) == (None, None, ["drafts", "prefix"])
    assert times["drafted_tokens"] == 0


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--without", "drafts,magic"], 2, "no such technique: 'magic'"),
        (["--task", "movie_tagging"], 2, "the synthetic users have news headlines, and the task is movie_tagging"),
        (["--sharers", "nobody"], 3, "nobody: holds 0 sharers, and 3 are needed"),
    ],
)
def test_errors(bench, words, code, message):
    done = bench(*words)
    assert done.exit_code == code, done.output
    assert message in done.stderr


def test_candidates_are_those_of_a_search():
    """Within the bounds, around means that move; the same seed gives the same ones, and fewer the first of them."""
    found = make_candidates(3 * POPULATION, 2, seed=0)
    assert found == make_candidates(3 * POPULATION, 2, seed=0) != make_candidates(3 * POPULATION, 2, seed=1)
    assert found[:5] == make_candidates(5, 2, seed=0)
    assert all(-BOUND <= weight <= BOUND for candidate in found for weight in candidate)
