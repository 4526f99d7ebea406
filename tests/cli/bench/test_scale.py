"""`perpcs bench scale` on a handful of sharers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from shell import USAGE, Shell, refused

STEPS = [
    "import",
    "pool build",
    "pool build, finished",
    "pool build, known",
    "similar",
    "retrieve",
    "assemble",
    "assemble, finished",
    "one user",
    "one user, again",
    "one packed recipe",
    "one recipe, again",
    "audit",
    "pool revoke",
    "pool revoke, packed",
]


def test_it_measures_each_step_at_each_size(tmp_path: Path, tiny_dir: Path) -> None:
    bare = Shell(tmp_path, tiny_dir)
    result = bare("bench scale --pool-sizes 6 --targets 1 --items 2 --json")
    assert result.exit_code == 0, result.stderr
    costs = json.loads(result.stdout)
    assert (list(costs["sizes"]), costs["targets"], costs["items"], costs["imported"]) == (["6"], 1, 2, {"6": 60})
    assert list(costs["sizes"]["6"]) == STEPS
    for cost in (costs["start"], *costs["sizes"]["6"].values()):
        assert cost["seconds"] > 0
        assert cost["cpu_seconds"] > 0
        assert cost["peak_mb"] > 10
    # Every step is a process of its own: what one holds is not counted for the next.
    assert costs["sizes"]["6"]["import"]["peak_mb"] < costs["start"]["peak_mb"]
    assert not list(bare.root.iterdir())


@pytest.mark.parametrize("sizes", ["5", "50,many", "''", "-6"])
def test_sizes_are_numbers_of_sharers(sizes: str, tmp_path: Path, tiny_dir: Path) -> None:
    assert "--pool-sizes" in refused(Shell(tmp_path, tiny_dir)(f"bench scale --pool-sizes {sizes}"), USAGE)
