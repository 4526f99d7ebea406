"""LaMP's metrics on cases worked out by hand, and against scikit-learn and rouge-score."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perpcs_cli.errors import DataError
from perpcs_cli.tasks.metrics import evaluate, from_sums, higher_is_better, is_reference, per_example, utility
from perpcs_cli.tasks.spec import get_task, shipped_tasks

CITATION, RATING, HEADLINE = get_task("citation"), get_task("product_rating"), get_task("news_headline")
TAGGING = get_task("movie_tagging")
WORDS = st.lists(st.sampled_from(["a", "b", "c", "d,", "E-e", "1'2", "é", "—"]), max_size=12).map(" ".join)


def test_labels_by_hand():
    # [1]: one hit, predicted once, true twice: 2·1/3. [2]: one hit, predicted twice, true once: 2·1/3.
    values = evaluate(CITATION, ["[1]", "[2]", "[2]"], ["[1]", "[1]", "[2]"])
    assert values == pytest.approx({"accuracy": 2 / 3, "f1": 2 / 3})


def test_space_around_an_answer_does_not_matter_but_letters_do():
    assert evaluate(CITATION, [" [1]\n", "[2]."], ["[1]", "[2]"])["accuracy"] == 0.5


def test_a_label_outside_the_set_is_wrong_and_no_class_of_its_own():
    # [1]: one hit, predicted once, true twice: 2/3. [2] occurs nowhere and counts 0.
    values = evaluate(CITATION, ["[1]", "neither"], ["[1]", "[1]"])
    assert values == pytest.approx({"accuracy": 0.5, "f1": (2 / 3 + 0) / 2})


def test_macro_f1_is_over_all_labels_of_the_task_present_or_not():
    assert evaluate(TAGGING, ["comedy"], ["comedy"]) == pytest.approx({"accuracy": 1.0, "f1": 1 / 15})


def test_two_labels_outside_the_set_agree_where_both_are_predictions():
    assert evaluate(CITATION, ["x", "[1]"], ["y", "[1]"]) == pytest.approx({"accuracy": 1.0, "f1": 0.5})


def test_ratings_by_hand():
    assert evaluate(RATING, ["4", "1.5"], ["5", "3"]) == pytest.approx({"mae": 1.25, "rmse": math.sqrt(3.25 / 2)})


@pytest.mark.parametrize(
    ("reference", "error"), [("1", 4), ("2", 3), ("3", 2), ("4", 3), ("5", 4)], ids=lambda value: str(value)
)
@pytest.mark.parametrize("prediction", ["good", "", "nan", "inf", "-Infinity", "1e39"])
def test_what_is_no_rating_is_as_wrong_as_can_be(prediction, reference, error):
    assert evaluate(RATING, [prediction], [reference]) == {"mae": error, "rmse": error}


def test_a_rating_beyond_the_scale_counts_as_it_is():
    assert evaluate(RATING, ["10"], ["4"])["mae"] == 6


def test_references_that_are_no_ratings():
    assert evaluate(RATING, ["bad", "2"], ["good", "good"])["mae"] == (0 + 3) / 2


def test_rouge_by_hand():
    # Words shared: the, cat, sat (of 3 and 6), in order: P = 1, R = 1/2. Then the, sat, cat: two in order.
    values = evaluate(HEADLINE, ["The cat sat.", "the sat cat"], ["the cat sat on the mat"] * 2)
    assert values == pytest.approx({"rouge-1": 2 / 3, "rouge-L": (2 / 3 + 2 * (2 / 3) * (2 / 6) / (2 / 3 + 2 / 6)) / 2})


def test_rouge_counts_a_repeated_word_as_often_as_both_have_it():
    assert evaluate(HEADLINE, ["no no no"], ["no"])["rouge-1"] == pytest.approx(2 * (1 / 3) / (4 / 3))


@pytest.mark.parametrize("prediction", ["", "?!", "日本"])
def test_rouge_of_nothing_is_zero(prediction):
    assert evaluate(HEADLINE, [prediction], ["a title"]) == {"rouge-1": 0.0, "rouge-L": 0.0}


@given(WORDS, WORDS)
@settings(max_examples=200, deadline=None)
def test_rouge_is_that_of_rouge_score(prediction, reference):
    from rouge_score.rouge_scorer import RougeScorer

    expected = RougeScorer(["rouge1", "rougeL"]).score(reference.strip(), prediction.strip())
    values = evaluate(HEADLINE, [prediction], [reference])
    assert values == {"rouge-1": expected["rouge1"].fmeasure, "rouge-L": expected["rougeL"].fmeasure}


def test_long_texts_have_the_rouge_of_rouge_score():
    from rouge_score.rouge_scorer import RougeScorer

    rng = random.Random(0)
    prediction, reference = (" ".join(rng.choices("abcdefghij", k=150)) for _ in range(2))
    expected = RougeScorer(["rougeL"]).score(reference, prediction)["rougeL"].fmeasure
    assert evaluate(HEADLINE, [prediction], [reference])["rouge-L"] == expected


@pytest.mark.parametrize("task", [CITATION, TAGGING], ids=lambda task: task.name)
def test_accuracy_and_f1_are_those_of_scikit_learn(task):
    from sklearn.metrics import accuracy_score, f1_score

    rng = random.Random(1)
    answers = [*task.labels[:9], "something else"]
    predictions, references = rng.choices(answers, k=200), rng.choices(answers, k=200)
    numbers = [[task.labels.index(a) if a in task.labels else -1 for a in side] for side in (references, predictions)]
    labels = range(len(task.labels))
    values = evaluate(task, predictions, references)
    assert values["accuracy"] == pytest.approx(accuracy_score(*numbers))
    assert values["f1"] == pytest.approx(f1_score(*numbers, labels=labels, average="macro", zero_division=0))


def test_errors_are_those_of_scikit_learn():
    from sklearn.metrics import mean_absolute_error, root_mean_squared_error

    rng = random.Random(2)
    predictions, references = ([str(rng.randint(1, 5)) for _ in range(100)] for _ in range(2))
    numbers = [[float(text) for text in side] for side in (references, predictions)]
    expected = {"mae": mean_absolute_error(*numbers), "rmse": root_mean_squared_error(*numbers)}
    assert evaluate(RATING, predictions, references) == pytest.approx(expected)


def test_statistics_add_up_for_every_task():
    rng = random.Random(3)
    for task in shipped_tasks().values():
        answers = [*task.labels, "a title about cats", "cats about a title", "4"]
        predictions, references = rng.choices(answers, k=30), rng.choices(answers, k=30)
        rows = per_example(task, predictions, references)
        halves = np.stack([rows[:10].sum(axis=0), rows[10:].sum(axis=0)])
        together = from_sums(task, halves)
        for part, (start, stop) in enumerate([(0, 10), (10, 30)]):
            alone = evaluate(task, predictions[start:stop], references[start:stop])
            assert {name: values[part] for name, values in together.items()} == pytest.approx(alone)
        assert rows[:, 0].tolist() == [1.0] * 30


def test_equal_pairs_are_scored_once(monkeypatch):
    scored = []
    monkeypatch.setattr("perpcs_cli.tasks.metrics._rouge_row", lambda *pair: scored.append(pair) or (1.0, 0.0, 0.0))
    assert per_example(HEADLINE, ["a", "a ", "b"], ["c", "c", "c"]).shape == (3, 3)
    assert scored == [("a", "c"), ("b", "c")]


def test_utility_is_the_sum_with_errors_negated():
    assert utility(RATING, ["4"], ["5"]) == -2.0
    assert utility(HEADLINE, ["cats"], ["cats"]) == 2.0
    assert [higher_is_better(name) for name in ("accuracy", "f1", "rouge-L", "mae", "rmse")] == [True] * 3 + [False] * 2


def test_what_can_be_a_reference():
    assert is_reference(CITATION, " [1] ") and not is_reference(CITATION, "1")
    assert is_reference(RATING, "4.5") and not is_reference(RATING, "nan")
    assert is_reference(HEADLINE, "")


def test_nothing_to_evaluate_and_unequal_lengths():
    with pytest.raises(DataError, match="no predictions"):
        evaluate(RATING, [], [])
    with pytest.raises(ValueError):
        evaluate(RATING, ["1"], ["1", "2"])
