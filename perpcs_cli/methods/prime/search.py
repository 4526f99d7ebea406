"""PriME: an evolution strategy searches the weights of similar sharers' LoRAs on a target user's history.

The reward of a candidate is in `objective`, what its weights mean in `weight_space`, how it is run in `evaluator`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

from perpcs_cli.artifacts.settings import PrimeSettings, Winner
from perpcs_cli.artifacts.trace import Evaluation, Point
from perpcs_cli.methods.prime.objective import reward
from perpcs_cli.methods.prime.optimizers import make_optimizer, optimizer_seed
from perpcs_cli.methods.prime.weight_space import Space, Vector

T = TypeVar("T")

BELOW = 1e-9
"""How far below the lowest reward of a generation the best of its stopped candidates is told, at least."""


@dataclass(frozen=True)
class Generation:
    """What one α's search asks in a round."""

    alpha: float
    vectors: list[Vector]


Known = Mapping[Vector, Evaluation]
Search = Generator[list[Generation], Known, "list[Choice]"]
"""Asks for a round of generations, one for each α, and is sent all that is known then, the base among it."""


@dataclass(frozen=True)
class Choice:
    """What is applied for one α. `evaluation` is the base's own where no candidate beats the base."""

    alpha: float
    evaluation: Evaluation
    base: Evaluation
    candidates: int
    """Different candidates that it was chosen from, of all searches."""
    stopped: int = 0
    """Those of them that were stopped in a race."""

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


def sample_items(items: Sequence[T], fraction: float, seed: int, user_id: str, *, in_order: bool = True) -> list[T]:
    """The share of a history that candidates are scored on, drawn by seed: at least one item, in the old order or as
    they were drawn."""
    count = max(1, round(fraction * len(items)))
    chosen = random.Random(optimizer_seed(seed, "items", user_id)).sample(range(len(items)), count)
    return [items[index] for index in (sorted(chosen) if in_order else chosen)]


def rewarded(row: Evaluation, alpha: float) -> float:
    """The reward of an evaluated candidate."""
    return reward(row.utility, row.similarity, alpha)


def search(
    space: Space,
    settings: PrimeSettings,
    *,
    seed: int,
    user_id: str,
    report: Callable[[int, float], None] = lambda candidates, best: None,
) -> Search:
    """One search of `budget` candidates for each α, all sharing every evaluation; the choice of each α, in order.

    The searches have the same seed, so they begin with the same generation, and go on in step, so that their
    generations are decoded together. An α's choice is the best of the candidates of all searches, the earliest among
    equals, if it beats the base on the same data, else the base: a larger α never chooses more similarity.
    (With `ties` for candidates, one that is as good as the base is taken, too.) One that was stopped in a race is never
    chosen. `report(candidates, best utility so far)` follows each round.
    """
    alphas = list(dict.fromkeys(settings.alpha))
    searches = [make_optimizer(settings, space.size, optimizer_seed(seed, "search", user_id)) for _ in alphas]
    seen: dict[Vector, Evaluation] = {}
    known: Known = {}
    spent = 0
    while spent < settings.budget:
        asked = [[space.rounded(one) for one in s.ask(settings.budget - spent)] for s in searches]
        known = yield [Generation(alpha, vectors) for alpha, vectors in zip(alphas, asked, strict=True)]
        for one, alpha, vectors in zip(searches, alphas, asked, strict=True):
            rows = [known[vector] for vector in vectors]
            one.tell(told(rows, alpha))
            seen.update((row.weights, row) for row in rows)
        spent += len(asked[0])
        report(sum(map(len, asked)), max((row.utility for row in seen.values() if not row.stopped), default=-math.inf))
    rows, base = list(seen.values()), known[space.base]
    stopped = sum(row.stopped for row in rows)
    return [Choice(alpha, choose(rows, base, alpha, settings.ties), base, len(seen), stopped) for alpha in alphas]


def replay(search: Search, known: Known) -> list[Choice]:
    """What a search chooses by what is known. Raises LookupError where it asks for more."""
    try:
        next(search)
        while True:
            search.send(known)
    except StopIteration as end:
        return cast("list[Choice]", end.value)


def told(rows: Sequence[Evaluation], alpha: float) -> list[float]:
    """What an optimizer is told of a generation: rewards, those of stopped candidates below all others.

    A stopped one's is that of the items it saw; where the best of these would not be the lowest, all of them are
    lowered alike until it is.
    """
    rewards = [rewarded(row, alpha) for row in rows]
    whole = [value for row, value in zip(rows, rewards, strict=True) if not row.stopped]
    early = [value for row, value in zip(rows, rewards, strict=True) if row.stopped]
    if not whole or not early:
        return rewards
    excess = max(0.0, max(early) - min(whole) + BELOW)
    return [value - excess if row.stopped else value for row, value in zip(rows, rewards, strict=True)]


def choose(rows: Sequence[Evaluation], base: Evaluation, alpha: float, ties: Winner = "base") -> Evaluation:
    """The best candidate, the earliest among equals, if it beats the base; else the base.

    `ties`: which is taken where both are equally good. The published code takes the candidate.
    """
    best = max((row for row in rows if not row.stopped), key=lambda row: rewarded(row, alpha), default=base)
    ahead = rewarded(best, alpha) - rewarded(base, alpha)
    return best if ahead > 0 or (ahead == 0 and ties == "candidate") else base


def pareto(rows: Iterable[Evaluation]) -> list[Point]:
    """The candidates that none beats in both utility and mean similarity, by falling utility."""
    points = [
        Point(utility=row.utility, similarity=sum(row.similarity) / len(row.similarity), weights=row.weights)
        for row in rows
        if not row.stopped
    ]
    front: list[Point] = []
    for point in sorted(points, key=lambda one: (-one.utility, one.similarity)):
        if not front or point.similarity < front[-1].similarity:
            front.append(point)
    return front
