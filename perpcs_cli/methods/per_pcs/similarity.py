"""Which sharers are most like a user, by the cosine of their embeddings, and PEFT retrieval's weights."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from perpcs_cli.artifacts.embeddings import Embeddings
from perpcs_cli.artifacts.settings import Weighting
from perpcs_cli.errors import UsageError

Floats = NDArray[np.float64]


class Neighbour(NamedTuple):
    """A sharer and the cosine of its embedding with the target's."""

    user_id: str
    similarity: float


class Neighbourhood:
    """The directions of sharers' embeddings, in the order of their ids: made once, and then asked for many users.

    Raises DataError where a sharer has no embedding.
    """

    def __init__(self, embeddings: Embeddings, sharers: Iterable[str]) -> None:
        self.sharers = sorted(sharers)
        vectors = [embeddings.vector(sharer).astype(np.float64) for sharer in self.sharers]
        self._directions = _directions(np.stack(vectors)) if vectors else np.zeros((0, 1))
        self._places = {sharer: place for place, sharer in enumerate(self.sharers)}

    def nearest(self, user_id: str, target: NDArray[Any], own: Collection[str], count: int | None) -> list[Neighbour]:
        """The `count` sharers, or all, most similar to a user with the embedding `target` [H], best first, ties by id.

        `own`: what the user is called here, never among them. Raises UsageError where there are fewer sharers, or none.
        """
        away = sorted(self._places[name] for name in own if name in self._places)
        left = len(self.sharers) - len(away)
        wanted = max(1, left) if count is None else count
        if wanted > left:
            raise UsageError(
                f"{wanted} sharers are asked for, and there are {left} besides {user_id!r}",
                hint="Ask for fewer, or build a larger pool.",
            )
        others = np.delete(self._directions, away, axis=0) if away else self._directions
        cosines = (_directions(target.astype(np.float64)[None]) @ others.T)[0]
        # Of equal ones the first by id, and the best alone become objects.
        order = np.argsort(-cosines, kind="stable")[:wanted]
        places = np.delete(np.arange(len(self.sharers)), away)[order]
        return [
            Neighbour(self.sharers[place], cosine)
            for place, cosine in zip(places.tolist(), cosines[order].tolist(), strict=True)
        ]


def _directions(vectors: Floats) -> Floats:
    """The rows at length 1. A vector of zeros is like nobody: its cosines are 0."""
    from sklearn.preprocessing import normalize

    found: Floats = normalize(vectors)
    return found


def weigh(neighbours: Sequence[Neighbour], weighting: Weighting, temperature: float = 1.0) -> list[tuple[str, float]]:
    """(sharer, weight) of whole LoRAs; the weights sum to 1.

    softmax: PEFT retrieval, exp(cos / temperature), normalized. uniform: 1 / k. single: the nearest sharer alone.
    """
    if weighting == "single":
        return [(neighbours[0].user_id, 1.0)]
    scores = np.array([one.similarity if weighting == "softmax" else 0.0 for one in neighbours])
    with np.errstate(over="ignore"):
        # The largest is taken off first: however low the temperature, it is 0 and none is NaN.
        weights = np.exp((scores - scores.max()) / temperature)
    return [(one.user_id, float(w)) for one, w in zip(neighbours, weights / weights.sum(), strict=True)]
