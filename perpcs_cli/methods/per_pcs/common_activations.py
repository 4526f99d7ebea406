"""What everybody's activations have in common, which gate scores can be told to leave out.

A gate grows along the activations of its own training, and most of these is a mean that all texts share. How much of a
gate is that mean, and how much noise, differs between sharers and says nothing of a target: whose training gave the
cleanest gate scores highest for everybody.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from perpcs_cli.artifacts.settings import Scoring
from perpcs_cli.methods.per_pcs.gates import answer_tokens, normalize
from perpcs_cli.model.engine.batching import Encoded, by_budget, make_batch
from perpcs_cli.model.engine.lora_layer import Pieces, attached
from perpcs_cli.model.engine.memory import Halving
from perpcs_cli.model.fused import fused
from perpcs_cli.model.loading.base import Base
from perpcs_cli.model.transfers import Upload


def common_activations(
    base: Base, rows: Sequence[Encoded], scoring: Scoring, *, batch_tokens: int
) -> dict[str, Tensor]:
    """The mean over `rows` of the mean over a row's answer tokens of the normalized inputs [n], by linear layer.

    The model is the base, without pieces. At most `batch_tokens` tokens share a pass, but always one row is run; where
    the device's memory runs out, fewer do.
    """
    sums: dict[str, Tensor] = {}
    halving = Halving[Encoded](lambda row: [row])
    for some in by_budget([len(row) for row in rows], batch_tokens, len(rows)):
        for found in halving.run([rows[index] for index in some], lambda part: _pass(base, part, scoring)):
            for module, part in found.items():
                sums[module] = sums[module] + part if module in sums else part
    return {module: (total / len(rows)).float() for module, total in sums.items()}


class _Watch:
    """A router that applies nothing, and keeps the sum of the rows' mean activations, in float64."""

    def __init__(self, at: Tensor, shares: Tensor, scoring: Scoring) -> None:
        self.at, self.shares = at, shares
        self.scoring = scoring
        self.sums: dict[str, Tensor] = {}

    def __call__(self, module: str, x: Tensor) -> Pieces | None:
        """Add up what this linear layer sees."""
        self.sums[module] = self.shares @ normalize(x.flatten(0, 1).index_select(0, self.at), self.scoring).double()
        return None


@torch.inference_mode()
def _pass(base: Base, rows: Sequence[Encoded], scoring: Scoring) -> dict[str, Tensor]:
    """The sum of the rows' means by linear layer, from one pass over them."""
    lengths = np.array([len(row.answer) for row in rows])
    tokens = answer_tokens(rows, range(len(rows)), scoring)
    upload = Upload(base.device)
    at, answers = upload.add(tokens.at), upload.add(np.repeat(lengths, lengths))
    batch = make_batch(base, rows, upload)
    watch = _Watch(at.tensor, 1 / answers.tensor.double(), scoring)
    with fused(base), attached(base, watch):
        base.model.get_decoder()(**batch.inputs(), use_cache=False)
    return watch.sums
