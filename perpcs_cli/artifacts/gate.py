"""`gate.safetensors`: one vector [n] per piece of a sharer, keyed by the linear layer's name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from perpcs_cli.artifacts.io import tensors, typed_files
from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.privacy import Guarantee
from perpcs_cli.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

FILE = "gate.safetensors"
META = "perpcs"


class GateCard(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="format", tag="perpcs.gate/2"
):
    """The metadata of a gate file: whose gates they are, for which adapter, and how they were trained."""

    user_id: str
    adapter: str
    """SHA-256 of the adapter's weights."""
    steps: int
    first_loss: float | None = None
    last_loss: float | None = None
    """Left out with a guarantee of privacy, as in the sharer's card."""
    privacy: Guarantee | None = None
    """What the gates alone guarantee; what they guarantee together with the adapter is in the pool's manifest."""
    provenance: Provenance


def write_gates(path: Path, gates: dict[str, Tensor], card: GateCard) -> None:
    """Write one vector [n] per linear layer, float32."""
    tensors.write_tensors(path, gates, {META: msgspec.json.encode(card).decode()})


def read_gates(path: Path) -> tuple[tensors.TensorFile, GateCard]:
    """The opened gates and their card. Raises DataError where the file is missing, broken or another kind."""
    if not path.exists():
        raise DataError("the sharer has no gates", where=path, hint="Train them with `perpcs gate`.")
    file = tensors.open_tensors(path)
    return file, read_metadata(file, GateCard)


def read_fitting_gates(path: Path, layers: Mapping[str, tuple[int, int]]) -> tuple[dict[str, Tensor], GateCard]:
    """The gates [n] of all linear layers in `layers`, given with their (d, n), and the card.

    Raises DataError as `read_gates` does, and where there are others, or one has another shape or is not finite.
    """
    file, card = read_gates(path)
    if extra := sorted(set(file.keys) - set(layers), key=tensors.natural):
        raise DataError(f"unexpected tensor {extra[0]!r}", where=path)
    vectors = {module: file.read(module) for module in layers}
    for module, vector in vectors.items():
        if tuple(vector.shape) != (layers[module][1],):
            raise DataError(f"the gate of {module!r} has shape {list(vector.shape)}", where=path)
    return vectors, card


def read_metadata(file: tensors.TensorFile, kind: type[GateCard]) -> GateCard:
    """The card in a tensor file's metadata."""
    try:
        return msgspec.json.decode(file.metadata.get(META, ""), type=kind)
    except typed_files.UNREADABLE as error:
        raise DataError(f"its metadata is not that of a gate file: {error}", where=file.path) from None
