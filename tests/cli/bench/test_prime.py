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
    # The sharers' base is the only one.
    (times,) = json.loads(done.stdout)
    assert times["base"] == "plain"
    assert times["identical"] == 1.0
    assert 0 <= times["ended"] <= 1
    assert set(times["without_s"]) == {"drafts", "prefix", "population", "all"}
    assert (times["candidates"], times["items"], times["sharers"]) == (4, 3, 3)
    assert 12 <= times["new_tokens"] <= 4 * 3 * 6
    assert min(times["engine_s"], times["prefill_s"], times["peft_s"], *times["without_s"].values()) > 0
    assert "other" not in done.stderr


def test_trains_sharers_once_and_leaves_peft_out(bench):
    first, second = (bench("--skip-peft", "--without", "drafts, prefix", "--json") for _ in range(2))
    assert first.exit_code == second.exit_code == 0, first.output
    # On the plain base and on the adapted one, and the adapter itself.
    assert first.stderr.count("training ") == 3
    assert first.stderr.count("training task-adapter for 24 steps") == 1
    assert "training" not in second.stderr
    found = json.loads(second.stdout)
    assert [times["base"] for times in found] == ["plain", "adapted"]
    for times in found:
        assert (times["peft_s"], times["identical"], times["without"]) == (None, None, ["drafts", "prefix"])
        assert times["drafted_tokens"] == 0
    assert found[0]["new_tokens"] != found[1]["new_tokens"] or found[0]["ended"] == found[1]["ended"] == 0


def test_a_table_for_people(bench):
    done = bench("--skip-peft", "--candidates", "2")
    assert done.exit_code == 0, done.output
    plain, engine, adapted, again = done.stdout.splitlines()
    assert plain.startswith("plain base: answers of ") and plain.endswith("% of them end")
    assert adapted.startswith("adapted base: answers of ")
    assert "x prefill" in engine and "x prefill" in again


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
