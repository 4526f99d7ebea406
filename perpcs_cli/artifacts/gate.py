"""`gate.safetensors`: one vector [n] per piece of a sharer, keyed by the linear layer's name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from perpcs_cli.artifacts.io import tensors
from perpcs_cli.artifacts.io.limits import Count
from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.privacy import Guarantee
from perpcs_cli.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

FILE = "gate.safetensors"


class GateCard(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="format", tag="perpcs.gate/2"
):
    """The metadata of a gate file: whose gates they are, for which adapter, and how they were trained."""

    user_id: str
    adapter: str
    """SHA-256 of the adapter's weights."""
    steps: Count
    first_loss: float | None = None
    last_loss: float | None = None
    """Left out with a guarantee of privacy, as in the sharer's card."""
    privacy: Guarantee | None = None
    """What the gates alone guarantee; what they guarantee together with the adapter is in the pool's manifest."""
    provenance: Provenance


def write_gates(path: Path, gates: dict[str, Tensor], card: GateCard) -> None:
    """Write one vector [n] per linear layer, float32."""
    tensors.write_tensors(path, gates, tensors.card_metadata(card))


def read_gates(path: Path) -> tuple[tensors.TensorFile, GateCard]:
    """The opened gates and their card. Raises DataError where the file is missing, broken or another kind."""
    if not path.exists():
        raise DataError("the sharer has no gates", where=path, hint="Train them with `perpcs gate`.")
    file = tensors.open_tensors(path)
    return file, read_gate_card(file)


def read_gate_card(file: tensors.TensorFile) -> GateCard:
    """The card of opened gates. Raises DataError where it is another kind of file."""
    return tensors.read_card(file, GateCard, "a gate file")


def read_fitting_gates(path: Path, layers: Mapping[str, tuple[int, int]]) -> tuple[dict[str, NDArray[Any]], GateCard]:
    """The gates [n] of all linear layers in `layers`, given with their (d, n), and the card.

    Raises DataError as `read_gates` does, and where there are others, or one has another shape or is not finite.
    """
    file, card = read_gates(path)
    if extra := sorted(set(file.keys) - set(layers), key=tensors.natural):
        raise DataError(f"unexpected tensor {extra[0]!r}", where=path)
    vectors = {module: file.read_array(module) for module in layers}
    for module, vector in vectors.items():
        if tuple(vector.shape) != (layers[module][1],):
            raise DataError(f"the gate of {module!r} has shape {list(vector.shape)}", where=path)
    return vectors, card
