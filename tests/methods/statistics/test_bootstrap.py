"""The vectorised bootstrap against a loop, and what a paired test must do."""

from __future__ import annotations

import functools
import random

import numpy as np
import pytest

from perpcs_cli.methods.statistics import bootstrap as module
from perpcs_cli.methods.statistics.bootstrap import bootstrap, sum_by_group
from perpcs_cli.tasks.metrics import evaluate, from_sums, per_example
from perpcs_cli.tasks.spec import get_task

TASK = get_task("product_rating")
METRICS = functools.partial(from_sums, TASK)


def made(right: float, count: int, seed: int) -> tuple[list[str], list[str]]:
    """(predictions, references), of which a share `right` are equal."""
    rng = random.Random(seed)
    references = [str(rng.randint(1, 5)) for _ in range(count)]
    return [text if rng.random() < right else str(rng.randint(1, 5)) for text in references], references


@pytest.mark.parametrize("groups", [None, [f"u{n % 4}" for n in range(20)]], ids=["examples", "users"])
def test_it_is_the_naive_loop(groups):
    (first, references), (second, _) = made(0.3, 20, 0), made(0.8, 20, 0)
    systems = {"base": first, "better": second}
    rows = {name: per_example(TASK, predictions, references) for name, predictions in systems.items()}
    found = bootstrap(rows, METRICS, "base", groups=groups, resamples=50, seed=7)

    members = [[n] for n in range(20)] if groups is None else [list(range(user, 20, 4)) for user in range(4)]
    picks = np.random.default_rng(7).integers(len(members), size=(50, len(members)))
    samples = {name: {"mae": [], "rmse": []} for name in systems}
    for pick in picks:
        chosen = [n for unit in pick for n in members[unit]]
        for name, predictions in systems.items():
            values = evaluate(TASK, [predictions[n] for n in chosen], [references[n] for n in chosen])
            for metric, value in values.items():
                samples[name][metric].append(value)
    for metric in ("mae", "rmse"):
        for name in systems:
            interval = found[name].intervals[metric]
            assert (interval.low, interval.high) == pytest.approx(np.percentile(samples[name][metric], [2.5, 97.5]))
        d = np.subtract(samples["better"][metric], samples["base"][metric])
        difference = found["better"].differences[metric]
        assert (difference.interval.low, difference.interval.high) == pytest.approx(np.percentile(d, [2.5, 97.5]))
        assert difference.p == pytest.approx(min(1, 2 * (1 + min(sum(d <= 0), sum(d >= 0))) / 51))
        whole = [evaluate(TASK, predictions, references)[metric] for predictions in (second, first)]
        assert difference.value == pytest.approx(whole[0] - whole[1])
    assert found["base"].differences == {}


def test_equal_systems_do_not_differ():
    headline = get_task("news_headline")
    rng = random.Random(4)
    predictions, references = ([" ".join(rng.choices("abcdefg", k=7)) for _ in range(99)] for _ in range(2))
    rows = per_example(headline, predictions, references)
    found = bootstrap({"a": rows, "b": rows.copy()}, functools.partial(from_sums, headline), "a")
    for difference in found["b"].differences.values():
        assert (difference.value, difference.interval.low, difference.interval.high, difference.p) == (
            0,
            0,
            0,
            1,
        )


def test_a_better_system_is_found_and_an_equally_good_one_is_not():
    (base, references), (better, _) = made(0.4, 300, 1), made(0.7, 300, 1)
    rows = {"base": per_example(TASK, base, references), "better": per_example(TASK, better, references)}
    # As good as the base over all, on other examples.
    rows["other"] = np.roll(rows["base"], 150, axis=0)
    found = bootstrap(rows, METRICS, "base", resamples=999)
    assert found["better"].differences["mae"].interval.high < 0
    assert found["better"].differences["mae"].p == pytest.approx(2 / 1000)
    assert found["other"].differences["mae"].p > 0.05


def test_users_are_drawn_whole():
    # Two users whose queries are all alike: drawing users gives only 0, 1/2 and 1, and the widest interval.
    rows = {"base": per_example(TASK, ["5"] * 100 + ["4"] * 100, ["5"] * 200)}
    by_user = bootstrap(rows, METRICS, "base", groups=["a"] * 100 + ["b"] * 100)["base"].intervals["mae"]
    by_example = bootstrap(rows, METRICS, "base")["base"].intervals["mae"]
    assert (by_user.low, by_user.high) == (0, 1)
    assert 0.4 < by_example.low < 0.5 < by_example.high < 0.6


def test_a_seed_gives_the_same_result_and_another_one_another():
    rows = {"base": per_example(TASK, *made(0.3, 40, 0)), "b": per_example(TASK, *made(0.5, 40, 0))}
    assert bootstrap(rows, METRICS, "base", seed=1) == bootstrap(rows, METRICS, "base", seed=1)
    assert bootstrap(rows, METRICS, "base", seed=1) != bootstrap(rows, METRICS, "base", seed=2)


def test_chunks_do_not_change_the_result(monkeypatch):
    rows = {"base": per_example(TASK, *made(0.3, 40, 0))}
    whole = bootstrap(rows, METRICS, "base", resamples=30)
    monkeypatch.setattr(module, "_CHUNK", 7 * 40)
    assert bootstrap(rows, METRICS, "base", resamples=30) == whole


def test_sums_by_group():
    rows = np.arange(6, dtype=float).reshape(3, 2)
    assert sum_by_group(rows, ["b", "a", "b"]).tolist() == [[4, 6], [2, 3]]


def test_too_little_to_draw_from():
    rows = {"base": per_example(TASK, ["1", "2"], ["1", "2"])}
    with pytest.raises(ValueError, match="at least two units"):
        bootstrap(rows, METRICS, "base", groups=["a", "a"])
