"""What goes to the device goes in one copy, and arrives as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perpcs_cli.model.transfers import Upload, fetch, integers

TYPES = st.sampled_from([np.int64, np.float32, np.float64])
SHAPES = st.lists(st.tuples(TYPES, st.lists(st.integers(0, 4), min_size=1, max_size=3)), max_size=6)


@given(SHAPES)
def test_arrays_arrive_as_they_were(shapes):
    some = [(np.arange(np.prod(shape)) - 7).reshape(shape).astype(kind) for kind, shape in shapes]
    upload = Upload(torch.device("cpu"))
    sent = [upload.add(array) for array in some]
    upload.send()
    for one, array in zip(sent, some, strict=True):
        found = fetch(one.tensor)
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


def test_all_of_them_share_one_tensor():
    upload = Upload(torch.device("cpu"))
    parts = [upload.add(integers([1, 2, 3])), upload.add(np.ones((2, 2), np.float32))]
    upload.send()
    assert {part.tensor.untyped_storage().data_ptr() for part in parts} == {upload.sent.untyped_storage().data_ptr()}


def test_nothing_is_there_before_it_was_sent():
    with pytest.raises(RuntimeError, match="the upload was not sent yet"):
        Upload(torch.device("cpu")).add(integers([1])).tensor  # noqa: B018
