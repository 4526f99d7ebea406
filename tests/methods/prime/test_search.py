"""The search on a tiny model whose target is a known mixture of two sharers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from planted_search import ALPHAS, PLANTED, Target, row, rows_of, run, settings

from perpcs_cli.artifacts.trace import read_trace
from perpcs_cli.methods.prime.in_step import search_in_step
from perpcs_cli.methods.prime.search import Generation, choose, pareto, replay, sample_items, search
from perpcs_cli.model.loading.base import Base


@pytest.fixture
def target(tiny: Base) -> Target:
    return Target(tiny)


def test_the_search_finds_better_than_the_base(target: Target, tmp_path: Path) -> None:
    evaluator = target.evaluator(tmp_path / "t.jsonl")
    decoding = evaluator.decoding([Generation(0.0, [PLANTED])])
    with pytest.raises(StopIteration):
        decoding.send(evaluator.engine({0: next(decoding)})[0])
    planted = evaluator.trace.known[PLANTED]
    (choice,) = run(evaluator, alpha=(0.0,), budget=70)
    assert planted.utility == 2.0
    assert choice.base.utility < 0.5 * choice.evaluation.utility
    singles = [evaluator.trace.known[target.space.single(sharer)].utility for sharer in range(3)]
    assert choice.evaluation.utility > max(singles)
    assert choice.reward == max(row.utility for row in evaluator.trace.known.values() if row is not planted)


def test_more_alpha_less_similarity(tiny: Base, tmp_path: Path) -> None:
    # The target is nearly the first sharer: what fits its history is like that sharer's own predictions.
    target = Target(tiny, planted=(0.9, 0.1, 0.0))
    choices = run(target.evaluator(tmp_path / "t.jsonl"), budget=70)
    means = [sum(choice.evaluation.similarity) / 3 for choice in choices]
    assert [choice.alpha for choice in choices] == list(ALPHAS)
    assert means == sorted(means, reverse=True)
    assert means[-1] < means[0]
    assert [c.evaluation.utility for c in choices] == sorted([c.evaluation.utility for c in choices], reverse=True)


def test_what_is_applied_was_scored_and_is_what_a_recipe_holds(target: Target, tmp_path: Path) -> None:
    evaluator = target.evaluator(tmp_path / "t.jsonl")
    for choice in run(evaluator):
        weights = choice.evaluation.weights
        assert evaluator.trace.known[weights] == choice.evaluation
        assert target.space.rounded(weights) == weights
        scores, answers = evaluator.objective, target.answers(target.space.mixes(weights))
        assert scores.value(scores.metrics(target.decode(answers))) == choice.evaluation.utility


def test_searches_share_evaluations_and_calls(target: Target, tmp_path: Path) -> None:
    together = target.evaluator(tmp_path / "t.jsonl")
    run(together, budget=14)
    # The base, three sharers and one generation, which all alphas begin with; then each goes its own way.
    assert target.calls[0] == 1 + 3 + 7
    assert len(target.calls) == 2
    assert 7 < target.calls[1] <= 7 * len(ALPHAS)
    before = len(together.trace.known)
    run(together, budget=14)
    assert len(together.trace.known) == before
    target.calls.clear()
    for alpha in ALPHAS:
        run(together, budget=14, alpha=(alpha,))
    assert target.calls == []


def test_sharers_and_base_are_decoded_once(target: Target, tmp_path: Path) -> None:
    evaluator = target.evaluator(tmp_path / "t.jsonl")
    run(evaluator, alpha=(0.0,))
    assert target.calls == [11, 7, 7, 7, 7]
    assert evaluator.trace.known[target.space.single(0)].similarity[0] == 2.0


@pytest.mark.parametrize(
    "changes", [{"budget": 21}, {"optimizer": "random", "budget": 21}, {"popsize": 5, "budget": 13}]
)
def test_a_killed_search_ends_as_one_that_was_not(target: Target, tmp_path: Path, changes: dict) -> None:
    whole = run(target.evaluator(tmp_path / "whole.jsonl"), **changes)
    for stop_at in (0, 1, 2):
        path = tmp_path / f"{stop_at}.jsonl"
        with pytest.raises(KeyboardInterrupt):
            run(target.evaluator(path, stop_at), **changes)
        assert list(run(target.evaluator(path), **changes)) == whole
        assert rows_of(path) == rows_of(tmp_path / "whole.jsonl")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.99])
def test_a_trace_that_was_cut_anywhere(target: Target, tmp_path: Path, share: float) -> None:
    path = tmp_path / "t.jsonl"
    whole = run(target.evaluator(path), budget=21)
    rows, content = rows_of(path), path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    again = run(target.evaluator(path), budget=21)
    assert again == whole
    assert rows_of(path) == rows


def test_a_finished_search_is_told_from_its_trace_alone(target: Target, tmp_path: Path) -> None:
    whole = run(target.evaluator(tmp_path / "t.jsonl"), budget=14)
    known = target.evaluator(tmp_path / "t.jsonl").trace.known
    asking = lambda budget: search(target.space, settings(budget=budget), seed=0, user_id="u")  # noqa: E731
    assert replay(asking(14), known) == whole
    with pytest.raises(LookupError):
        replay(asking(21), known)


def test_a_larger_budget_goes_on_with_the_trace(target: Target, tmp_path: Path) -> None:
    run(target.evaluator(tmp_path / "t.jsonl"), budget=14)
    target.calls.clear()
    run(target.evaluator(tmp_path / "t.jsonl"), budget=21)
    assert len(target.calls) == 1


@pytest.mark.parametrize("budget", [1, 3, 9])
def test_budgets_that_are_no_whole_generations(target: Target, tmp_path: Path, budget: int) -> None:
    (choice,) = run(target.evaluator(tmp_path / "t.jsonl"), budget=budget, alpha=(1.0,))
    assert choice.candidates == budget
    assert len(read_trace(tmp_path / "t.jsonl")[1]) == 1 + 3 + budget


def test_the_base_wins(tiny: Base, tmp_path: Path) -> None:
    target = Target(tiny, planted=(0.0, 0.0, 0.0))
    (choice,) = run(target.evaluator(tmp_path / "t.jsonl"), alpha=(0.0,))
    assert choice.is_base
    assert choice.evaluation.weights == target.space.base
    assert choice.reward == choice.base_reward == 2.0


def test_a_history_of_one_item_and_one_sharer(tiny: Base, tmp_path: Path) -> None:
    target = Target(tiny, items=1, planted=(0.8,))
    (choice,) = run(target.evaluator(tmp_path / "t.jsonl"), alpha=(0.0,), budget=20)
    assert choice.evaluation.utility >= choice.base.utility
    assert len(choice.evaluation.weights) == 1


def test_a_weight_per_layer(tiny: Base, tmp_path: Path) -> None:
    target = Target(tiny, granularity="layer")
    (choice,) = run(target.evaluator(tmp_path / "t.jsonl"), alpha=(0.0,), budget=60)
    assert len(choice.evaluation.weights) == 2 * 3
    assert choice.reward > choice.base_reward


def test_progress_counts_every_candidate(target: Target, tmp_path: Path) -> None:
    heard: list[tuple[int, float]] = []
    evaluator = target.evaluator(tmp_path / "t.jsonl")
    told_of = lambda *said: heard.append(said)  # noqa: E731
    asking = search(target.space, settings(budget=10), seed=0, user_id="u", report=told_of)
    search_in_step([(asking, evaluator)], evaluator.engine)
    assert [count for count, _ in heard] == [7 * len(ALPHAS), 3 * len(ALPHAS)]


def test_the_earliest_of_equals_is_chosen_and_the_base_of_equals_with_it() -> None:
    base = row(1.0, 0.0, weights=(0.0,))
    first, second = row(2.0, 1.0), row(2.0, 1.0)
    assert choose([first, second], base, 0.0) is first
    assert choose([first, second], base, 1.0) is base
    assert choose([first, second], base, 1.0, "candidate") is first
    assert choose([row(1.5, 1.0)], base, 1.0, "candidate") is base


def test_who_was_stopped_is_never_chosen() -> None:
    base, stopped, whole = row(1.0, 0.0, weights=(0.0,)), row(3.0, 0.0, items=2), row(2.0, 0.0)
    assert choose([stopped, whole], base, 0.0) is whole
    assert choose([stopped], base, 0.0) is base
    assert [point.utility for point in pareto([base, stopped, whole])] == [2.0]


def test_a_search_takes_who_wins_ties_from_its_settings(tiny: Base, tmp_path: Path) -> None:
    target = Target(tiny, planted=(0.0, 0.0, 0.0))
    # So narrow a start that candidates answer as the base does.
    (choice,) = run(target.evaluator(tmp_path / "t.jsonl"), alpha=(0.0,), sigma=1e-3, ties="candidate", budget=7)
    assert choice.reward == choice.base_reward == 2.0
    assert not choice.is_base


def test_pareto() -> None:
    rows = [row(1.0, 0.5, 0.7), row(2.0, 1.0, 1.0), row(2.0, 0.8, 0.8), row(0.5, 0.6, 0.6), row(0.4, 0.1, 0.1)]
    front = pareto(rows)
    assert [point.utility for point in front] == [2.0, 1.0, 0.4]
    assert [point.similarity for point in front] == pytest.approx([0.8, 0.6, 0.1])


@pytest.mark.parametrize(("count", "fraction", "kept"), [(10, 0.6, 6), (1, 0.1, 1), (4, 1.0, 4)])
def test_a_share_of_the_items(count: int, fraction: float, kept: int) -> None:
    draw: Callable[[int], list[int]] = lambda seed: sample_items(range(count), fraction, seed, "u")  # noqa: E731
    assert len(draw(0)) == kept
    assert draw(0) == sorted(draw(0)) == draw(0)
    assert kept == count or any(draw(seed) != draw(0) for seed in range(1, 4))
    mixed = sample_items(range(count), fraction, 0, "u", in_order=False)
    assert sorted(mixed) == draw(0) and (kept == 1 or mixed != draw(0))
