"""`pool.pieces.txt`: the digest of each piece of a pool, by which one is checked without reading the others.

A line a sharer, in the order of the manifest: 64 hexadecimal digits for each of the pool's linear layers, in their
order, one after the other. The manifest has the digest of each line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from perpcs_cli.artifacts.io import atomic, hashing
from perpcs_cli.artifacts.io.reading import opened
from perpcs_cli.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from perpcs_cli.artifacts.io.tensors import TensorFile

DIGITS = 64
MISSING = "0" * DIGITS
"""Stands for a piece that the sharer's files do not have."""
AGAIN = "Build the pool again with `perpcs pool build --force`."


def tensors_digest(*tensors: Tensor) -> str:
    """SHA-256 of tensors, with their types and shapes: of what is computed with, and not of the file around it."""
    import torch

    found = hashlib.sha256()
    for tensor in tensors:
        found.update(f"{tensor.dtype} {list(tensor.shape)}\n".encode())
        found.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return found.hexdigest()


def stored_digest(file: TensorFile, *keys: str) -> str:
    """The same of tensors in a file, which needs no torch but for bfloat16. Raises DataError as reading them does."""
    if any(file.check(key) == "BF16" for key in keys):
        return tensors_digest(*map(file.read, keys))
    found = hashlib.sha256()
    for key in keys:
        array = file.read_array(key)
        found.update(f"torch.{array.dtype} {list(array.shape)}\n".encode())
        found.update(array.data)
    return found.hexdigest()


def line_of(digests: Mapping[str, str], modules: Iterable[str]) -> str:
    """One sharer's line, from {linear layer: digest}."""
    return "".join(digests.get(module, MISSING) for module in modules)


def line_digest(line: str) -> str:
    """SHA-256 of a line, as the manifest has it."""
    return hashing.digest_bytes(line.encode())


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write the file, atomically."""
    with atomic.replacing(path) as temporary, temporary.open("w", encoding="ascii", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)


def read_line(path: Path, index: int, modules: Sequence[str], digest: str) -> dict[str, str]:
    """{linear layer: digest} of the sharer at `index`, reading nothing else.

    Raises DataError where it is missing or not what the manifest recorded.
    """
    size = DIGITS * len(modules)
    with opened(path) as file:
        file.seek(index * (size + 1))
        line = file.read(size)
    if hashing.digest_bytes(line) != digest:
        raise DataError("the digests of the pool's pieces are missing or have changed", where=path, hint=AGAIN)
    text = line.decode()
    return {module: text[DIGITS * at : DIGITS * (at + 1)] for at, module in enumerate(modules)}


def keep_lines(path: Path, kept: Collection[int], modules: int) -> None:
    """Leave the lines at the places `kept`. Nothing is done where there are no more than these already."""
    size = DIGITS * modules + 1
    if path.exists() and path.stat().st_size == size * len(kept):
        return
    with opened(path) as file, atomic.replacing(path) as temporary, temporary.open("wb") as rest:
        for place in sorted(kept):
            file.seek(place * size)
            rest.write(file.read(size))
