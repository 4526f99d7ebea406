"""LaMP's metrics, computed from per-example statistics that add up.

Source: LaMP-Benchmark/LaMP, `eval/evaluation.py`, and Hugging Face evaluate's metrics that it calls.

Every metric here is a function of sums over examples. `per_example` gives the summands and `from_sums`
turns sums into metrics; so a resample is a weighted sum, and thousands of resamples are one matrix product.
Predictions and references are stripped of surrounding space. Where this differs from LaMP's script:

- ROUGE is the mean of the F-measures. LaMP's is the median of 1,000 unseeded bootstrap means, which
  estimates the same number but differs a little from run to run.
- `nan`, `inf` and numbers beyond single precision, which Python reads, count as no rating: there would be
  no mean.
- References may be no possible answers, as where a sharer's predictions are the references. Labels outside
  the set are then all equal, as LaMP's mapping has it, and belong to no class of the macro-F1. A reference
  that is no rating, on which LaMP's script stops, is the farther end of the scale from the prediction, and
  equals another such.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perpcs_cli.artifacts.metrics import ACCURACY, ERROR, objective
from perpcs_cli.errors import DataError
from perpcs_cli.tasks.spec import Task

Floats = NDArray[np.float64]

_LARGEST = float(np.finfo(np.float32).max)


def evaluate(task: Task, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """The task's metrics over all examples, in the order of `task.metrics`.

    Accuracy, F1 and ROUGE lie between 0 and 1; MAE and RMSE are rating points. Raises DataError for no
    examples.
    """
    if not predictions:
        raise DataError("there are no predictions to evaluate")
    sums = per_example(task, predictions, references).sum(axis=0)
    return {name: float(value) for name, value in from_sums(task, sums).items()}


def utility(task: Task, predictions: Sequence[str], references: Sequence[str]) -> float:
    """PriME's U and P(s): the sum of the task's two metrics, MAE and RMSE negated; larger is better."""
    return objective(evaluate(task, predictions, references))


def higher_is_better(metric: str) -> bool:
    """Whether a larger value of `metric` is the better one."""
    return metric not in ERROR


def is_reference(task: Task, text: str) -> bool:
    """Whether `text` can be a true answer: one of the labels, or a number where a rating is asked for."""
    if task.metrics == ACCURACY:
        return text.strip() in task.labels
    return task.metrics != ERROR or _number(text) is not None


def per_example(task: Task, predictions: Sequence[str], references: Sequence[str]) -> Floats:
    """Statistics [examples, C] whose sums over any examples `from_sums` turns into metrics; column 0 is 1.

    Equal pairs of prediction and reference are scored once. Raises ValueError where the lengths differ.
    """
    pairs = [(p.strip(), r.strip()) for p, r in zip(predictions, references, strict=True)]
    score = _scorer(task)
    scored = {pair: score(*pair) for pair in dict.fromkeys(pairs)}
    return np.array([scored[pair] for pair in pairs], dtype=np.float64)


def from_sums(task: Task, sums: Floats) -> dict[str, Floats]:
    """Metrics [...] by name from sums [..., C] of `per_example`'s rows; every count (column 0) is above 0."""
    count = sums[..., 0]
    first, second = sums[..., 1] / count, sums[..., 2] / count
    if task.metrics == ACCURACY:
        second = _macro_f1(sums[..., 2:])
    elif task.metrics == ERROR:
        second = np.sqrt(second)
    return dict(zip(task.metrics, (first, second), strict=True))


def _scorer(task: Task) -> Callable[[str, str], Sequence[float]]:
    if task.metrics == ACCURACY:
        index = {label: number for number, label in enumerate(task.labels)}
        return lambda prediction, reference: _label_row(index.get(prediction, -1), index.get(reference, -1), len(index))
    if task.metrics == ERROR:
        scale = [float(label) for label in task.labels]
        return lambda prediction, reference: _rating_row(prediction, reference, min(scale), max(scale))
    return _rouge_row


def _label_row(prediction: int, reference: int, classes: int) -> Sequence[float]:
    """(1, correct, per class: true positives, per class: predicted plus true); -1 is outside the set."""
    hits, occurrences = [0.0] * classes, [0.0] * classes
    for label in (prediction, reference):
        if label >= 0:
            occurrences[label] += 1.0
    if prediction == reference >= 0:
        hits[reference] = 1.0
    return (1.0, float(prediction == reference), *hits, *occurrences)


def _macro_f1(sums: Floats) -> Floats:
    """Mean over classes of 2 TP / (predicted + true), 0 for a class that does not occur. sums: [..., 2 L]."""
    hits, occurrences = np.split(sums, 2, axis=-1)
    f1 = np.divide(2 * hits, occurrences, out=np.zeros_like(hits), where=occurrences > 0)
    return np.asarray(f1.mean(axis=-1))


def _rating_row(prediction: str, reference: str, low: float, high: float) -> Sequence[float]:
    """(1, absolute error, squared error) in rating points, on a scale from `low` to `high`."""
    guess, truth = _number(prediction), _number(reference)
    if truth is None:
        if guess is None:
            return (1.0, 0.0, 0.0)
        truth = _farthest(guess, low, high)
    elif guess is None:
        guess = _farthest(truth, low, high)
    error = abs(guess - truth)
    return (1.0, error, error * error)


def _farthest(rating: float, low: float, high: float) -> float:
    return low if abs(low - rating) > abs(high - rating) else high


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) <= _LARGEST else None


@cache
def _rouge() -> Any:
    # Imported on first use: it takes seconds.
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rougeL"], use_stemmer=False)


def _rouge_row(prediction: str, reference: str) -> Sequence[float]:
    """(1, ROUGE-1 F, ROUGE-L F) without stemming (Lin, 2004)."""
    scores = _rouge().score(reference, prediction)
    return (1.0, scores["rouge1"].fmeasure, scores["rougeL"].fmeasure)
