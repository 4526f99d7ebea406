"""Safetensors files, read one tensor at a time and checked: names, finite values, truncation. torch loads on use."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from perpcs_cli.artifacts.io import atomic, limits, typed_files
from perpcs_cli.artifacts.io.reading import opened
from perpcs_cli.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

META = "perpcs"
DTYPES = ("F64", "F32", "F16", "BF16")
"""What is computed with, by safetensors' names."""
NAMES = 4096
"""Sort keys that are kept: sharers' files name the same linear layers."""
Card = TypeVar("Card", bound=msgspec.Struct)


@dataclass(frozen=True)
class TensorFile:
    """An opened, memory-mapped safetensors file."""

    path: Path
    header: Any
    """Opened for what its header says, which needs no torch."""
    keys: list[str]
    metadata: dict[str, str]

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(self.keys)

    @cached_property
    def _tensors(self) -> Any:
        return _opened_for(self.path, "pt")

    def read(self, key: str) -> Tensor:
        """One tensor. Raises DataError where it is missing, empty, of another type than DTYPES, or holds NaN or
        infinity."""
        self.check(key)
        tensor: Tensor = self._tensors.get_tensor(key)
        if list(tensor.shape) != self.shape(key):
            raise DataError("has changed while it was read", where=self.path, hint="Run the command again.")
        if not tensor.isfinite().all():
            raise DataError(f"the tensor {key!r} holds NaN or infinity", where=self.path)
        return tensor

    def read_array(self, key: str) -> NDArray[Any]:
        """The same as an array, which needs no torch but for bfloat16, which becomes float32."""
        import numpy as np

        if self.check(key) == "BF16":
            return self.read(key).float().numpy()
        array: NDArray[Any] = self.header.get_tensor(key)
        if not np.isfinite(array).all():
            raise DataError(f"the tensor {key!r} holds NaN or infinity", where=self.path)
        return array

    def check(self, key: str) -> str:
        """The type of a tensor that can be read, of DTYPES. Raises DataError as `read` does, but for its values."""
        described = self._described(key)
        if not all(described.get_shape()):
            raise DataError(f"the tensor {key!r} is empty", where=self.path)
        kind = described.get_dtype()
        if kind not in DTYPES:
            hint = f"Readable are {', '.join(DTYPES)}."
            raise DataError(
                f"the tensor {key!r} holds {kind}, and no floating-point numbers", where=self.path, hint=hint
            )
        return str(kind)

    def shape(self, key: str) -> list[int]:
        """The shape of one tensor, without reading it. Raises DataError where it is missing."""
        return list(self._described(key).get_shape())

    def _described(self, key: str) -> Any:
        """What the header says of one tensor."""
        if key not in self._names:
            raise DataError(f"missing tensor {key!r}", where=self.path)
        return self.header.get_slice(key)


def open_tensors(path: Path) -> TensorFile:
    """Open a safetensors file. Raises DataError where it is missing, another kind of file, truncated, or beyond the
    bounds on headers and tensors."""
    if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl"):
        raise DataError("pickled tensors are never loaded", where=path, hint="Convert the file to safetensors.")
    if not path.is_file():
        raise DataError("no such file", where=path)
    read_header(path)
    header = _opened_for(path, "np")
    keys: list[str] = list(header.keys())
    metadata: dict[str, str] = header.metadata() or {}
    if len(keys) > limits.TENSORS:
        raise DataError(f"holds {len(keys)} tensors; {limits.TENSORS} are the most", where=path)
    return TensorFile(path, header, keys, metadata)


def _opened_for(path: Path, framework: str) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(str(path), framework=framework)
    except (SafetensorError, OSError) as error:
        raise DataError(f"not a whole safetensors file: {error}", where=path) from None


def read_header(path: Path) -> bytes:
    """The header of a safetensors file, as JSON. Raises DataError where it is cut off or too large."""
    with opened(path) as file:
        size, held = int.from_bytes(file.read(8), "little"), os.fstat(file.fileno()).st_size - 8
        if size > limits.HEADER_BYTES:
            what = f"not a whole safetensors file: a header of {size} bytes; {limits.HEADER_BYTES} are the most"
            raise DataError(what, where=path)
        if not 0 < size <= held:
            raise DataError("not a whole safetensors file: its header is cut off", where=path)
        return file.read(size)


def write_tensors(path: Path, named: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors atomically; the same content always gives the same bytes. Raises DataError for NaN or infinity."""
    from safetensors.torch import save_file

    for key, tensor in named.items():
        if not tensor.isfinite().all():
            raise DataError(
                f"not written: {key!r} would hold NaN or infinity", where=path, hint="Try a lower learning rate."
            )
    ordered = {key: named[key].detach().cpu().contiguous() for key in sorted(named, key=natural)}
    with atomic.replacing(path) as temporary:
        save_file(ordered, str(temporary), metadata=dict(sorted(metadata.items())))


def card_metadata(card: msgspec.Struct) -> dict[str, str]:
    """A typed card as the metadata of a tensor file."""
    return {META: msgspec.json.encode(card).decode()}


def read_card(file: TensorFile, kind: type[Card], what: str) -> Card:
    """The typed card in a tensor file's metadata. Raises DataError where it is not that of `what`."""
    try:
        return msgspec.json.decode(file.metadata.get(META, ""), type=kind)
    except typed_files.UNREADABLE as error:
        raise DataError(f"its metadata is not that of {what}: {error}", where=file.path) from None


@lru_cache(NAMES)
def natural(name: str) -> list[tuple[int, str]]:
    """A sort key that puts layer 2 before layer 10."""
    parts = re.split(r"([0-9]+)", name)
    # By the count of digits and then by them: a name may have more than an int takes.
    return [(len(d := part.lstrip("0")), d) if part[:1].isdecimal() else (-1, part) for part in parts]
