"""The cache of pieces: read from disk when first used, kept on the device while there is room."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from perpcs_cli.artifacts.adapter import Adapter
from perpcs_cli.model.loading.base import Base

CACHE_BYTES = 2 << 30
"""Pieces up to this size stay on the device; then the ones not used for longest make room."""


def ungated(module: str, sharer: int) -> Tensor | None:  # noqa: ARG001
    """No gates: what personal models are made of."""
    return None


class PieceCache:
    """The pieces of some adapters, read from disk when first used and then kept on the device while there is room.

    `gate` gives the gate [n] of an adapter's piece where the piece runs as gated: z = W v + B A v · σ(gᵀ v).
    """

    def __init__(
        self,
        base: Base,
        adapter: Callable[[int], Adapter],
        gate: Callable[[str, int], Tensor | None] = ungated,
    ) -> None:
        self.modules = list(base.targets)
        self.device = base.device
        self.dtype = base.dtype
        self.adapter = adapter
        self.gate = gate
        self._pieces: OrderedDict[tuple[str, int], tuple[Tensor, Tensor]] = OrderedDict()
        self._bytes = 0

    def stack(self, module: str, sharers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(a [U·r, n], b [d, U·r]) of the named sharers' pieces, the scale folded into b.

        r is the largest of their ranks; the factors of the others are filled with zeros, which add nothing.
        """
        pieces = [self._piece(module, sharer) for sharer in sharers]
        if len(pieces) == 1:
            return pieces[0]
        rank = max(len(a) for a, _ in pieces)
        if any(len(a) < rank for a, _ in pieces):
            pieces = [(pad(a, (0, 0, 0, rank - len(a))), pad(b, (0, rank - len(a)))) for a, b in pieces]
        return torch.cat([a for a, _ in pieces]), torch.cat([b for _, b in pieces], dim=1)

    def gated(self, module: str, sharers: Sequence[int]) -> list[bool]:
        """Which of the named sharers' pieces have a gate."""
        return [self.gate(module, sharer) is not None for sharer in sharers]

    def gates(self, module: str, sharers: Sequence[int]) -> Tensor | None:
        """Gates [U, n], zeros where a sharer has none, or None where nobody has one."""
        found = [self.gate(module, sharer) for sharer in sharers]
        some = next((gate for gate in found if gate is not None), None)
        if some is None:
            return None
        stacked = torch.stack([torch.zeros_like(some) if gate is None else gate for gate in found])
        return stacked.to(self.device, self.dtype)

    def _piece(self, module: str, sharer: int) -> tuple[Tensor, Tensor]:
        key = (module, sharer)
        if key not in self._pieces:
            adapter = self.adapter(sharer)
            a, b = adapter.piece(module)
            scaled = b.float() * adapter.scale
            self._pieces[key] = (a.to(self.device, self.dtype), scaled.to(self.device, self.dtype))
            self._bytes += sum(factor.nbytes for factor in self._pieces[key])
            while self._bytes > CACHE_BYTES and len(self._pieces) > 1:
                _, oldest = self._pieces.popitem(last=False)
                self._bytes -= sum(factor.nbytes for factor in oldest)
        self._pieces.move_to_end(key)
        return self._pieces[key]
