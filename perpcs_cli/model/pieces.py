"""The pieces layer: the only place where LoRA arithmetic happens.

Every model that perpcs runs is the base plus a recipe, a weight for each (linear layer, sharer). Rows of one batch
may carry different recipes. The layer hangs on the linear layers as forward hooks, so that the transformers model
itself is never changed, and is taken off in every case.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perpcs_cli.artifacts.adapter import Adapter
from perpcs_cli.artifacts.workspace import Merge
from perpcs_cli.model.base import Base


@dataclass(frozen=True)
class Pieces:
    """What one linear layer adds in one batch: U sharers' factors, side by side, and each row's weights.

    `a`: [U·r, n]; `b`: [d, U·r], with the scale alpha / r folded in; `weights`: [rows, U], or [1, tokens, U] where
    several rows lie side by side in one line of tokens; `gates`: [U, n], where pieces run as gated.

    Each may also differ from row to row, with the rows in front: `a` [rows, U·r, n], `gates` [rows, U, n].
    """

    a: Tensor
    b: Tensor
    weights: Tensor
    gates: Tensor | None = None


class Router(Protocol):
    """Decides what a linear layer adds, from the activations that reach it."""

    def __call__(self, module: str, x: Tensor) -> Pieces | None:
        """`x`: [rows, tokens, n], the layer's input. None adds nothing."""


def update(x: Tensor, pieces: Pieces, merge: Merge) -> Tensor:
    """The pieces' contribution to a linear layer's output, [rows, tokens, d], for input `x` [rows, tokens, n].

    product: (rep(W) ⊙ (x Aᵀ)) Bᵀ, which is ΔW = Σ w B A, the papers' formula.
    factor: h = Σ_s W_s (x A_sᵀ); Σ_s W_s (h B_sᵀ), which is ΔW = (Σ w B)(Σ w A), the published code's.
    With gates: W_s is multiplied by σ(g_sᵀ x) for each token (Per-PCs, equation 3).
    """
    a, b = pieces.a.to(x.dtype), pieces.b.to(x.dtype)
    sharers = pieces.weights.shape[-1]
    weights = pieces.weights.to(x.dtype)
    if weights.dim() == 2:
        weights = weights[:, None, :]
    if pieces.gates is not None:
        weights = weights * torch.sigmoid(x @ pieces.gates.to(x.dtype).mT)
    hidden = (x @ a.mT).unflatten(-1, (sharers, -1)) * weights[..., None]
    if merge == "factor":
        hidden = hidden.sum(-2, keepdim=True) * weights[..., None]
    return hidden.flatten(-2) @ b.mT


