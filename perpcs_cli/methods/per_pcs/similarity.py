"""Which sharers are most like a user, by the cosine of their embeddings, and PEFT retrieval's weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from perpcs_cli.artifacts.embeddings import Embeddings
from perpcs_cli.artifacts.settings import Weighting
from perpcs_cli.errors import UsageError


class Neighbour(NamedTuple):
    """A sharer and the cosine of its embedding with the target's."""

    user_id: str
    similarity: float


def nearest(
    embeddings: Embeddings, user_id: str, sharers: Sequence[str], count: int, theirs: Embeddings | None = None
) -> list[Neighbour]:
    """The `count` sharers most similar to a user, best first, ties by id; never the user itself.

    `theirs`: the sharers' embeddings, where they are apart from the users' `embeddings`.
    Raises DataError where the user or a sharer has no embedding, UsageError where there are fewer sharers.
    """
    from sklearn.metrics.pairwise import cosine_similarity

    others = sorted(sharer for sharer in sharers if sharer != user_id)
    if count > len(others):
        raise UsageError(
            f"{count} sharers are asked for, and there are {len(others)} besides {user_id!r}",
            hint="Ask for fewer, or build a larger pool.",
        )
    target = embeddings.vector(user_id).double().numpy()
    matrix = np.stack([(theirs or embeddings).vector(sharer).double().numpy() for sharer in others])
    # A vector of zeros is like nobody: its cosines are 0.
    cosines = cosine_similarity(target[None], matrix)[0]
    found = [Neighbour(*pair) for pair in zip(others, cosines.tolist(), strict=True)]
    return sorted(found, key=lambda one: (-one.similarity, one.user_id))[:count]


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
