"""Dropout whose masks are a function of the seed, the job, its step, the linear layer and the row alone.

With torch's own, which draws one mask after the other for all rows of a pass, an adapter would depend on whose rows
shared its passes. Here every job draws for the tokens of its own batch, at each layer from a seed of its own; that rows
of others stand between them, or that they come in several passes, does not matter. Each kind of device has a generator
of its own, and draws other masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from perpcs_cli.artifacts.io import hashing

STEPS = 1 << 15
"""Rates are multiples of a 32,768th: fifteen random bits decide on a number, and four numbers share a draw."""
BITS = 0x7FFF7FFF7FFF7FFF


@dataclass(frozen=True)
class Drawn:
    """What one job draws for: the tokens of each row of its whole batch, and which rows of it are in the pass."""

    key: tuple[int | str, ...]
    """Whose batch it is, and which one."""
    lengths: Sequence[int]
    rows: Sequence[int]


class Dropout:
    """The masks of one pass, whose rows are those of `jobs`, one job after the other, in one line of tokens."""

    def __init__(self, rate: float, seed: int, jobs: Sequence[Drawn]) -> None:
        self.threshold = min(round(rate * STEPS), STEPS - 1)
        self.seed = seed
        self.jobs = jobs

    @property
    def scale(self) -> float:
        """What is kept counts so much more, so that its expectation stays."""
        return STEPS / (STEPS - self.threshold)

    def draw(self, module: str, x: Tensor) -> Tensor:
        """[tokens, n] for the input [1, tokens, n] of a linear layer, to be kept for `kept` and `applied`.

        On a GPU they say themselves what is kept. On the processor, where drawing costs more than comparing, they are
        random numbers below 32,768.
        """
        drawn = [self._draw(module, one, x) for one in self.jobs]
        return drawn[0] if len(drawn) == 1 else torch.cat(drawn)

    def kept(self, draws: Tensor, dtype: torch.dtype) -> Tensor:
        """1 where a number is kept, 0 where it is dropped, to be multiplied with numbers of a type."""
        if draws.dtype == torch.bool:
            return draws
        return torch.ge(draws, self.threshold, out=torch.empty(draws.shape, dtype=dtype, device=draws.device))

    def applied(self, draws: Tensor, x: Tensor) -> Tensor:
        """What is left of [tokens, n]."""
        kept = self.kept(draws, x.dtype)
        return x * kept if kept is draws else kept.mul_(x)

    def _draw(self, module: str, one: Drawn, x: Tensor) -> Tensor:
        generator = torch.Generator(x.device)
        generator.manual_seed(hashing.derive_seed(self.seed, "dropout", *one.key, module))
        tokens, width = sum(one.lengths), x.shape[-1]
        if x.device.type == "cuda":
            found = torch.empty(tokens, width, dtype=torch.bool, device=x.device)
            found.bernoulli_(1 - self.threshold / STEPS, generator=generator)
        else:
            numbers = torch.empty(-(-tokens * width // 4), dtype=torch.int64, device=x.device)
            numbers.random_(generator=generator)
            found = numbers.bitwise_and_(BITS).view(torch.int16)[: tokens * width].view(tokens, width)
        if len(one.rows) == len(one.lengths):
            return found
        ends = list(accumulate(one.lengths))
        return torch.cat([found[ends[row] - one.lengths[row] : ends[row]] for row in one.rows])