@contextmanager
def attached(base: Base, router: Router, *, merge: Merge = "product", dropout: float = 0.0) -> Iterator[None]:
    """Run the base with pieces while the block lasts. `dropout` drops the pieces' input, as LoRA training does."""

    def hook(module: str) -> Any:
        def add(_layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            x = inputs[0]
            pieces = router(module, x)
            if pieces is None:
                return output
            if dropout:
                x = F.dropout(x, dropout)
            return output + update(x, pieces, merge)

        return add

    handles = []
    try:
        for name, layer in base.targets.items():
            handles.append(layer.register_forward_hook(hook(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()


BANK_BYTES = 2 << 30
"""Pieces up to this size stay on the device; then the ones not used for longest make room."""


def ungated(module: str, sharer: int) -> Tensor | None:  # noqa: ARG001
    """No gates: what personal models are made of."""
    return None


class Bank:
    """The pieces of some adapters, read from disk when first used and then kept on the device while there is room.

    `gate` gives the gate [n] of an adapter's piece where the piece runs as gated: z = W v + B A v · σ(gᵀ v).
    """

    def __init__(
        self,
        base: Base,
        adapter: Callable[[int], Adapter],
        gate: Callable[[str, int], Tensor | None] = ungated,
    ) -> None:
        self.device = base.device
        self.dtype = base.dtype
        self.adapter = adapter
        self.gate = gate
        self._pieces: OrderedDict[tuple[str, int], tuple[Tensor, Tensor]] = OrderedDict()
        self._bytes = 0

    def stack(self, module: str, sharers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(a [U·r, n], b [d, U·r]) of the named sharers' pieces, the scale folded into b."""
        pieces = [self._piece(module, sharer) for sharer in sharers]
        if len(pieces) == 1:
            return pieces[0]
        return torch.cat([a for a, _ in pieces]), torch.cat([b for _, b in pieces], dim=1)

    def gates(self, module: str, sharers: Sequence[int]) -> tuple[Tensor, list[bool]] | None:
        """(gates [U, n], zeros where a sharer has none; who has one), or None where nobody has."""
        found = [self.gate(module, sharer) for sharer in sharers]
        some = next((gate for gate in found if gate is not None), None)
        if some is None:
            return None
        stacked = torch.stack([torch.zeros_like(some) if gate is None else gate for gate in found])
        return stacked.to(self.device, self.dtype), [gate is not None for gate in found]

    def _piece(self, module: str, sharer: int) -> tuple[Tensor, Tensor]:
        key = (module, sharer)
        if key not in self._pieces:
            adapter = self.adapter(sharer)
            a, b = adapter.piece(module)
            scaled = b.float() * adapter.scale
            self._pieces[key] = (a.to(self.device, self.dtype), scaled.to(self.device, self.dtype))
            self._bytes += sum(factor.nbytes for factor in self._pieces[key])
            while self._bytes > BANK_BYTES and len(self._pieces) > 1:
                _, oldest = self._pieces.popitem(last=False)
                self._bytes -= sum(factor.nbytes for factor in oldest)
        self._pieces.move_to_end(key)
        return self._pieces[key]


Weights = dict[str, list[tuple[int, float]]]
"""A recipe ready to run: linear layer → [(index of an adapter in the bank, weight)]. A missing layer adds nothing."""


Table = tuple[tuple[float, ...], ...]
"""Weights of some recipes (rows) over some sharers (columns); most recipes have the same in every linear layer."""


class Recipes:
    """A router for rows with fixed recipes: row i of a batch runs `recipes[rows[i]]`."""

    def __init__(self, bank: Bank, recipes: Sequence[Weights]) -> None:
        self.bank = bank
        self.recipes = recipes
        self._running: tuple[int, ...] = ()
        self._stacks: dict[str, tuple[Tensor, Tensor, Table, Tensor | None] | None] = {}
        self._rows: tuple[list[int], list[int] | None] = ([], None)
        self._places = torch.empty(0, dtype=torch.long)
        self._weights: dict[Table, Tensor] = {}

    def use(self, rows: Sequence[int], lengths: Sequence[int] | None = None) -> None:
        """Say which recipe each row of the next passes runs.

        With `lengths`, the rows lie side by side in one line of tokens, [1, Σ lengths].
        """
        wanted = (list(rows), None if lengths is None else list(lengths))
        if wanted == self._rows:
            return
        self._rows = wanted
        self._weights = {}
        found = set(rows)
        # As rows end their recipes stay, until half of what is computed would be for nobody.
        if not found <= set(self._running) or 2 * len(found) < len(self._running):
            self._running = tuple(sorted(found))
            self._stacks = {}
        place = {recipe: index for index, recipe in enumerate(self._running)}
        places = torch.tensor([place[recipe] for recipe in rows], dtype=torch.long)
        if lengths is not None:
            places = places.repeat_interleave(torch.tensor(lengths))[None]
        self._places = places.to(self.bank.device)

    def __call__(self, module: str, x: Tensor) -> Pieces | None:
        """The pieces of the recipes in this batch, and each row's weights over them."""
        if module not in self._stacks:
            self._stacks[module] = self._stack(module)
        stack = self._stacks[module]
        if stack is None:
            return None
        a, b, table, gates = stack
        if table not in self._weights:
            self._weights[table] = torch.tensor(table).to(self.bank.device)[self._places]
        return Pieces(a, b, self._weights[table], gates)

    def _stack(self, module: str) -> tuple[Tensor, Tensor, Table, Tensor | None] | None:
        """(a, b, table, gates) over the sharers that the running recipes use; None where they use none."""
        mixes = [self.recipes[recipe].get(module, []) for recipe in self._running]
        used = sorted({sharer for mix in mixes for sharer, weight in mix if weight})
        if not used:
            return None
        column = {sharer: index for index, sharer in enumerate(used)}
        table = [[0.0] * len(used) for _ in mixes]
        for row, mix in zip(table, mixes, strict=True):
            for sharer, weight in mix:
                if weight:
                    row[column[sharer]] += weight
        gates = self.bank.gates(module, used)
        if gates is not None:
            # A gate of zeros is σ(0) = ½ everywhere.
            factors = [1.0 if gated else 2.0 for gated in gates[1]]
            table = [[weight * factor for weight, factor in zip(row, factors, strict=True)] for row in table]
        return *self.bank.stack(module, used), tuple(map(tuple, table)), gates[0] if gates else None
