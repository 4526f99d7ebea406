"""The order of examples: every epoch sees each once, whatever the batches, and jobs do not disturb each other."""

from __future__ import annotations

import random
from itertools import chain
from typing import Any

import pytest

from perpcs_cli.artifacts.settings import TrainSettings
from perpcs_cli.model.training.order import draw_steps, evenly, side_by_side, total_steps


def settings(**changes: Any) -> TrainSettings:
    return TrainSettings(**{"batch_size": 4, "lr": 1e-3, "epochs": 1, **changes})


def drawn(count: int, seed: int = 0, **changes: Any) -> list[list[list[int]]]:
    return list(draw_steps(range(count), settings(**changes), random.Random(seed)))


@pytest.mark.parametrize(
    ("changes", "examples", "expected"),
    [
        ({"steps": 100}, 7, 100),
        ({}, 7, 2),
        ({"epochs": 3}, 8, 6),
        ({"epochs": 3, "accumulate": 2}, 12, 6),
        ({}, 0, 0),
    ],
)
def test_total_steps(changes: dict[str, Any], examples: int, expected: int) -> None:
    assert total_steps(settings(**changes), examples) == expected
    if examples:
        assert len(drawn(examples, **changes)) == expected


@pytest.mark.parametrize("accumulate", [1, 2, 4, 8])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 50])
def test_each_epoch_sees_every_example_once(batch_size: int, accumulate: int) -> None:
    steps = drawn(5, epochs=3, batch_size=batch_size, accumulate=accumulate)
    seen = list(chain.from_iterable(chain.from_iterable(steps)))
    epochs = [seen[start : start + 5] for start in range(0, len(seen), 5)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(5))] * 3
    assert epochs[0] != epochs[1]
    assert max(len(batch) for step in steps for batch in step) == min(5, batch_size)
    assert max(map(len, steps)) == min(accumulate, -(-5 // batch_size))


def test_steps_go_on_through_as_many_epochs_as_they_need() -> None:
    seen = list(chain.from_iterable(chain.from_iterable(drawn(3, steps=5, batch_size=2))))
    # Two and a half epochs of two batches.
    assert sorted(seen[:3]) == sorted(seen[3:6]) == [0, 1, 2]
    assert len(seen) == 8


def test_side_by_side_each_training_sees_what_it_sees_alone() -> None:
    counts = {0: 5, 1: 2, 2: 9}
    alone = {number: drawn(count, number, epochs=2, batch_size=2, accumulate=3) for number, count in counts.items()}
    streams = [iter(steps) for steps in alone.values()]
    found: dict[int, list[list[list[int]]]] = {number: [] for number in counts}
    for passes in side_by_side(streams):
        for number in passes[0]:
            assert sum(some[number][1] for some in passes if number in some) == pytest.approx(1)
            found[number].append([some[number][0] for some in passes if number in some])
    assert found == alone


@pytest.mark.parametrize(
    ("sizes", "most", "expected"),
    [
        ([3, 3, 3], 9, [3]),
        ([3, 3, 3, 3], 9, [2, 2]),
        ([20, 1, 1], 9, [1, 2]),
        ([5] * 10, 1, [1] * 10),
        ([4] * 7, 10, [2, 3, 2]),
    ],
)
def test_parts_are_few_and_of_about_the_same_size(sizes, most, expected):
    parts = list(evenly(range(len(sizes)), sizes, most))
    assert [item for part in parts for item in part] == list(range(len(sizes)))
    assert [len(part) for part in parts] == expected
