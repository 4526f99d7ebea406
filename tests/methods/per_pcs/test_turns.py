"""Passes side by side: stage after stage, whatever one of them does."""

from __future__ import annotations

import threading

import pytest

from perpcs_cli.methods.per_pcs.turns import in_turns


def work(told, name, stages, fails_at=None):
    def run(next_stage):
        for stage in range(stages):
            if stage == fails_at:
                raise OSError(f"{name} at {stage}")
            told.append((stage, name))
            next_stage()
        return name

    return run


@pytest.mark.parametrize("names", ["a", "ab", "abcde"])
def test_none_begins_a_stage_before_all_have_ended_the_one_before(names):
    told = []
    assert in_turns([work(told, name, 4) for name in names]) == list(names)
    assert told == [(stage, name) for stage in range(4) for name in names]


def test_some_may_end_before_the_others():
    told = []
    assert in_turns([work(told, name, stages) for name, stages in (("a", 1), ("b", 3), ("c", 0))]) == ["a", "b", "c"]
    assert told == [(0, "a"), (0, "b"), (1, "b"), (2, "b")]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_one_that_fails_stops_the_others(which):
    told, before = [], threading.active_count()
    with pytest.raises(OSError, match=f"{'abc'[which]} at 2"):
        in_turns([work(told, name, 5, 2 if at == which else None) for at, name in enumerate("abc")])
    assert len(told) == 6 + which
    assert threading.active_count() == before
