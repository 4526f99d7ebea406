"""The router of recipes: which pieces each row of a batch runs, with which weights.

The weights of the recipes that run are one tensor on the device, [slots, columns]: a recipe that comes in fills a
slot, and a linear layer has a column for each sharer that any of them uses there. A pass says which slot each token
has, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from perpcs_cli.model.engine.lora_layer import Pieces
from perpcs_cli.model.engine.piece_cache import PieceCache
from perpcs_cli.model.transfers import Sent, Upload, integers

Weights = dict[str, list[tuple[int, float]]]
"""A recipe ready to run: linear layer → [(index of an adapter in the bank, weight)]. A missing layer adds nothing."""

TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Linear layers that see the same input: one product with all their A. Where they do not, each has its own."""
BLOCK_BYTES = 64 << 20
"""Tokens' weights that are looked up at a time, for as many linear layers as fit in."""


@dataclass(frozen=True)
class _Entries:
    """The weights of a recipe that are not zero: the numbers of linear layer and sharer, and the weight, of each."""

    modules: npt.NDArray[np.int64]
    sharers: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Stack:
    """The pieces of some linear layers with the same input, for the sharers that are used in each.

    `a`: [Σ U·r, n], one layer's below the other's; `sizes`: each layer's U·r; `pieces`: each layer's part of `a`, `b`
    [d, U·r] and gates, where it has any.
    """

    sharers: list[list[int]]
    a: Tensor
    sizes: list[int]
    pieces: list[tuple[Tensor, Tensor, Tensor | None] | None]


