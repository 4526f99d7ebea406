"""Dropout whose masks are a function of the seed, the job, its step, the linear layer and the row alone.

With torch's own, which draws one mask after the other for all rows of a pass, an adapter would depend on whose rows
shared its passes. Here every job draws for the rows of its own batch, at each layer from a seed of its own; that rows
of others stand between them, are padded more widely, or come in several passes, does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from perpcs_cli.artifacts.io import hashing
from perpcs_cli.model.engine.batching import Encoded


@dataclass(frozen=True)
class Drawn:
    """What one job draws for: its whole batch, and which rows of it are in the pass."""

    key: tuple[int | str, ...]
    """Whose batch it is, and which one."""
    batch: Sequence[Encoded]
    rows: Sequence[int]


class Dropout:
    """The masks of one pass, whose rows are those of `jobs`, one job after the other, padded on the left."""

    def __init__(self, rate: float, seed: int, jobs: Sequence[Drawn]) -> None:
        self.rate = rate
        self.seed = seed
        self.jobs = jobs

    def __call__(self, module: str, x: Tensor) -> Tensor:
        """The input [rows, tokens, n] of a linear layer with its dropped numbers at zero; others are not scaled."""
        return x * torch.cat([self._mask(module, one, x) for one in self.jobs])

    def _mask(self, module: str, one: Drawn, x: Tensor) -> Tensor:
        generator = torch.Generator(x.device)
        generator.manual_seed(hashing.derive_seed(self.seed, "dropout", *one.key, module))
        width = max(map(len, one.batch))
        kept = torch.rand(len(one.batch), width, x.shape[-1], generator=generator, device=x.device) >= self.rate
        if len(one.rows) < len(one.batch):
            kept = kept[list(one.rows)]
        # Other jobs' rows may be longer, and a part of the batch shorter; what is padding counts for nothing.
        return F.pad(kept, (0, 0, x.shape[1] - width, 0)) if width != x.shape[1] else kept
