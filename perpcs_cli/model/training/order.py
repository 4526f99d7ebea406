"""The order in which a training sees its examples."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TypeVar

from perpcs_cli.artifacts.settings import TrainSettings

Example = TypeVar("Example")

MOST = 8192
"""Tokens of a training pass: with more a device computes no faster."""
CHUNK = 256
"""Answer tokens whose distributions are in float32 at a time."""


def total_steps(settings: TrainSettings, examples: int) -> int:
    """Optimizer steps of a training: `steps`, else `epochs` over all examples."""
    batches = math.ceil(examples / settings.batch_size)
    return settings.steps or settings.epochs * math.ceil(batches / settings.accumulate)


def draw_steps(
    examples: Sequence[Example], settings: TrainSettings, shuffler: random.Random
) -> Iterator[list[list[Example]]]:
    """The batches of each of `total_steps` optimizer steps.

    Every epoch is shuffled anew and seen once: its last batch may be smaller than the others, and its last step may
    have fewer batches than `accumulate`. There must be examples.
    """
    left = total_steps(settings, len(examples))
    while left:
        order = list(examples)
        shuffler.shuffle(order)
        batches = [order[start : start + settings.batch_size] for start in range(0, len(order), settings.batch_size)]
        for start in range(0, len(batches), settings.accumulate):
            if left:
                left -= 1
                yield batches[start : start + settings.accumulate]


def side_by_side(
    streams: Sequence[Iterator[list[list[Example]]]],
) -> Iterator[list[dict[int, tuple[list[Example], float]]]]:
    """The passes of each step of trainings that run side by side, until the last of them has ended.

    A pass holds, by the training's number, its batch and the batch's share of the step's gradient.
    """
    running = dict(enumerate(streams))
    while steps := {number: step for number, stream in running.items() if (step := next(stream, None)) is not None}:
        yield [
            {number: (step[place], 1 / len(step)) for number, step in steps.items() if place < len(step)}
            for place in range(max(map(len, steps.values())))
        ]


def evenly(examples: Sequence[Example], sizes: Sequence[int], most: int) -> Iterator[list[Example]]:
    """The examples in order, in Σ sizes / `most` parts of about the same size; one item is always allowed."""
    total = sum(sizes)
    parts = -(-total // most)
    before, places = 0, []
    for size in sizes:
        # Where the middle of an item lies.
        places.append(int((before + size / 2) * parts / total))
        before += size
    for _, some in groupby(zip(places, examples, strict=True), lambda one: one[0]):
        yield [item for _, item in some]
