"""A recipe's update as one pair of factors for each linear layer: exactly, or the nearest of a lower rank.

ΔW = B A is never formed: it has d · n numbers, its factors r · (d + n).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from perpcs_cli.artifacts.settings import Merge

Factors = tuple[Tensor, Tensor]
"""(A [r, n], B [d, r]) of one linear layer."""


def combined(pieces: Sequence[Factors], scales: Sequence[float], weights: Sequence[float], merge: Merge) -> Factors:
    """One pair of factors, in float64, for pieces (A [r, n], B [d, r]) with their scales and a recipe's weights.

    product: ΔW = Σ w · scale · B A, the factors side by side, of rank Σ r. factor: ΔW = (Σ w · scale · B)(Σ w A), of
    the largest r, smaller ones filled with zeros. Raises ValueError for no pieces.
    """
    first = [a.double() for a, _ in pieces]
    second = [b.double() * (scale * weight) for (_, b), scale, weight in zip(pieces, scales, weights, strict=True)]
    if merge == "product":
        return torch.cat(first), torch.cat(second, dim=1)
    rank = max(map(len, first))
    filled = [padded((a * weight, b), rank) for a, b, weight in zip(first, second, weights, strict=True)]
    return torch.stack([a for a, _ in filled]).sum(0), torch.stack([b for _, b in filled]).sum(0)


def side_by_side(some: Sequence[Factors]) -> Factors:
    """The factors of the sum of updates, [Σ r, n] and [d, Σ r]."""
    return torch.cat([a for a, _ in some]), torch.cat([b for _, b in some], dim=1)


def padded(factors: Factors, rank: int) -> Factors:
    """The same update with factors of a larger rank: the further rows of A and columns of B are zeros."""
    a, b = factors
    return pad(a, (0, 0, 0, rank - len(a))), pad(b, (0, rank - len(a)))


def nearest(factors: Factors, rank: int) -> tuple[Factors, float]:
    """(the factors of the nearest update of at most `rank`, its relative error ‖ΔW - ΔW'‖ / ‖ΔW‖ by Frobenius norm).

    By the singular values of B A = Q_B (R_B R_Aᵀ) Q_Aᵀ, of which the core is [r, r]: the nearest one by Eckart and
    Young (1936). An update that has no larger rank comes back as it is, with the error 0.
    """
    a, b = factors
    if len(a) <= rank:
        return factors, 0.0
    left, upper = torch.linalg.qr(b)
    right, other = torch.linalg.qr(a.T)
    u, values, v = torch.linalg.svd(upper @ other.T)
    total, lost = float(values.square().sum()), float(values[rank:].square().sum())
    root = values[:rank].sqrt()
    near = (root[:, None] * (right @ v[:rank].T).T, (left @ u[:, :rank]) * root)
    return near, (lost / total) ** 0.5 if total else 0.0
