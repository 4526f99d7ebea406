"""The attention of packed passes, which hangs on transformers' attention interface while a block lasts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from perpcs_cli.errors import PerpcsError
from perpcs_cli.model.fused import fused
from perpcs_cli.model.loading.base import Base

NAME = "perpcs_packed"


@dataclass(frozen=True)
class Kind:
    """How a layer attends: scores are multiplied by `scale`, reach back `window` positions, and are softly capped."""

    scale: float
    window: int | None
    softcap: float | None


class Attends(Protocol):
    """What a pass gives the model as `perpcs_rows`: it knows which tokens of the line see which."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, kind: Kind) -> Tensor:
        """The attention's output [1, tokens, heads, dim]; inputs are [1, heads, tokens, dim]."""


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: Tensor | None, **rest: Any
) -> tuple[Tensor, None]:
    """transformers' attention interface: `perpcs_rows` comes from the pass, the rest from the model."""
    rows: Attends | None = rest.get("perpcs_rows")
    if rows is None:
        raise PerpcsError(f"the model does not tell its {type(module).__name__} what it is told, as decoding needs")
    if odd := [name for name in ("s_aux", "position_bias") if rest.get(name) is not None]:
        raise PerpcsError(f"the model's attention uses {odd[0]}, which decoding does not know")
    scale = rest.get("scaling") or query.shape[-1] ** -0.5
    kind = Kind(scale, rest.get("sliding_window"), rest.get("softcap"))
    return rows.attend(int(module.layer_idx), query, key, value, kind), None


@contextmanager
def packed(base: Base) -> Iterator[None]:
    """Let the model run packed passes, with its norms and rotations fused, while the block lasts.

    Raises PerpcsError where the model's attention cannot be replaced.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _attention)
    model = base.model
    before = model.config._attn_implementation
    try:
        model.set_attn_implementation(NAME)
        if model.config._attn_implementation != NAME:
            raise PerpcsError(
                f"{type(model).__name__} does not use transformers' attention interface, which decoding needs"
            )
        with fused(base):
            yield
    finally:
        model.set_attn_implementation(before)
