"""Digests of files and values."""

from __future__ import annotations

import msgspec
import pytest

from perpcs_cli.artifacts.io import hashing
from perpcs_cli.errors import DataError


class Row(msgspec.Struct):
    id: int


def test_digests(tmp_path):
    assert hashing.digest_bytes(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (tmp_path / "file").write_bytes(b"abc")
    assert hashing.digest_file(tmp_path / "file") == hashing.digest_bytes(b"abc")
    with pytest.raises(DataError, match="no such file"):
        hashing.digest_file(tmp_path / "a.json")


def test_a_values_digest_does_not_depend_on_the_order_of_keys():
    assert hashing.digest_value({"a": 1, "b": {"c": 2, "d": 3}}) == hashing.digest_value(
        {"b": {"d": 3, "c": 2}, "a": 1}
    )
    assert hashing.digest_value([1, 2]) != hashing.digest_value([2, 1])
    assert hashing.digest_value(Row(1)) == hashing.digest_value({"id": 1})
    assert hashing.digest_value({"a": 1}) != hashing.digest_value({"a": "1"})


def test_every_purpose_has_a_seed_of_its_own():
    seeds = {hashing.derive_seed(*parts) for parts in ((0, "a"), (1, "a"), (0, "b"), (0, "a", "b"), (0, "a", 1))}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**60 for seed in seeds)
    assert hashing.derive_seed(0, "a", 1) == hashing.derive_seed(0, "a", 1)


@pytest.mark.parametrize("values", [[], [Row(1)], [["né", None], {"b": 1, "a": 2.5}, Row(3)]])
def test_values_that_come_one_by_one_have_the_digest_of_their_list(values):
    assert hashing.digest_values(iter(values)) == hashing.digest_value(values)
