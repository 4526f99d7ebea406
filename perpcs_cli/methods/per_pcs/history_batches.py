"""A target user's history in the batches that pieces are chosen by."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from perpcs_cli.artifacts.io import hashing
from perpcs_cli.artifacts.settings import AssembleSettings
from perpcs_cli.model.engine.batching import Encoded


@dataclass(frozen=True)
class HistoryBatch:
    """The rows of one decision: one batch of one user's history."""

    user_id: str
    number: int
    rows: Sequence[Encoded]
    withheld: Collection[int] = ()
    """The places among the sharers whose pieces are not on offer: the user's own, and those who are not similar."""


def make_batches(
    user_id: str,
    history: Sequence[Encoded],
    settings: AssembleSettings,
    withheld: Collection[int] = (),
    *,
    seed: int = 0,
) -> list[HistoryBatch]:
    """A user's history in batches, in order, or in one drawn by seed and user, as in the published code."""
    rows, size = list(history), settings.batch_size
    if settings.shuffle:
        random.Random(hashing.derive_seed(seed, "batches", user_id)).shuffle(rows)
    starts = range(0, len(rows), size)
    return [HistoryBatch(user_id, number, rows[at : at + size], withheld) for number, at in enumerate(starts)]
