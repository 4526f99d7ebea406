"""How many tokens are in a training pass at a time, so that what is kept for its gradient fits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TypeVar

Item = TypeVar("Item")

MOST = 8192
"""Tokens of a pass: with more a device computes no faster."""


def evenly(items: Sequence[Item], sizes: Sequence[int], most: int) -> Iterator[list[Item]]:
    """The items in order, in as few parts as there must be, of about the same size; one item is always allowed."""
    total = sum(sizes)
    parts = -(-total // most)
    before, places = 0, []
    for size in sizes:
        # Where the middle of an item lies.
        places.append(int((before + size / 2) * parts / total))
        before += size
    for _, some in groupby(zip(places, items, strict=True), lambda one: one[0]):
        yield [item for _, item in some]
