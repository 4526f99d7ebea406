"""`perpcs bench host` on a small pass."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from perpcs_cli.cli.main import app

SMALL = ["bench", "host", "--pass-rows", "6", "--pool-size", "5", "--modules", "9", "--passes", "3"]


def test_it_measures_planner_and_router_of_three_kinds_of_passes():
    done = CliRunner().invoke(app, [*SMALL, "--json"])
    assert done.exit_code == 0, done.output
    times = json.loads(done.stdout)
    assert (times["rows"], times["sharers"], times["modules"]) == (6, 5, 9)
    for kind in ("enters", "drafts", "same"):
        assert min(times[kind].values()) > 0
        assert set(times[kind]) == {"planner_ms", "router_ms", "layers_ms"}
    assert times["same"]["router_ms"] < times["enters"]["router_ms"]


def test_it_shows_a_table():
    done = CliRunner().invoke(app, SMALL)
    assert done.exit_code == 0, done.output
    assert [line.split("  ")[0] for line in done.stdout.splitlines()] == [
        "milliseconds of a pass",
        "a recipe enters",
        "only drafts change",
        "nothing changes",
    ]


@pytest.mark.parametrize("flag", ["--pass-rows", "--modules", "--passes", "--pool-size"])
def test_numbers_are_positive(flag):
    done = CliRunner().invoke(app, [*SMALL, flag, "0"])
    assert done.exit_code == 2
    assert flag in done.stderr
