"""Which sharers are most like a user, by the cosine of their embeddings, and PEFT retrieval's weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

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


def cosine(vector: Floats, matrix: Floats) -> Floats:
    """The cosines [S] of `vector` [H] with the rows of `matrix` [S, H]; 0 with a vector of zeros."""
    norms = np.linalg.norm(matrix, axis=1) * np.linalg.norm(vector)
    return np.divide(matrix @ vector, norms, out=np.zeros(len(matrix)), where=norms > 0)


def nearest(
    embeddings: Embeddings, user_id: str, sharers: Sequence[str], count: int, theirs: Embeddings | None = None
) -> list[Neighbour]:
    """The `count` sharers most similar to a user, best first, ties by id; never the user itself.

    `theirs`: the sharers' embeddings, where they are apart from the users' `embeddings`.
    Raises DataError where the user or a sharer has no embedding, UsageError where there are fewer sharers.
    """
    others = sorted(sharer for sharer in sharers if sharer != user_id)
    if count > len(others):
        raise UsageError(
            f"{count} sharers are asked for, and there are {len(others)} besides {user_id!r}",
            hint="Ask for fewer, or build a larger pool.",
        )
    target = embeddings.vector(user_id).double().numpy()
    matrix = np.stack([(theirs or embeddings).vector(sharer).double().numpy() for sharer in others])
    found = [Neighbour(*pair) for pair in zip(others, cosine(target, matrix).tolist(), strict=True)]
    return sorted(found, key=lambda one: (-one.similarity, one.user_id))[:count]


def weigh(neighbours: Sequence[Neighbour], weighting: Weighting, temperature: float = 1.0) -> list[tuple[str, float]]:
    """(sharer, weight) of whole LoRAs; the weights sum to 1.

    softmax: PEFT retrieval, exp(cos / temperature), normalized. uniform: 1 / k. single: the nearest sharer alone.
    """
    if weighting == "single":
        return [(neighbours[0].user_id, 1.0)]
    scores = np.array([one.similarity if weighting == "softmax" else 0.0 for one in neighbours]) / temperature
    weights = np.exp(scores - scores.max())
    return [(one.user_id, float(w)) for one, w in zip(neighbours, weights / weights.sum(), strict=True)]
