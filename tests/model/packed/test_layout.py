"""The shapes that passes are padded to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perpcs_cli.model.packed.layout import MOST_TOKENS, QUERIES, Line, Shape
from perpcs_cli.model.transfers import Upload

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("starts", "lengths", "expected"),
    [
        ([5], [1], Shape(1, 1, 128)),
        ([5, 200], [1, 1], Shape(2, 1, 256)),
        ([5, 200, 100], [1, 1, 1], Shape(4, 1, 256)),
        ([298], [2], Shape(2, 8, 300)),
        ([10, 10], [9, 1], Shape(16, 32, 128)),
        ([0] * 16, [32] * 16, Shape(512, 32, 128)),
        ([0] * 17, [32] * 17, None),
        ([0], [QUERIES[-1] + 1], None),
    ],
)
def test_shapes(starts, lengths, expected):
    assert Shape.fitting(starts, lengths, 300) == expected


@st.composite
def lines(draw: st.DrawFn) -> Line:
    rows, capacity = draw(st.integers(1, 9)), 96
    slots = sorted(draw(st.sets(st.integers(0, rows - 1), min_size=1)))
    lengths = [draw(st.integers(1, QUERIES[-1])) for _ in slots]
    starts = [draw(st.integers(0, capacity - length)) for length in lengths]
    tokens = [list(range(100 * slot, 100 * slot + length)) for slot, length in zip(slots, lengths, strict=True)]
    return Line.of(slots, starts, tokens, (rows, capacity))


@given(lines())
def test_padding_changes_no_row(line: Line) -> None:
    """Each row's queries are its own tokens at their own positions, and each token's output is its own query's."""
    shape = Shape.fitting(line.starts.tolist(), line.lengths.tolist(), line.room[1])
    assert shape is not None
    assert shape.tokens <= MOST_TOKENS
    upload = Upload(CPU)
    layout = line.padded(shape, upload)
    upload.send()
    (group,) = layout.groups
    ids, positions, places = (sent.tensor.numpy() for sent in (layout.ids, layout.positions, layout.places))
    assert group.take and group.put
    take, put = group.take.tensor.numpy(), group.put.tensor.numpy()
    count, (rows, capacity) = layout.count, line.room
    assert {len(part) for part in (ids, positions, places, put)} == {shape.tokens}
    assert len(take) == rows * shape.queries
    np.testing.assert_array_equal(ids[:count], line.ids)
    np.testing.assert_array_equal(places[:count] // capacity, np.repeat(line.slots, line.lengths))
    np.testing.assert_array_equal(places[:count] % capacity, positions[:count])
    assert (places[count:] == rows * capacity).all()
    # Out of the queries a token's output comes back, where its own query went in.
    np.testing.assert_array_equal(take[put[:count]], np.arange(count))
    np.testing.assert_array_equal(group.positions.tensor.numpy().reshape(-1)[put[:count]], positions[:count])
    np.testing.assert_array_equal(put[:count] // shape.queries, np.repeat(line.slots, line.lengths))
    assert positions.max() < shape.width
