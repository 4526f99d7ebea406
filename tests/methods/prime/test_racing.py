"""Races: who is stopped, by the test written naively, and what a search makes of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted_search import Target, row, rows_of, run
from scipy import stats

from perpcs_cli.methods.prime.objective import Objective
from perpcs_cli.methods.prime.racing import NO_RACE, Race, chance, survivors
from perpcs_cli.methods.prime.search import told
from perpcs_cli.model.loading.base import Base
from perpcs_cli.tasks.spec import shipped_tasks


@given(st.lists(st.floats(-2, 2), min_size=2, max_size=20).filter(lambda some: np.std(some) > 1e-3))
def test_the_chance_is_scipys_own(differences: list[float]) -> None:
    expected = stats.ttest_1samp(differences, 0.0, alternative="less").pvalue
    found = chance(np.array(differences))
    assert found == (pytest.approx(expected) if np.mean(differences) < 0 else 1.0)


def test_differences_that_do_not_vary() -> None:
    assert chance(np.array([-0.5, -0.5])) == 0.0
    assert chance(np.zeros(3)) == chance(np.array([0.5, 0.5])) == chance(np.array([-9.0])) == 1.0


def test_only_who_is_clearly_worse_than_the_last_parent_is_stopped() -> None:
    best, second, near, far = (np.array(one) for one in ([3.0, 3, 3], [1.0, 2, 3], [0.5, 2, 3], [0.0, 1, 2.1]))
    rewards = [far, second, best, near]
    assert survivors(rewards, 2, 0.05) == [1, 2, 3]
    # With one parent, all are compared with the best; a higher level asks for less.
    assert survivors(rewards, 1, 0.01) == [0, 1, 2, 3]
    assert survivors(rewards, 1, 0.2) == [2]
    assert survivors(rewards, 2, None) == [0, 1, 2, 3]
    assert survivors([], 3, 0.05) == []


def test_blocks() -> None:
    assert Race(0.05, 5).blocks(12) == [(0, 5), (5, 10), (10, 12)]
    # A last item alone goes with those before it.
    assert Race(0.05, 5).blocks(11) == [(0, 5), (5, 11)]
    assert Race(0.05, 5).blocks(4) == NO_RACE.blocks(4) == [(0, 4)]
    assert Race(0.05, 5).blocks(1) == [(0, 1)]


@pytest.mark.parametrize(("task", "texts"), [("news_headline", ("a b", "b c d", "e")), ("product_rating", "135")])
def test_item_rewards_have_the_reward_as_their_mean_where_metrics_are_means(task: str, texts: list[str]) -> None:
    metric = {"news_headline": "sum", "product_rating": "mae"}[task]
    scores = Objective(shipped_tasks()[task], list(texts), metric)
    outputs, sharers = list(texts[1:]), [[texts[0]] * 3, [texts[2]] * 3]
    found = scores.item_rewards(outputs, sharers, 0.3)
    mean = sum(scores.similarity(outputs, [own[:2] for own in sharers])) / 2
    assert len(found) == 2
    assert found.mean() == pytest.approx(scores.value(scores.metrics(outputs)) - 0.3 * mean)


def test_stopped_candidates_are_told_below_all_others_in_their_order() -> None:
    stopped = [row(utility, 0.0, weights=(utility,), items=2) for utility in (1.4, 0.2, 1.5)]
    others = [row(utility, 0.0) for utility in (1.0, 2.0)]
    rewards = told([*stopped, *others], 0.0)
    assert rewards[3:] == [1.0, 2.0]
    assert rewards[1] < rewards[0] < rewards[2] < 1.0
    assert rewards[2] - rewards[1] == pytest.approx(1.3)
    assert told([stopped[1], *others], 0.0) == [0.2, 1.0, 2.0]
    assert told(stopped, 0.0) == [1.4, 0.2, 1.5]


def test_a_search_that_races(tiny: Base, tmp_path) -> None:
    target = Target(tiny, items=8)
    whole = run(target.evaluator(tmp_path / "whole.jsonl"), alpha=(0.0,), budget=70)
    target.calls.clear()
    path = tmp_path / "race.jsonl"
    race = Race(0.4, 2)
    (choice,) = run(target.evaluator(path, race=race), alpha=(0.0,), budget=70)
    rows = rows_of(path)
    stopped = [one for one in rows if one.stopped]
    assert stopped and {one.items for one in stopped} <= {2, 4, 6}
    assert choice.stopped == len(stopped)
    # The base and the sharers, whom others are compared with, see all items.
    assert not any(one.stopped for one in rows[:4])
    for call in range(10):
        generation = [one for one in rows if one.call == call and one not in rows[:4]]
        assert sum(not one.stopped for one in generation) >= len(generation) // 2
    assert not choice.evaluation.stopped
    assert choice.reward == max(one.utility for one in rows if not one.stopped)
    assert choice.reward > choice.base_reward
    # The first generation is the same one, and who is in both traces to the end has the same scores.
    known = {one.weights: one for one in rows_of(tmp_path / "whole.jsonl")}
    both = [one for one in rows if one.weights in known and not one.stopped]
    assert len(both) > 4
    assert all(known[one.weights].utility == one.utility for one in both)
    assert whole[0].evaluation.utility >= choice.base_reward
    scores = Objective(shipped_tasks()["news_headline"], target.references)
    value = lambda texts: scores.value(scores.metrics(texts))  # noqa: E731
    answers = [target.decode(target.answers(target.space.mixes(one.weights))) for one in stopped[:10]]
    partial = [one.utility for one in stopped[:10]]
    assert partial == [value(texts[: one.items]) for texts, one in zip(answers, stopped, strict=False)]
    assert partial != [value(texts) for texts in answers]


def test_a_race_that_was_killed_ends_as_one_that_was_not(tiny: Base, tmp_path) -> None:
    target = Target(tiny, items=6)
    race = Race(0.4, 2)
    whole = run(target.evaluator(tmp_path / "whole.jsonl", race=race), budget=14)
    calls = len(target.calls)
    assert calls == 2 * 3
    for stop_at in range(calls):
        path = tmp_path / f"{stop_at}.jsonl"
        with pytest.raises(KeyboardInterrupt):
            run(target.evaluator(path, stop_at, race), budget=14)
        assert run(target.evaluator(path, race=race), budget=14) == whole
        assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
