"""Training a LoRA or gates with differential privacy: DP-SGD (Abadi et al., 2016, arXiv:1607.00133) with Opacus.

Every row of a batch gets a copy of the factors of its own, as if it were another sharer's: the gradient of a row's
copy is the gradient of its example alone. Opacus's optimizer clips these, sums them, adds noise and steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from opacus.optimizers import DPOptimizer
from torch import Tensor

from perpcs_cli.artifacts.privacy import Mechanism
from perpcs_cli.artifacts.settings import TrainSettings
from perpcs_cli.errors import PerpcsError
from perpcs_cli.model import transfers
from perpcs_cli.model.engine.batching import Encoded
from perpcs_cli.model.engine.memory import Halving
from perpcs_cli.model.loading.base import Base
from perpcs_cli.model.packed.attention import packed
from perpcs_cli.model.training.checkpointing import checkpointing
from perpcs_cli.model.training.keyed_noise import SecretStream
from perpcs_cli.model.training.line import Line, inputs
from perpcs_cli.model.training.order import total_steps
from perpcs_cli.model.training.own_pieces import attached
from perpcs_cli.model.training.piece import Piece
from perpcs_cli.model.training.repeatable import repeatable
from perpcs_cli.model.training.train import Job, new_optimizer, new_schedule


@dataclass(frozen=True)
class Privacy:
    """How much noise: its standard deviation as a multiple of `clip`, the largest norm of an example's gradient.

    `key`: the secret that noise and batches come from; for one training only, since noise that is used twice with
    different data cancels out.
    """

    noise_multiplier: float
    clip: float
    key: bytes


def sampling(settings: TrainSettings, examples: int) -> tuple[float, int]:
    """(chance of each example to be in a step's batch, steps): batches and epochs are those of ordinary training,
    in expectation."""
    expected = settings.batch_size * settings.accumulate
    return min(1.0, expected / examples), total_steps(settings, examples)


def train_private(
    base: Base,
    job: Job,
    settings: TrainSettings,
    privacy: Privacy,
    *,
    report: Callable[[], None] = lambda: None,
) -> Mechanism:
    """Train one job with DP-SGD and return the mechanism that its examples went through.

    Of each step's Poisson sample, `batch_size` examples at a time are in memory. There is no dropout, since the masks
    of the others must not depend on whether an example is there, and no log: losses and norms are not noised. The job
    stops with a `failure` when a gradient is no longer finite. Raises PerpcsError for a job without examples, and for a
    row that does not fit into the device's memory.
    """
    if not job.examples:
        raise PerpcsError(f"{job.name!r} has no examples to train on")
    sample_rate, steps = sampling(settings, len(job.examples))
    stream = SecretStream(privacy.key)
    optimizer = NoisyOptimizer(
        new_optimizer(job, settings),
        noise_multiplier=privacy.noise_multiplier,
        max_grad_norm=privacy.clip,
        expected_batch_size=sample_rate * len(job.examples),
        stream=stream,
    )
    schedule = new_schedule(optimizer, settings, steps)
    fitting = Halving[Encoded](lambda row: [row])
    with checkpointing(base, settings.checkpointing), repeatable(base.device):
        for step in range(steps):
            drawn = np.flatnonzero(stream.uniform(len(job.examples)) < sample_rate)
            rows = [job.examples[int(i)] for i in drawn]
            # A step without examples is a step all the same: noise alone.
            for start in range(0, max(1, len(rows)), settings.batch_size):
                some = rows[start : start + settings.batch_size]
                parts = fitting.run(some, partial(example_gradients, base, job))
                gradients = [torch.cat(part) for part in zip(*parts, strict=True)]
                if not transfers.fetch(torch.stack([gradient.isfinite().all() for gradient in gradients])).all():
                    job.failure = f"a gradient is not finite at step {step + 1}"
                    break
                for parameter, gradient in zip(job.parameters, gradients, strict=True):
                    parameter.grad_sample = gradient  # type: ignore[attr-defined]
                optimizer.signal_skip_step(start + settings.batch_size < len(rows))
                optimizer.step()
                optimizer.zero_grad()
            if job.failure:
                break
            schedule.step()
            report()
    return Mechanism(
        what="gate" if job.gates else "lora",
        noise_multiplier=privacy.noise_multiplier,
        clip=privacy.clip,
        sample_rate=sample_rate,
        steps=steps,
    )


def example_gradients(base: Base, job: Job, rows: Sequence[Encoded]) -> list[Tensor]:
    """Gradient of each row's mean loss per answer token, [rows, …] for each of the job's parameters, in their order."""
    copies = [p.detach().expand(len(rows), *p.shape).requires_grad_() for p in job.parameters]
    if not rows:
        return copies
    # A row's own factors are one of these, and so is its gradient.
    own = iter([copy.unbind() for copy in copies])
    gates = {module: next(own) for module in job.gates}
    factors = {} if gates else {module: (next(own), next(own)) for module in job.pieces}
    ends = list(accumulate(map(inputs, rows)))
    spans = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]

    def pieces(module: str) -> list[Piece]:
        if gates:
            return [
                Piece(span, job.scale, *job.pieces[module], gate)
                for span, gate in zip(spans, gates[module], strict=True)
            ]
        return [Piece(span, job.scale, a, b) for span, a, b in zip(spans, *factors[module], strict=True)]

    line = Line(base, rows, [1 / len(row.answer) for row in rows])
    with packed(base), attached(base, pieces):
        _, gradients = line.gradients(copies)
    return [gradient for gradient in gradients if gradient is not None]


class NoisyOptimizer(DPOptimizer):
    """Opacus's optimizer with noise from a secret stream, added in double precision and then rounded."""

    def __init__(self, *args: Any, stream: SecretStream, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stream = stream

    def add_noise(self) -> None:
        """Add noise to the clipped sums, as Opacus's own `add_noise` does with torch's generator."""
        deviation = self.noise_multiplier * self.max_grad_norm
        upload = transfers.Upload(self.params[0].device)
        drawn = [upload.add((deviation * self.stream.normal(p.numel())).reshape(p.shape)) for p in self.params]
        upload.send()
        for p, noise in zip(self.params, drawn, strict=True):
            p.grad = (p.summed_grad.double() + noise.tensor).to(p)
