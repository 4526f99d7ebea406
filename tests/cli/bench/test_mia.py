"""`perpcs bench mia` on the tiny model: the engine says what the loop says, and the figures that it promises."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from perpcs_cli.artifacts.users import User, write_users
from perpcs_cli.cli.main import app
from perpcs_cli.experiments.benchmarks.mia import make_recipes

SMALL = ["--targets", "3", "--examples", "5", "--pool-size", "4", "--dtype", "float32", "--device", "cpu"]


@pytest.fixture
def bench(tiny_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, ["bench", "mia", "--model", str(tiny_dir), *SMALL, *words])


def test_the_engine_says_what_the_loop_says(bench):
    done = bench("--json")
    assert done.exit_code == 0, done.output
    times = json.loads(done.stdout)
    assert times["identical"] < 1e-4
    assert (times["targets"], times["examples"], times["sharers"]) == (3, 5, 4)
    assert times["tokens"] > times["answer_tokens"] > 5
    assert min(times["engine_s"], times["loop_s"], times["loop_shared_reference_s"]) > 0


def test_it_says_how_much_faster(bench):
    done = bench("--targets", "1")
    assert done.exit_code == 0, done.output
    assert "x engine" in done.stdout and "1 targets x 5 examples" in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--task", "movie_tagging"], 2, "the synthetic users have news headlines, and the task is movie_tagging"),
        (["--users-file", "few.jsonl"], 3, "the users have fewer than 5 history items"),
    ],
)
def test_errors(bench, tmp_path, words, code, message):
    write_users(tmp_path / "few.jsonl", [User(user_id="u", history=[{"id": "1", "text": "x", "title": "y"}])])
    done = bench(*words)
    assert done.exit_code == code, done.output
    assert message in done.stderr


def test_recipes_are_drawn_by_seed():
    modules = ["a", "b", "c"]
    found = make_recipes(modules, 4, 5, seed=0)
    assert found == make_recipes(modules, 4, 5, seed=0) != make_recipes(modules, 4, 5, seed=1)
    assert all(len(mix) == 3 and sum(w for _, w in mix) == pytest.approx(1) for one in found for mix in one.values())
