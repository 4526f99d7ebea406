"""PriME: an evolution strategy searches the weights of similar sharers' LoRAs on a target user's history.

The reward of a candidate is in `objective`, what its weights mean in `weight_space`, how it is run in `evaluator`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from perpcs_cli.artifacts.settings import PrimeSettings, Winner
from perpcs_cli.artifacts.trace import Evaluation, Point
from perpcs_cli.methods.prime.objective import reward
from perpcs_cli.methods.prime.optimizers import make_optimizer, optimizer_seed
from perpcs_cli.methods.prime.weight_space import Space, Vector

T = TypeVar("T")


class Scores(Protocol):
    """Anything that scores weight vectors of a space: `evaluator.Evaluator`."""

    @property
    def space(self) -> Space:
        """What the vectors mean."""

    def evaluate(self, vectors: Sequence[Vector]) -> list[Evaluation]:
        """The evaluation of each vector."""


@dataclass(frozen=True)
class Choice:
    """What is applied for one α. `evaluation` is the base's own where no candidate beats the base."""

    alpha: float
    evaluation: Evaluation
    base: Evaluation
    candidates: int
    """Different candidates that it was chosen from, of all searches."""

    @property
    def reward(self) -> float:
        """The reward of what is applied."""
        return rewarded(self.evaluation, self.alpha)

    @property
    def base_reward(self) -> float:
        """The base's reward on the same data."""
        return rewarded(self.base, self.alpha)

    @property
    def is_base(self) -> bool:
        """Whether no candidate beats the base."""
        return not any(self.evaluation.weights)


def sample_items(items: Sequence[T], fraction: float, seed: int, user_id: str) -> list[T]:
    """The share of a history that candidates are scored on, drawn by seed: at least one item, in the old order."""
    count = max(1, round(fraction * len(items)))
    chosen = random.Random(optimizer_seed(seed, "items", user_id)).sample(range(len(items)), count)
    return [items[index] for index in sorted(chosen)]


def rewarded(row: Evaluation, alpha: float) -> float:
    """The reward of an evaluated candidate."""
    return reward(row.utility, row.similarity, alpha)


def search(
    scores: Scores,
    settings: PrimeSettings,
    *,
    seed: int,
    user_id: str,
    report: Callable[[int, float], None] = lambda candidates, best: None,
) -> list[Choice]:
    """One search of `budget` candidates for each α, all sharing every evaluation; the choice of each α, in order.

    The searches have the same seed, so they begin with the same generation, and go on in step, so that their
    generations are decoded together. An α's choice is the best of the candidates of all searches, the earliest among
    equals, if it beats the base on the same data, else the base: a larger α never chooses more similarity.
    (With `ties` for candidates, one that is as good as the base is taken, too.)
    `report(candidates, best utility so far)` follows each round.
    """
    space = scores.space
    alphas = list(dict.fromkeys(settings.alpha))
    searches = [make_optimizer(settings, space.size, optimizer_seed(seed, "search", user_id)) for _ in alphas]
    seen: dict[Vector, Evaluation] = {}
    spent = 0
    while spent < settings.budget:
        asked = [[space.rounded(one) for one in s.ask(settings.budget - spent)] for s in searches]
        found = iter(scores.evaluate([vector for vectors in asked for vector in vectors]))
        for one, alpha, vectors in zip(searches, alphas, asked, strict=True):
            rows = [next(found) for _ in vectors]
            one.tell([rewarded(row, alpha) for row in rows])
            seen.update((row.weights, row) for row in rows)
        spent += len(asked[0])
        report(sum(map(len, asked)), max(row.utility for row in seen.values()))
    (base,) = scores.evaluate([space.base])
    rows = list(seen.values())
    return [Choice(alpha, choose(rows, base, alpha, settings.ties), base, len(seen)) for alpha in alphas]


def choose(rows: Sequence[Evaluation], base: Evaluation, alpha: float, ties: Winner = "base") -> Evaluation:
    """The best candidate, the earliest among equals, if it beats the base; else the base.

    `ties`: which is taken where both are equally good. The published code takes the candidate.
    """
    best = max(rows, key=lambda row: rewarded(row, alpha))
    ahead = rewarded(best, alpha) - rewarded(base, alpha)
    return best if ahead > 0 or (ahead == 0 and ties == "candidate") else base


def pareto(rows: Iterable[Evaluation]) -> list[Point]:
    """The candidates that none beats in both utility and mean similarity, by falling utility."""
    points = [
        Point(utility=row.utility, similarity=sum(row.similarity) / len(row.similarity), weights=row.weights)
        for row in rows
    ]
    front: list[Point] = []
    for point in sorted(points, key=lambda one: (-one.utility, one.similarity)):
        if not front or point.similarity < front[-1].similarity:
            front.append(point)
    return front
