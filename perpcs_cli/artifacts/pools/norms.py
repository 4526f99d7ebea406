"""How much a sharer's pieces change a model: a piece that is far too large spoils everybody's answers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import median
from typing import TYPE_CHECKING

from perpcs_cli.artifacts.adapter import Adapter
from perpcs_cli.artifacts.pool import OpenPool
from perpcs_cli.errors import DataError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

FAR = 10
"""A piece is remarkable where its norm is so many times the median of the pool's pieces of that linear layer."""


def piece_norm(a: Tensor, b: Tensor, scale: float) -> float:
    """The Frobenius norm of scale · B A, from A [r, n] and B [d, r] without their product [d, n].

    ‖B A‖² = tr(Bᵀ B · A Aᵀ), both [r, r], in float64.
    """
    a, b = a.double(), b.double()
    return abs(scale) * math.sqrt(max(0.0, float(((b.T @ b) * (a @ a.T)).sum())))


def norms(adapter: Adapter, modules: Iterable[str]) -> dict[str, float]:
    """The norm of each of an adapter's pieces of `modules`."""
    return {module: piece_norm(*adapter.piece(module), adapter.scale) for module in modules}


def check_bound(bound: float | None) -> None:
    """Raise UsageError where `bound` is no norm that something could stay below."""
    if bound is not None and not 0 < bound < math.inf:
        raise UsageError(f"must be above 0, and is {bound}", where="--max-norm")


def check_norms(adapter: Adapter, name: str, modules: Iterable[str], bound: float) -> None:
    """Raise DataError for the first piece of the sharer `name` whose norm is above `bound`, or not finite."""
    for module, norm in norms(adapter, modules).items():
        if not norm <= bound:
            raise DataError(
                f"the piece of sharer {name!r} for {module!r} has the norm {norm:.4g}, above {bound:g}",
                where=adapter.path,
                hint="Leave the sharer out, or give a larger --max-norm.",
            )


def far_from_others(pool: OpenPool) -> list[str]:
    """A sentence for each sharer of a whole pool with a piece that is more than FAR times as large as the others'."""
    found = [norms(pool.open(index), pool.given(index)) for index in range(len(pool.ids))]
    usual = {module: median(one[module] for one in found if module in one) for one in found for module in one}
    sentences = []
    for name, own in zip(pool.ids, found, strict=True):
        ratios = {module: norm / usual[module] for module, norm in own.items() if usual[module]}
        worst = max(ratios, key=ratios.__getitem__, default="")
        if worst and ratios[worst] > FAR:
            much = f"the norm {own[worst]:.4g}, {ratios[worst]:.0f} times the median of the pool"
            sentences.append(f"the piece of sharer {name!r} for {worst!r} has {much}")
    return sentences
