"""Training LoRAs and gates, of several sharers in the same passes."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, groupby, islice, takewhile
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from perpcs_cli.artifacts.io import hashing
from perpcs_cli.artifacts.settings import LoraSettings, TrainSettings
from perpcs_cli.errors import PerpcsError, shortened
from perpcs_cli.model import transfers
from perpcs_cli.model.engine.batching import Encoded
from perpcs_cli.model.engine.memory import Halving
from perpcs_cli.model.loading.base import Base
from perpcs_cli.model.packed.attention import packed
from perpcs_cli.model.training.checkpointing import checkpointing
from perpcs_cli.model.training.dropout import Drawn, Dropout
from perpcs_cli.model.training.line import Line, inputs
from perpcs_cli.model.training.order import MOST, draw_steps, evenly, side_by_side, total_steps
from perpcs_cli.model.training.own_pieces import attached
from perpcs_cli.model.training.piece import Piece
from perpcs_cli.model.training.repeatable import repeatable
from perpcs_cli.model.training.stacked_pieces import STACKED

What = Literal["lora", "gate"]


@dataclass(frozen=True)
class Step:
    """One optimizer step of one job: mean loss per answer token before the step, norm of the gradient, rate."""

    step: int
    loss: float
    norm: float
    lr: float


@dataclass
class Job:
    """One sharer's training: its examples, its factors and what has been done so far.

    `pieces`: linear layer → (A [r, n], B [d, r]), as stored; `scale` multiplies B.
    `gates`: linear layer → [n], empty when the LoRA is trained.
    """

    name: str
    examples: Sequence[Encoded]
    pieces: dict[str, tuple[Tensor, Tensor]]
    scale: float
    gates: dict[str, Tensor] = field(default_factory=dict)
    log: list[Step] = field(default_factory=list)
    failure: str = ""
    """Why it was not trained to its end."""

    @property
    def draws_as(self) -> tuple[str, ...]:
        """Whose dropout it has: a sharer's gates draw other masks than its LoRA did."""
        return ("gates", self.name) if self.gates else (self.name,)

    @property
    def parameters(self) -> list[Tensor]:
        """What the optimizer changes."""
        return list(self.gates.values()) or [factor for pair in self.pieces.values() for factor in pair]


def new_lora(base: Base, name: str, examples: Sequence[Encoded], lora: LoraSettings, seed: int) -> Job:
    """A job that trains a fresh LoRA: A by Kaiming's uniform rule, B zero, as in the LoRA paper's code.

    `lora.init`: A is drawn from the seed, so that all LoRAs start from the same, or from the seed and the name.
    Training hardly turns it: with the name, whoever guesses a name can confirm it by the trained A.
    """
    whose = (name,) if lora.init == "own" else ()
    generator = torch.Generator().manual_seed(hashing.derive_seed(seed, "init", *whose))
    pieces = {}
    for module, linear in base.targets.items():
        bound = 1 / math.sqrt(linear.in_features)
        a = torch.empty(lora.rank, linear.in_features).uniform_(-bound, bound, generator=generator)
        b = torch.zeros(linear.out_features, lora.rank)
        pieces[module] = (a.to(base.device).requires_grad_(), b.to(base.device).requires_grad_())
    return Job(name, examples, pieces, lora.alpha / lora.rank)


def new_gates(
    base: Base, name: str, examples: Sequence[Encoded], pieces: dict[str, tuple[Tensor, Tensor]], scale: float
) -> Job:
    """A job that trains one gate vector per piece, from zero, with everything else frozen (Per-PCs, section 3.2)."""
    frozen = {module: (a.float().to(base.device), b.float().to(base.device)) for module, (a, b) in pieces.items()}
    gates = {
        module: torch.zeros(linear.in_features, device=base.device, requires_grad=True)
        for module, linear in base.targets.items()
    }
    return Job(name, examples, frozen, scale, gates)


