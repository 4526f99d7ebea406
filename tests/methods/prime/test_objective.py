"""The reward equals a naive computation from the task's metrics, for every task."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perpcs_cli.errors import DataError, PerpcsError, UsageError
from perpcs_cli.methods.prime import objective
from perpcs_cli.methods.prime.objective import Objective, check_metric, reward
from perpcs_cli.tasks.metrics import evaluate
from perpcs_cli.tasks.spec import Task, shipped_tasks

ANSWERS = {"movie_tagging": ("comedy", "action", "no tag"), "product_rating": ("1", "4", "4.5", "none")}
TITLES = ("the council raised the budget", "budget raised", "a lovely morning", "")


def naive(task: Task, outputs: list[str], references: list[str]) -> float:
    """The sum of the history task's two metrics, errors negated."""
    first, second = evaluate(task.for_history(), outputs, references).values()
    return -first - second if task.name == "product_rating" else first + second


@settings(deadline=None)
@given(st.data(), st.sampled_from(sorted(shipped_tasks())), st.integers(1, 5), st.sampled_from([0.0, 0.2, 1.0, 2.0]))
def test_the_reward_is_the_naive_one(data: st.DataObject, name: str, items: int, alpha: float) -> None:
    task = shipped_tasks()[name]
    texts = st.lists(st.sampled_from(ANSWERS.get(name, TITLES)), min_size=items, max_size=items)
    references, outputs, *sharers = (data.draw(texts) for _ in range(4))
    scores = Objective(task, references)
    utility = scores.value(scores.metrics(outputs))
    similarity = scores.similarity(outputs, sharers)
    assert utility == pytest.approx(naive(task, outputs, references))
    assert similarity == pytest.approx(tuple(naive(task, outputs, own) for own in sharers))
    mean = sum(naive(task, outputs, own) for own in sharers) / 2
    assert reward(utility, similarity, alpha) == pytest.approx(naive(task, outputs, references) - alpha * mean)


def test_a_citation_history_is_scored_with_rouge() -> None:
    scores = Objective(shipped_tasks()["citation"], ["attention is all you need"])
    assert scores.metrics(["attention is all you need"]) == {"rouge-1": 1.0, "rouge-L": 1.0}


def test_ratings_like_the_sharers_cost_more_than_others() -> None:
    scores = Objective(shipped_tasks()["product_rating"], ["3"])
    like, unlike = (scores.similarity([rating], [["5"]])[0] for rating in ("5", "1"))
    assert (like, unlike) == (0.0, -8.0)
    assert reward(0.0, [like], 1.0) < reward(0.0, [unlike], 1.0)


def test_a_chosen_metric() -> None:
    scores = Objective(shipped_tasks()["product_rating"], ["1", "5"], "mae")
    assert scores.value(scores.metrics(["3", "5"])) == -1.0
    scores = Objective(shipped_tasks()["news_headline"], ["a b"], "rouge-1")
    assert scores.value(scores.metrics(["b a"])) == 1.0


def test_equal_outputs_are_scored_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scored = []
    honest = objective.per_example

    def noted(task: Task, predictions: list[str], references: list[str]) -> objective.Floats:
        scored.extend(zip(predictions, references, strict=True))
        return honest(task, predictions, references)

    monkeypatch.setattr(objective, "per_example", noted)
    scores = Objective(shipped_tasks()["news_headline"], ["a", "b", "b"])
    for outputs in (["x", "y", "y"], ["x", "y", "y"], ["x", "z", "y"]):
        scores.metrics(outputs)
    assert scored == [("x", "a"), ("y", "b"), ("z", "b")]


def test_an_unknown_metric() -> None:
    with pytest.raises(UsageError, match="accuracy") as error:
        check_metric(shipped_tasks()["citation"], "accuracy")
    assert error.value.hint == "There are sum, rouge-1, rouge-L."


def test_nothing_to_score_on() -> None:
    with pytest.raises(DataError, match="no answers"):
        Objective(shipped_tasks()["news_headline"], [])


def test_a_metric_that_is_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objective, "per_example", lambda *given: np.array([[1.0, math.nan, 1.0]]))
    with pytest.raises(PerpcsError, match="rouge-1 of a candidate is nan"):
        Objective(shipped_tasks()["news_headline"], ["a"]).metrics(["b"])