class RecipeRouter:
    """A router for rows with fixed recipes: row i of a batch runs `recipes[rows[i]]`."""

    def __init__(self, bank: PieceCache, recipes: Sequence[Weights]) -> None:
        self.bank = bank
        self.recipes = recipes
        self._numbers = {module: number for number, module in enumerate(bank.modules)}
        self.groups = _groups(bank.modules)
        """The numbers of linear layers, those together that see the same input."""
        self._places = {
            number: (group, place) for group, some in enumerate(self.groups) for place, number in enumerate(some)
        }
        self._entries: dict[int, _Entries] = {}
        self._stacks: dict[int, _Stack] = {}
        self._changes = 0
        self.begin()

    def begin(self) -> None:
        """Forget who ran: what is computed next depends on nothing before. Pieces that lie together stay."""
        modules = len(self._numbers)
        self._changes += 1
        self._wanted: tuple[list[int], list[int] | None, int | None] | None = None
        self._slots: dict[int, int] = {}
        self._users = np.zeros((modules, 0), np.int64)
        """How many of the running recipes use a sharer in a linear layer."""
        self._columns = np.full((modules, 0), -1, np.int64)
        """Each sharer's column among those of the linear layer, or -1."""
        self._widths = [0] * modules
        """How many columns each linear layer has."""
        self._bounds = np.zeros(modules + 1, np.int64)
        """Where they begin."""
        self._factors = np.zeros(0, np.float32)
        self._checked: set[int] = set()
        """The groups whose stacks are known to be those of the columns."""
        self._table: Tensor | None = None
        self._arriving: tuple[Sent, Sent, int] | None = None
        """What is not in the table yet: slots, their weights, and the slots of a new table, or 0 for the old one."""
        self._tokens: Sent | None = None
        self._weights: dict[int, Tensor] = {}
        self._shared: tuple[Tensor, int, tuple[Tensor, ...]] | None = None

    @property
    def state(self) -> int | None:
        """Another number whenever tensors are replaced that passes read; None while recipes are still to come in."""
        return None if self._arriving else self._changes

    def use(
        self,
        rows: Sequence[int],
        lengths: Sequence[int] | None = None,
        upload: Upload | None = None,
        size: int | None = None,
    ) -> None:
        """Say which recipe each row of the next passes runs.

        With `lengths`, the rows lie side by side in one line of tokens, [1, Σ lengths], or [1, `size`] with padding
        behind them. What the device must know goes with `upload`, where one is given, which must be sent before the
        pass.
        """
        wanted = (list(rows), None if lengths is None else list(lengths), size)
        # What is padded may be recorded, and is sent each time.
        if wanted == self._wanted and size is None and self._arriving is None:
            return
        own = upload or Upload(self.bank.device)
        found = set(rows)
        # As rows end their recipes stay, until half of what is computed would be for nobody. What did not arrive,
        # because a pass failed, is sent again.
        if not found <= self._slots.keys() or 2 * len(found) < len(self._slots) or self._arriving:
            self._change(found, own)
        slots = integers([self._slots[recipe] for recipe in rows])
        tokens = slots if lengths is None else np.repeat(slots, integers(lengths))
        self._tokens = own.add(tokens if size is None else np.pad(tokens, (0, size - len(tokens))))
        self._wanted, self._weights = wanted, {}
        if upload is None:
            own.send()

    def key(self, recipe: int) -> bytes:
        """Equal for recipes of equal weights, and for no others."""
        entries = self._of(recipe)
        return b"".join(part.tobytes() for part in (entries.modules, entries.sharers, entries.weights))

    def __call__(self, module: str, x: Tensor) -> Pieces | None:
        """The pieces of the recipes in this batch, and each row's weights over them."""
        number = self._numbers[module]
        if not self._widths[number]:
            return None
        if number not in self._weights:
            self._look_up(number)
        group, place = self._places[number]
        stack = self._stacks[group] if group in self._checked else self._check(group)
        pieces = stack.pieces[place]
        assert pieces is not None
        a, b, gates = pieces
        product = None
        if len(stack.sizes) > 1:
            if self._shared is None or self._shared[0] is not x or self._shared[1] != group:
                self._shared = x, group, (x @ stack.a.to(x.dtype).mT).split(stack.sizes, dim=-1)
            product = self._shared[2][place]
            if place == len(stack.sizes) - 1:
                self._shared = None
        return Pieces(a, b, self._weights[number], gates, product)

    def _change(self, found: set[int], upload: Upload) -> None:
        """Let recipes leave and others come in, so that those of `found` run; the columns are what they need."""
        for recipe in [recipe for recipe in self._slots if recipe not in found]:
            entries = self._of(recipe)
            self._users[entries.modules, entries.sharers] -= 1
            del self._slots[recipe]
        entering = sorted(found - self._slots.keys())
        taken = set(self._slots.values())
        free = (slot for slot in range(len(found)) if slot not in taken)
        for recipe in entering:
            entries = self._of(recipe)
            self._make_room(int(entries.sharers.max(initial=-1)) + 1)
            self._users[entries.modules, entries.sharers] += 1
            self._slots[recipe] = next(free)
        fresh = self._lay_out() or self._table is None or self._arriving is not None
        size = max(self._slots.values(), default=-1) + 1
        if self._table is not None and size > len(self._table):
            fresh = True
        sent = sorted(self._slots) if fresh else entering
        self._arriving = None
        if not sent or not self._bounds[-1]:
            return
        table = np.zeros((len(sent), self._bounds[-1]), np.float32)
        for row, recipe in zip(table, sent, strict=True):
            entries = self._of(recipe)
            row[self._bounds[entries.modules] + self._columns[entries.modules, entries.sharers]] = entries.weights
        table *= self._factors
        slots = upload.add(integers([self._slots[recipe] for recipe in sent]))
        # Room for more, so that the next ones find a slot.
        self._arriving = slots, upload.add(table), 1 << size.bit_length() if fresh else 0

    def _lay_out(self) -> bool:
        """Give linear layers the columns that they need; whether any changed.

        A linear layer keeps those it has while they suffice, until half of all would be for nobody.
        """
        needed, had = self._users > 0, self._columns >= 0
        if 2 * int(needed.sum()) < int(had.sum()):
            changed = (needed != had).any(1)
        else:
            changed = (needed & ~had).any(1)
        if not changed.any():
            return False
        self._changes += 1
        self._columns[changed] = np.where(needed, needed.cumsum(1) - 1, -1)[changed]
        self._widths = (self._columns >= 0).sum(1).tolist()
        self._bounds = np.cumsum([0, *self._widths])
        self._checked = set()
        self._shared = None
        self._factors = np.ones(self._bounds[-1], np.float32)
        for number, module in enumerate(self.bank.modules):
            gated = self.bank.gated(module, self._sharers(number))
            if any(gated):
                # A gate of zeros is σ(0) = ½ everywhere.
                some = slice(self._bounds[number], self._bounds[number + 1])
                self._factors[some] = np.where(gated, 1.0, 2.0)
        return True

    def _sharers(self, module: int) -> list[int]:
        """Whose pieces a linear layer runs, in the order of its columns."""
        found: list[int] = (self._columns[module] >= 0).nonzero()[0].tolist()
        return found

    def _make_room(self, sharers: int) -> None:
        if (more := sharers - self._users.shape[1]) > 0:
            self._users = np.pad(self._users, ((0, 0), (0, more)))
            self._columns = np.pad(self._columns, ((0, 0), (0, more)), constant_values=-1)

    @torch.inference_mode()
    def _look_up(self, number: int) -> None:
        """Every token's weights in a linear layer and in as many of the next ones as there is room for."""
        if self._arriving:
            slots, rows, size = self._arriving
            weights = rows.tensor.to(self.bank.dtype)
            if size:
                self._table = weights.new_zeros(size, weights.shape[1])
                self._changes += 1
            assert self._table is not None
            self._table.index_copy_(0, slots.tensor, weights)
            self._arriving = None
        assert self._table is not None and self._tokens is not None and self._wanted is not None
        tokens = self._tokens.tensor
        start = int(self._bounds[number])
        most = BLOCK_BYTES // (len(tokens) * self._table.element_size())
        end = max(number + 1, int(np.searchsorted(self._bounds, start + most, side="right")) - 1)
        block = self._table[:, start : int(self._bounds[end])].index_select(0, tokens)
        parts = (block if self._wanted[1] is None else block[None]).split(self._widths[number:end], dim=-1)
        self._weights = dict(zip(range(number, end), parts, strict=True))

    def _check(self, group: int) -> _Stack:
        """A group's stack: the one that is there, if it has the right sharers."""
        numbers = self.groups[group]
        sharers = [self._sharers(number) for number in numbers]
        self._checked.add(group)
        if group in self._stacks and self._stacks[group].sharers == sharers:
            return self._stacks[group]
        self._stacks.pop(group, None)
        wanted = [(self.bank.modules[number], some) for number, some in zip(numbers, sharers, strict=True)]
        found = [(*self.bank.stack(*one), self.bank.gates(*one)) if one[1] else None for one in wanted]
        parts = [some[0] for some in found if some]
        a = torch.cat(parts) if len(parts) > 1 else parts[0]
        sizes = [len(some[0]) if some else 0 for some in found]
        # Each layer's own is a part of the whole, so that none is kept twice.
        own = a.split(sizes)
        pieces = [(part, some[1], some[2]) if some else None for part, some in zip(own, found, strict=True)]
        self._stacks[group] = _Stack(sharers, a, sizes, pieces)
        return self._stacks[group]

    def _of(self, recipe: int) -> _Entries:
        if recipe not in self._entries:
            found: dict[tuple[int, int], float] = {}
            for module, mix in self.recipes[recipe].items():
                if module in self._numbers:
                    number = self._numbers[module]
                    for sharer, weight in mix:
                        if weight:
                            found[number, sharer] = found.get((number, sharer), 0.0) + weight
            keys = sorted(found)
            modules, sharers = np.array(keys, np.int64).reshape(-1, 2).T
            self._entries[recipe] = _Entries(modules, sharers, np.array([found[key] for key in keys], np.float64))
        return self._entries[recipe]


def _groups(modules: Sequence[str]) -> list[list[int]]:
    """The numbers of linear layers, those together that see the same input."""
    groups: dict[tuple[str, object], list[int]] = {}
    for number, module in enumerate(modules):
        parent, _, name = module.rpartition(".")
        together: object = next((some for some in TOGETHER if name in some), name)
        groups.setdefault((parent, together), []).append(number)
    return list(groups.values())