def new_optimizer(job: Job, settings: TrainSettings) -> torch.optim.Optimizer:
    """The AdamW of every training."""
    how: Any = {"lr": settings.lr, "betas": (0.9, 0.95), "weight_decay": settings.weight_decay}
    return torch.optim.AdamW(job.parameters, fused=True, **how)


def new_schedule(optimizer: torch.optim.Optimizer, settings: TrainSettings, steps: int) -> Any:
    """How the rate rises and falls over `steps` optimizer steps, as transformers has it; stepped after each of them."""
    from transformers import get_scheduler

    warm = round(settings.warmup * steps)
    name = "constant_with_warmup" if settings.schedule == "constant" else settings.schedule
    return get_scheduler(name, optimizer, num_warmup_steps=warm, num_training_steps=steps)


def check_trained(jobs: Sequence[Job]) -> None:
    """Raise PerpcsError, naming them, where jobs have failed."""
    if failed := [job for job in jobs if job.failure]:
        raise PerpcsError(
            f"not trained to the end: {shortened([job.name for job in failed])}; {failed[0].failure}",
            hint="Try a lower learning rate, a lower --clip or --dtype float32.",
        )


def train(
    base: Base,
    jobs: Sequence[Job],
    settings: TrainSettings,
    *,
    seed: int,
    dropout: float = 0.0,
    tokens: int = MOST,
    report: Callable[[float], None] = lambda loss: None,
) -> None:
    """Train all jobs, each step one batch of every unfinished job side by side; fills each job's `log`.

    A job's batches and its dropout depend on the seed and its name alone, not on its neighbours. One whose loss or
    gradient is no longer finite stops with a `failure`, and the others go on. A pass has about `tokens` tokens at most,
    or one row, and fewer where the device's memory runs out; parts of a batch give the same step. Raises PerpcsError
    for a job without examples, and for a row that is too large.
    """
    if empty := [job.name for job in jobs if not job.examples]:
        raise PerpcsError(f"{empty[0]!r} has no examples to train on")
    running = [_Run(job, settings, seed) for job in jobs]
    passes = _Passes(base, dropout, seed, tokens)
    with checkpointing(base, settings.checkpointing), repeatable(base.device), packed(base):
        for step in side_by_side([run.batches for run in running]):
            passes.add([[(running[number], *batch) for number, batch in some.items()] for some in step])
            together = [running[number] for number in step[0]]
            found = _look(together)
            if len(together) > 1 and base.device.type in STACKED and not all(_finite(*one) for one in found):
                # In pieces that are stacked it reaches the others' gradients.
                for number in step[0]:
                    running[number].forget()
                    passes.add([[(running[number], *some[number])] for some in step if number in some])
                found = _look(together)
            for run, (loss, norm) in zip(together, found, strict=True):
                if run.apply(loss, norm):
                    report(loss)


class _Run:
    """The optimizer, schedule and order of examples of one job."""

    def __init__(self, job: Job, settings: TrainSettings, seed: int) -> None:
        self.job = job
        self.settings = settings
        self.step = 0
        self.losses: list[Tensor] = []
        self.optimizer = new_optimizer(job, settings)
        self.schedule = new_schedule(self.optimizer, settings, total_steps(settings, len(job.examples)))
        steps = draw_steps(job.examples, settings, random.Random(hashing.derive_seed(seed, "order", job.name)))
        self.batches = takewhile(lambda _: not job.failure, steps)

    def add(self, loss: Tensor, gradients: Sequence[Tensor | None]) -> None:
        """What a part of a batch adds to the step."""
        self.losses[-1] = self.losses[-1] + loss
        for parameter, gradient in zip(self.job.parameters, gradients, strict=True):
            if gradient is not None:
                # The fused step takes it for granted that both lie in memory in the same order.
                gradient = gradient.contiguous()
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)

    def look(self) -> Tensor:
        """The step's loss, and the norm of its gradient, which is clipped."""
        norm = torch.nn.utils.clip_grad_norm_(self.job.parameters, self.settings.clip or math.inf)
        return torch.stack([torch.stack(self.losses).mean(), norm])

    def apply(self, loss: float, norm: float) -> bool:
        """Step, or fail where something is not finite; whether it went well."""
        if _finite(loss, norm):
            (rate,) = self.schedule.get_last_lr()
            self.optimizer.step()
            self.schedule.step()
            self.step += 1
            self.job.log.append(Step(self.step, loss, norm, rate))
        else:
            self.job.failure = f"its loss is {loss} and its gradient {norm} at step {self.step + 1}"
        self.forget()
        return not self.job.failure

    def forget(self) -> None:
        """Drop what was added to the step."""
        self.losses.clear()
        self.optimizer.zero_grad()


