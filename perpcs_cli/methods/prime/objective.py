"""PriME's reward: U − α · mean_s P(s), where U is how well the outputs fit the history, and P(s) how well they fit
what sharer s's own LoRA answers.

With the sum of the task's two metrics, U is accuracy + F1, ROUGE-1 + ROUGE-L, or −(MAE + RMSE). P(s) is the same sum
with sharer s's predictions as references. For ratings (LaMP-3) P(s) is therefore the negated distance to the sharer's
ratings, at most 0 and 0 for the same ratings: −α · P(s) rewards distance there, as it does elsewhere.

The history of LaMP-1 asks for citations, so it is optimized with ROUGE (`Task.for_history`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from perpcs_cli.artifacts.metrics import SUM, objective
from perpcs_cli.errors import DataError, PerpcsError, UsageError
from perpcs_cli.tasks.metrics import Floats, from_sums, per_example
from perpcs_cli.tasks.spec import Task


def check_metric(task: Task, metric: str) -> str:
    """Return `metric` if the history's task has it. Raises UsageError where it has not."""
    known = (SUM, *task.for_history().metrics)
    if metric not in known:
        raise UsageError(f"no such metric: {metric!r}", where="--metric", hint=f"There are {', '.join(known)}.")
    return metric


def reward(utility: float, similarity: Sequence[float], alpha: float) -> float:
    """U − α · mean_s P(s), the reward of a candidate with similarity P(s) to each sharer."""
    return utility - alpha * sum(similarity) / len(similarity)


class Objective:
    """Scores a candidate's outputs on a user's history. Equal pairs of texts, and equal outputs, are scored once."""

    def __init__(self, task: Task, references: Sequence[str], metric: str = SUM) -> None:
        self.task = task.for_history()
        self.metric = check_metric(task, metric)
        self.references = tuple(references)
        if not self.references:
            raise DataError("the history has no answers to score candidates on")
        self._rows: dict[tuple[str, str], Floats] = {}
        self._known: dict[tuple[tuple[str, ...], tuple[str, ...]], dict[str, float]] = {}

    def metrics(self, outputs: Sequence[str], references: Sequence[str] | None = None) -> dict[str, float]:
        """The task's metrics of `outputs`, to the first items or all, against the history's answers or `references`.

        Raises PerpcsError where a metric is not finite.
        """
        key = (tuple(outputs), tuple(self.references if references is None else references)[: len(outputs)])
        if key not in self._known:
            values = {name: float(v) for name, v in from_sums(self.task, self._sums(*key)).items()}
            if bad := [name for name, value in values.items() if not math.isfinite(value)]:
                raise PerpcsError(f"the metric {bad[0]} of a candidate is {values[bad[0]]}, not a number to optimize")
            self._known[key] = values
        return self._known[key]

    def value(self, metrics: dict[str, float]) -> float:
        """U or P(s) from metrics: their sum, errors negated, or the chosen one."""
        return objective(metrics, self.metric)

    def similarity(self, outputs: Sequence[str], sharers: Sequence[Sequence[str]]) -> tuple[float, ...]:
        """P(s) for each sharer's own predictions."""
        return tuple(self.value(self.metrics(outputs, own)) for own in sharers)

    def item_rewards(self, outputs: Sequence[str], sharers: Sequence[Sequence[str]], alpha: float) -> Floats:
        """The reward of each item of `outputs` as if it were the whole history, [items].

        Their mean is the reward where a metric is a mean over items. The macro-F1 and RMSE are none; of one item they
        are 1 / classes of a right label, and the absolute error.
        """

        def alone(references: Sequence[str]) -> Floats:
            pairs = zip(outputs, references, strict=False)
            return np.array([self.value(self.metrics([output], [reference])) for output, reference in pairs])

        return alone(self.references) - alpha * np.mean([alone(own) for own in sharers], axis=0)

    def _sums(self, outputs: tuple[str, ...], references: tuple[str, ...]) -> Floats:
        pairs = list(zip(outputs, references, strict=True))
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._rows]
        if new:
            scored = per_example(self.task, [output for output, _ in new], [reference for _, reference in new])
            self._rows.update(zip(new, scored, strict=True))
        return np.sum([self._rows[pair] for pair in pairs], axis=0)
