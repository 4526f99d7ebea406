"""Digests of pieces: of what is computed with, found by their places, and kept in step with the sharers."""

from __future__ import annotations

import pytest
import torch

from perpcs_cli.artifacts.io.tensors import open_tensors, write_tensors
from perpcs_cli.artifacts.piece_digests import (
    keep_lines,
    line_digest,
    line_of,
    read_line,
    stored_digest,
    tensors_digest,
    write_lines,
)
from perpcs_cli.errors import DataError


def test_the_same_bytes_may_be_other_numbers():
    a, b = torch.arange(6.0).reshape(2, 3).bfloat16(), torch.ones(3, 2)
    others = [(a.view(torch.float16), b), (a.reshape(3, 2), b), (b, a), (a, -b)]
    assert tensors_digest(a, b) == tensors_digest(a.clone(), b.T.contiguous().T)
    assert len({tensors_digest(*pair) for pair in [(a, b), *others]}) == 5


def test_what_is_stored_has_the_digest_of_its_tensors(tmp_path):
    kinds = {"d": torch.double, "f": torch.float, "h": torch.half, "b": torch.bfloat16}
    named = {name: torch.arange(6.0).reshape(2, 3).to(kind) for name, kind in kinds.items()}
    write_tensors(tmp_path / "t.safetensors", named, {})
    file = open_tensors(tmp_path / "t.safetensors")
    for pair in (["d"], ["f", "h"], ["h", "f"], ["b", "f"]):
        assert stored_digest(file, *pair) == tensors_digest(*(named[name] for name in pair))


def lines():
    return [line_of({"m": f"{n:x}" * 64, "k": f"{n + 1:x}" * 64}, ["m", "gone", "k"]) for n in range(4)]


def test_each_sharer_has_a_line(tmp_path):
    path = tmp_path / "pool.pieces.txt"
    write_lines(path, lines())
    for index, line in enumerate(lines()):
        found = read_line(path, index, ["m", "gone", "k"], line_digest(line))
        assert found == {"m": f"{index:x}" * 64, "gone": "0" * 64, "k": f"{index + 1:x}" * 64}
    with pytest.raises(DataError, match="missing or have changed"):
        read_line(path, 4, ["m", "gone", "k"], line_digest(lines()[0]))


def test_lines_are_taken_out_once(tmp_path):
    path = tmp_path / "pool.pieces.txt"
    write_lines(path, lines())
    for _ in range(2):
        keep_lines(path, [3, 1], 3)
        assert path.read_text().splitlines() == [lines()[1], lines()[3]]
    keep_lines(path, [], 3)
    assert path.read_bytes() == b""
