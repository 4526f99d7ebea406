"""What one training adds at a linear layer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Piece:
    """What one training adds at a linear layer: scale · B A x for its own tokens of the line.

    `a`: [r, n]; `b`: [d, r]; `gate`: [n], where the piece runs as gated by σ(gᵀ x) (Per-PCs, equation 3).
    """

    tokens: slice
    scale: float
    a: Tensor
    b: Tensor
    gate: Tensor | None = None
