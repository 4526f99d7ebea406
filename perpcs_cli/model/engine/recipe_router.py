"""The router of recipes: which pieces each row of a batch runs, with which weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from perpcs_cli.model.engine.lora_layer import Pieces
from perpcs_cli.model.engine.piece_cache import PieceCache

Weights = dict[str, list[tuple[int, float]]]
"""A recipe ready to run: linear layer → [(index of an adapter in the bank, weight)]. A missing layer adds nothing."""


Table = tuple[tuple[float, ...], ...]
"""Weights of some recipes (rows) over some sharers (columns); most recipes have the same in every linear layer."""


class RecipeRouter:
    """A router for rows with fixed recipes: row i of a batch runs `recipes[rows[i]]`."""

    def __init__(self, bank: PieceCache, recipes: Sequence[Weights]) -> None:
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
