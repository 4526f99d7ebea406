"""Safetensors files: what is too large, empty or of another type is refused before anything is computed."""

from __future__ import annotations

import json
import multiprocessing
import resource
import signal
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from perpcs_cli.artifacts.io import limits, tensors
from perpcs_cli.errors import DataError, PerpcsError


def write(path: Path, header: dict[str, Any], data: bytes = b"") -> Path:
    """A safetensors file with a header as it is given."""
    plain = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(plain)) + plain + data)
    return path


def entry(kind: str, shape: list[int], size: int) -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": [0, size]}


@pytest.mark.parametrize("metadata", [{"perpcs": 1}, {"a": None}, 3, []])
def test_metadata_that_is_no_text(tmp_path: Path, metadata: object) -> None:
    path = write(tmp_path / "a.safetensors", {"__metadata__": metadata})
    with pytest.raises(DataError, match="not a whole safetensors file"):
        tensors.open_tensors(path)


@pytest.mark.parametrize(("kind", "size"), [("I32", 4), ("U8", 1), ("BOOL", 1), ("F8_E4M3", 1), ("C64", 8)])
def test_what_are_no_floating_point_numbers(tmp_path: Path, kind: str, size: int) -> None:
    path = write(tmp_path / "a.safetensors", {"a": entry(kind, [2], 2 * size)}, bytes(2 * size))
    with pytest.raises(DataError, match=f"holds {kind}, and no floating-point numbers"):
        tensors.open_tensors(path).read("a")


@pytest.mark.parametrize("shape", [[0], [0, 10**18], [4, 0]])
def test_an_empty_tensor(tmp_path: Path, shape: list[int]) -> None:
    with pytest.raises(DataError, match="'a' is empty"):
        tensors.open_tensors(write(tmp_path / "a.safetensors", {"a": entry("F32", shape, 0)})).read("a")


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (limits.HEADER_BYTES + 1, "a header of 67108865 bytes; 67108864 are the most"),
        ((1 << 64) - 1, "a header of 18446744073709551615 bytes"),
        (limits.HEADER_BYTES, "its header is cut off"),
        (3, "its header is cut off"),
        (0, "its header is cut off"),
    ],
)
def test_headers_that_are_not_there(tmp_path: Path, size: int, message: str) -> None:
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", size) + b"{}")
    with pytest.raises(DataError, match=message):
        tensors.open_tensors(tmp_path / "a.safetensors")


def test_too_many_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TENSORS", 2)
    tensors.write_tensors(tmp_path / "a.safetensors", {name: torch.ones(1) for name in "abc"}, {})
    with pytest.raises(DataError, match="holds 3 tensors; 2 are the most"):
        tensors.open_tensors(tmp_path / "a.safetensors")


def test_layers_are_in_the_order_of_their_numbers() -> None:
    ordered = ["l", "l.02.p", "l.2.q", "l.10.q", f"l.{'9' * 5000}.q", "l.²"]
    assert sorted(set(ordered), key=tensors.natural) == ordered


def test_a_full_disk(tmp_path: Path) -> None:
    """safetensors writes by itself, and its error is not the system's. A limit on files' sizes stands for the disk."""

    def child() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        with pytest.raises(PerpcsError, match=r"t\.safetensors: cannot be written: .*File too large"):
            tensors.write_tensors(tmp_path / "t.safetensors", {"a": torch.ones(10_000)}, {})

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == 0
    assert list(tmp_path.iterdir()) == []


def test_a_tensor_that_is_not_what_the_header_said_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", {"a": entry("F32", [2], 8)}, bytes(8))
    opened = tensors.open_tensors(path)
    other = write(tmp_path / "b.safetensors", {"a": entry("F32", [1], 4)}, bytes(4))
    other.replace(path)
    assert opened.shape("a") == [2]
    with pytest.raises(DataError, match="has changed while it was read"):
        opened.read("a")