def _look(runs: Sequence[_Run]) -> list[tuple[float, float]]:
    """Loss and norm of each; the one wait of a step for the device."""
    return [(loss, norm) for loss, norm in transfers.fetch(torch.stack([run.look() for run in runs])).tolist()]


def _finite(loss: float, norm: float) -> bool:
    return math.isfinite(loss) and math.isfinite(norm)


class _Row(NamedTuple):
    """A row of a pass: the place of its job in the pass, its own place in the job's batch, and what it is."""

    job: int
    place: int
    encoded: Encoded


Batches = Sequence[tuple[_Run, list[Encoded], float]]
"""The batch of each job in a pass, and its share of the gradient of the job's step."""


class _Passes:
    """Passes of several jobs' batches, in parts that fit into the device's memory."""

    def __init__(self, base: Base, dropout: float, seed: int, tokens: int) -> None:
        self.base = base
        self.dropout = dropout
        self.seed = seed
        self.tokens = tokens
        self._fitting = Halving[_Row](lambda row: [row.encoded])

    def add(self, step: Sequence[Batches]) -> None:
        """Add the losses and gradients of a step's passes to their runs."""
        for place, batches in enumerate(step):
            rows = [_Row(i, at, row) for i, (_, batch, _) in enumerate(batches) for at, row in enumerate(batch)]
            for run, _, _ in batches:
                run.losses.append(torch.zeros((), device=self.base.device))
            for some in evenly(rows, [inputs(row.encoded) for row in rows], self.tokens):
                for part in self._fitting.run(some, partial(self._part, batches, place)):
                    for run, loss, gradients in part:
                        run.add(loss, gradients)

    def _part(
        self, batches: Batches, place: int, rows: Sequence[_Row]
    ) -> list[tuple[_Run, Tensor, tuple[Tensor | None, ...]]]:
        """What some rows of a pass add to their jobs' mean losses per answer token, and to the gradients of those."""
        found = [(*batches[job], list(some)) for job, some in groupby(rows, lambda row: row.job)]
        counts = [sum(len(row.answer) for row in whole) for _, whole, *_ in found]
        weights = [share / count for (*_, share, some), count in zip(found, counts, strict=True) for _ in some]
        drawn = [
            Drawn((*run.job.draws_as, run.step, place), [inputs(row) for row in whole], [row.place for row in some])
            for run, whole, _, some in found
        ]
        dropout = Dropout(self.dropout, self.seed, drawn) if self.dropout else None
        scale = dropout.scale if dropout else 1.0
        ends = list(accumulate(sum(inputs(row.encoded) for row in some) for *_, some in found))
        spans = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]

        def pieces(module: str) -> list[Piece]:
            own = [(span, run.job, *run.job.pieces[module]) for span, (run, *_) in zip(spans, found, strict=True)]
            return [Piece(span, job.scale * scale, a, b, job.gates.get(module)) for span, job, a, b in own]

        line = Line(self.base, [row.encoded for row in rows], weights)
        # Checkpointing runs the layers again in the backward pass, which must find the pieces attached.
        with attached(self.base, pieces, dropout):
            losses, gradients = line.gradients([p for run, *_ in found for p in run.job.parameters])
        own = losses.split([sum(len(row.encoded.answer) for row in some) for *_, some in found])
        left = iter(gradients)
        return [
            (run, loss.sum() / count, tuple(islice(left, len(run.job.parameters))))
            for (run, *_), loss, count in zip(found, own, counts, strict=True)
        ]
