"""The paired test on cells' predictions, and users by activity."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perpcs_cli.artifacts.metrics import Difference, Interval
from perpcs_cli.experiments.tables.significance import Scored, by_activity, differences, stars
from perpcs_cli.tasks.metrics import per_example
from perpcs_cli.tasks.spec import get_task

TASK = get_task("product_rating")
USERS = [f"u{n}" for n in range(10)]


def scored(answers: list[str], seed: int = 0, users: list[str] = USERS) -> Scored:
    """Each user's two queries, whose references are 4 and 2, answered alike."""
    keys = [(seed, user, f"q{n}") for user in users for n in range(2)]
    return Scored(TASK, keys, per_example(TASK, answers * len(users), ["4", "2"] * len(users)))


def difference(value: float, p: float) -> Difference:
    return Difference(value=value, interval=Interval(low=value, high=value), p=p)


def test_a_planted_difference_is_found_and_equal_systems_are_equal() -> None:
    systems = {"base": scored(["5", "3"]), "better": scored(["4", "3"]), "same": scored(["3", "1"])}
    found, apart = differences(systems, "base", resamples=999, seed=0)
    assert set(found) == {"better", "same"}
    mae = found["better"]["mae"]
    assert (mae.value, mae.interval.low, mae.interval.high, mae.p) == (-0.5, -0.5, -0.5, 2 / 1000)
    assert found["same"]["mae"] == difference(0.0, 1.0)
    assert apart == []


def test_the_order_of_answers_does_not_matter() -> None:
    noisy = scored(["4", "3"])
    noisy.rows[:5] = per_example(TASK, ["1"] * 5, ["4"] * 5)
    turned = Scored(TASK, noisy.keys[::-1], noisy.rows[::-1])
    base = scored(["5", "3"])
    assert differences({"base": base, "x": noisy}, "base", resamples=50, seed=1) == differences(
        {"base": base, "x": turned}, "base", resamples=50, seed=1
    )


def test_who_answered_other_queries_is_not_compared() -> None:
    systems = {"base": scored(["5", "3"]), "few": scored(["4", "2"], users=USERS[:5]), "x": scored(["4", "2"], seed=1)}
    assert differences(systems, "base", resamples=10, seed=0) == ({}, ["few", "x"])


def test_one_user_is_no_sample() -> None:
    systems = {"base": scored(["5", "3"], users=["u0"]), "x": scored(["4", "2"], users=["u0"])}
    assert differences(systems, "base", resamples=10, seed=0) == ({}, [])


@pytest.mark.parametrize(
    ("value", "p", "larger_is_better", "either_way", "found"),
    [
        (0.1, 0.004, True, False, "**"),
        (0.1, 0.04, True, False, "*"),
        (0.1, 0.05, True, False, ""),
        (-0.1, 0.004, True, False, ""),
        (-0.1, 0.004, True, True, "**"),
        (-0.1, 0.004, False, False, "**"),
        (0.1, 0.04, False, False, ""),
        (0.0, 1.0, False, True, ""),
    ],
)
def test_stars(value, p, larger_is_better, either_way, found) -> None:
    assert stars(value, p, larger_is_better=larger_is_better, either_way=either_way) == found


def test_activity_by_bins_and_by_quartiles() -> None:
    lengths = {"a": 3, "b": 10, "c": 11, "d": 70, "e": 71}
    assert by_activity(lengths, [10, 50, 70]) == {"0-10": {"a", "b"}, "51-70": {"d"}, "71+": {"e"}, "11-50": {"c"}}
    assert list(by_activity(lengths, [10, 50])) == ["0-10", "11-50", "51+"]
    assert by_activity(lengths) == {"3-10": {"a", "b"}, "11": {"c"}, "70": {"d"}, "71": {"e"}}
    assert by_activity({"a": 5, "b": 5}) == {"5": {"a", "b"}}


@given(
    st.dictionaries(st.text(min_size=1, max_size=3), st.integers(0, 50), min_size=1),
    st.none() | st.lists(st.integers(0, 50), min_size=1, unique=True).map(sorted),
)
def test_every_user_is_in_one_group_and_groups_do_not_overlap(lengths, bins) -> None:
    groups = by_activity(lengths, bins)
    assert sorted(user for users in groups.values() for user in users) == sorted(lengths)
    ranges = [sorted(lengths[user] for user in users) for users in groups.values()]
    assert all(a[-1] < b[0] for a, b in pairwise(ranges))
    assert all(ranges)


def test_metrics_of_a_part() -> None:
    whole = Scored(TASK, scored(["5", "2"]).keys, scored(["5", "2"]).rows)
    whole.rows[0] = per_example(TASK, ["1"], ["4"])[0]
    assert whole.of({"u0"}).metrics() == {"mae": 1.5, "rmse": np.sqrt(4.5)}
    assert whole.of({"u1", "u2"}).metrics() == {"mae": 0.5, "rmse": np.sqrt(0.5)}
