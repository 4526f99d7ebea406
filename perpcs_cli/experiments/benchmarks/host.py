"""What a decoding pass costs the host beside the model's own operators: laying it out, and finding pieces and weights.

It runs on torch's meta device, where operators compute nothing: what is measured is the same for a model of any size
on any device that is not waited for. The products with the pieces are left out, as are the model's own: no other device
takes the host as long to start them as this one, whose operators are written in Python.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec

from perpcs_cli.steps.report import SILENT, Report

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from perpcs_cli.model.loading.base import Base

CHOSEN = 3
"""Sharers of a recipe in each linear layer, as an assembly chooses them."""
PROMPT, NEW = 500, 64
"""Tokens of a row's prompt and of its longest answer."""
RANK, WIDTH = 8, 16
"""Of the pieces, whose size does not matter here."""
NAMES = ("q_proj", "k_proj", "v_proj", "o_proj")
TOKEN = 5


class PassTimes(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds of the host's processor for one pass, the least of some."""

    planner_ms: float
    """Choosing drafts, and laying out tokens, positions and the attention's groups."""
    router_ms: float
    """Letting recipes in, and each token's slot."""
    layers_ms: float
    """Every linear layer's pieces and weights, with the dispatch of the operators that find them, products aside."""


class HostTimes(msgspec.Struct, frozen=True, kw_only=True):
    """A pass of `rows` rows, each with a recipe of its own, one token each, by what has changed since the last one."""

    enters: PassTimes
    """A row with another recipe has come in."""
    drafts: PassTimes
    """Rows have drafts of other lengths."""
    same: PassTimes
    """Nothing."""
    rows: int
    sharers: int
    modules: int


def time_host(*, rows: int, sharers: int, modules: int, repeats: int = 20, report: Report = SILENT) -> HostTimes:
    """Time the three kinds of passes, over recipes of three of the sharers in each linear layer."""
    found: dict[str, PassTimes] = {}
    for kind in ("enters", "drafts", "same"):
        bench = _Bench(rows, sharers, modules, repeats)
        bench.run()  # The first pass lets all recipes in, and stacks their pieces.
        passes = []
        for number in range(repeats):
            if kind == "enters":
                bench.which[number % rows] = rows + number
            elif kind == "drafts":
                bench.drafted = [(number + place) % 4 if place % 8 == 0 else 0 for place in range(rows)]
            passes.append(bench.run())
        least = [1000 * min(part) for part in zip(*passes, strict=True)]
        found[kind] = PassTimes(planner_ms=least[0], router_ms=least[1], layers_ms=least[2])
        report.note(f"{kind}: {sum(least):.2f} ms")
    return HostTimes(**found, rows=rows, sharers=sharers, modules=modules)


@cache
def _product(tokens: int, columns: int) -> Tensor:
    import torch

    return torch.empty(1, tokens, columns, device="meta")


@dataclass(eq=False)
class _Input:
    """What a linear layer sees of some tokens, [1, tokens, n], whose product with pieces is there already."""

    tokens: int

    @property
    def dtype(self) -> torch.dtype:
        """Of the numbers."""
        import torch

        return torch.float32

    def __matmul__(self, a: Tensor) -> Tensor:
        return _product(self.tokens, a.shape[1])


class _Bench:
    """Rows in the middle of their answers."""

    def __init__(self, rows: int, sharers: int, modules: int, entering: int) -> None:
        import torch

        from perpcs_cli.experiments.benchmarks.mia import make_recipes
        from perpcs_cli.model.engine.drafts import Drafts
        from perpcs_cli.model.engine.piece_cache import PieceCache
        from perpcs_cli.model.engine.recipe_router import RecipeRouter
        from perpcs_cli.model.packed.rows import Rows

        draw = random.Random(0)
        base = meta_base(modules)
        a, b = torch.zeros(RANK, WIDTH), torch.zeros(WIDTH, RANK)
        adapter: Any = SimpleNamespace(piece=lambda module: (a, b), scale=1.0)
        recipes = make_recipes(list(base.targets), rows + entering, sharers, 0)
        self.base = base
        self.recipes = RecipeRouter(PieceCache(base, lambda index: adapter), recipes)
        self.cache = Rows(base, rows, PROMPT + NEW)
        self.which = list(range(rows))
        self.drafted = [0] * rows
        self.outputs = [[TOKEN] * draw.randrange(1, NEW - 4) for _ in range(rows)]
        self.drafts = Drafts()
        self.known = [self.drafts.of([draw.randrange(1000) for _ in range(PROMPT)]) for _ in range(rows)]

    def run(self) -> tuple[float, float, float]:
        """Seconds of a pass: planner, router, and linear layers."""
        import torch

        from perpcs_cli.model.transfers import Upload

        lengths = [1 + drafted for drafted in self.drafted]
        inputs: list[Any] = [_Input(sum(lengths)) for _ in self.recipes.groups]
        start = time.thread_time()
        self.drafts.plan(list(zip(self.known, self.outputs, strict=True)), NEW, 512, waiting=True)
        tokens = [[*output[-1:], *[TOKEN] * more] for output, more in zip(self.outputs, self.drafted, strict=True)]
        planned = time.thread_time()
        upload = Upload(self.base.device)
        self.recipes.use(self.which, lengths, upload)
        routed = time.thread_time()
        starts = [PROMPT + len(output) - 1 for output in self.outputs]
        self.cache.plan(range(len(lengths)), starts, tokens, lengths, upload)
        upload.send()
        laid = time.thread_time()
        with torch.inference_mode():
            for x, members in zip(inputs, self.recipes.groups, strict=True):
                for number in members:
                    self.recipes(self.recipes.bank.modules[number], x)
        end = time.thread_time()
        return planned - start + laid - routed, routed - planned, end - laid


def meta_base(modules: int) -> Base:
    """What the engine asks of a base with so many linear layers, without a model."""
    import torch

    from perpcs_cli.model.loading.base import Base
    from perpcs_cli.model.loading.identity import Identity

    layer = torch.nn.Linear(WIDTH, WIDTH, bias=False, device="meta")
    targets = {f"layers.{at // len(NAMES)}.self_attn.{NAMES[at % len(NAMES)]}": layer for at in range(modules)}
    identity = Identity("", Path(), None, torch.device("meta"), torch.float32, "")
    return Base(identity, None, None, targets, PROMPT + NEW, (0,))
