"""`perpcs doctor`: what it prints, and its exit status."""

from __future__ import annotations

import json

import pytest
from shell import USAGE, Shell, refused

from perpcs_cli.experiments.checks import self_test
from perpcs_cli.steps.inspect import doctor


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "HUB_SECONDS", 0.1)


def test_it_says_what_is_there(walked: Shell) -> None:
    done = walked("doctor --no-self-test", PERPCS_SEEED="1")
    assert done.exit_code == 0, done.stderr
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    assert "needs >=2.6" in rows["torch"] and " ok " in rows["torch"]
    assert "news_headline" in rows["workspace"]
    assert "no variable of perpcs" in rows["PERPCS_SEEED"]
    assert "self-test" not in rows


def test_the_self_test_is_in_it(walked: Shell) -> None:
    done = walked("doctor --json --device cpu")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["self_test"]["ok"] and len(found["self_test"]["checks"]) == 1 + len(self_test.PATH)
    assert json.loads(walked("doctor --json --no-self-test").stdout)["self_test"] is None


def test_the_exit_status_is_1_where_it_fails(walked: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: object) -> str:
        raise RuntimeError("no kernel image")

    monkeypatch.setitem(self_test.PATH, "train-sharer", broken)
    done = walked("doctor --format markdown")
    assert done.exit_code == 1
    assert "| test: train-sharer | failed | RuntimeError: no kernel image |" in done.stdout
    assert "self-test failed at train-sharer" in done.stderr


def test_a_form_and_json_are_refused(walked: Shell) -> None:
    assert "--format and --json" in refused(walked("doctor --json --format csv"), USAGE)
