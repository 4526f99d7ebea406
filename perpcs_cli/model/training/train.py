"""Training LoRAs and gates: the pieces layer with one-hot rows, so that several sharers can share their batches."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from perpcs_cli.artifacts.io import hashing
from perpcs_cli.artifacts.settings import LoraSettings, TrainSettings
from perpcs_cli.errors import PerpcsError
from perpcs_cli.model.engine.batching import Batch, Encoded, make_batch
from perpcs_cli.model.engine.lora_layer import Pieces, attached
from perpcs_cli.model.loading.base import Base
from perpcs_cli.model.training.order import draw_steps, side_by_side, total_steps

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

    @property
    def parameters(self) -> list[Tensor]:
        """What the optimizer changes."""
        return list(self.gates.values()) or [factor for pair in self.pieces.values() for factor in pair]


def new_lora(base: Base, name: str, examples: Sequence[Encoded], lora: LoraSettings, seed: int) -> Job:
    """A job that trains a fresh LoRA: A by Kaiming's uniform rule, B zero, as in the LoRA paper's code.

    With the same seed every LoRA starts from the same A. Training hardly turns it: a start drawn from the name would
    let whoever guesses a name confirm it in a pool of pseudonyms.
    """
    generator = torch.Generator().manual_seed(hashing.derive_seed(seed, "init"))
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
    return torch.optim.AdamW(job.parameters, lr=settings.lr, betas=(0.9, 0.95), weight_decay=settings.weight_decay)


def new_schedule(optimizer: torch.optim.Optimizer, settings: TrainSettings, steps: int) -> Any:
    """How the rate rises and falls over `steps` optimizer steps, as transformers has it; stepped after each of them."""
    from transformers import get_scheduler

    warm = round(settings.warmup * steps)
    name = "constant_with_warmup" if settings.schedule == "constant" else settings.schedule
    return get_scheduler(name, optimizer, num_warmup_steps=warm, num_training_steps=steps)


def train(
    base: Base,
    jobs: Sequence[Job],
    settings: TrainSettings,
    *,
    seed: int,
    dropout: float = 0.0,
    report: Callable[[float], None] = lambda loss: None,
) -> None:
    """Train all jobs, each step one batch of every unfinished job in one pass; fills each job's `log`.

    A job's batches depend on the seed and its name alone, not on its neighbours. Raises PerpcsError for a job without
    examples, and when a loss is no longer finite.
    """
    if empty := [job.name for job in jobs if not job.examples]:
        raise PerpcsError(f"{empty[0]!r} has no examples to train on")
    torch.manual_seed(hashing.derive_seed(seed, "dropout", *(job.name for job in jobs)))
    running = [_Run(job, settings, seed) for job in jobs]
    with checkpointing(base, settings.checkpointing):
        for passes in side_by_side([run.batches for run in running]):
            for some in passes:
                losses = _add_gradients(base, [jobs[number] for number in some], list(some.values()), dropout)
                for number, loss in zip(some, losses, strict=True):
                    running[number].losses.append(loss)
            for number in passes[0]:
                report(running[number].apply())


class _Run:
    """The optimizer, schedule and order of examples of one job."""

    def __init__(self, job: Job, settings: TrainSettings, seed: int) -> None:
        self.job = job
        self.settings = settings
        self.step = 0
        self.losses: list[Tensor] = []
        self.optimizer = new_optimizer(job, settings)
        self.schedule = new_schedule(self.optimizer, settings, total_steps(settings, len(job.examples)))
        self.batches = draw_steps(job.examples, settings, random.Random(hashing.derive_seed(seed, "order", job.name)))

    def apply(self) -> float:
        loss = float(torch.stack(self.losses).mean())
        self.losses.clear()
        parameters = self.job.parameters
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.settings.clip or math.inf))
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise PerpcsError(
                f"the loss of {self.job.name!r} is {loss} and its gradient {norm} at step {self.step + 1}",
                hint="Try a lower learning rate, a lower --clip or --dtype float32.",
            )
        (rate,) = self.schedule.get_last_lr()
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.job.log.append(Step(self.step, loss, norm, rate))
        return loss


def _add_gradients(
    base: Base, jobs: Sequence[Job], shared: Sequence[tuple[Sequence[Encoded], float]], dropout: float
) -> list[Tensor]:
    """Mean loss per answer token of each job's rows, all in one pass; adds that share of its gradient to each job's."""
    rows = [some for some, _ in shared]
    shares = torch.tensor([share for _, share in shared], device=base.device)
    batch = make_batch(base, [row for some in rows for row in some])
    weights = torch.zeros(len(batch.answers), len(jobs), device=base.device)
    owners = [index for index, some in enumerate(rows) for _ in some]
    weights[range(len(owners)), owners] = 1.0

    def router(module: str, x: Tensor) -> Pieces:  # noqa: ARG001
        a = torch.cat([job.pieces[module][0] for job in jobs])
        b = torch.cat([job.pieces[module][1] * job.scale for job in jobs], dim=1)
        gates = torch.stack([job.gates[module] for job in jobs]) if jobs[0].gates else None
        return Pieces(a, b, weights, gates)

    owned = torch.tensor(owners, device=base.device)
    # Checkpointing runs the layers again in the backward pass, which must find the pieces attached.
    with attached(base, router, dropout=dropout):
        losses, counts = answer_losses(base, batch)
        means = [losses[owned == index].sum() / counts[owned == index].sum() for index in range(len(jobs))]
        (torch.stack(means) * shares).sum().backward()
    return [mean.detach() for mean in means]


def answer_losses(base: Base, batch: Batch) -> tuple[Tensor, Tensor]:
    """(summed loss [rows], answer tokens [rows]) of a batch's answers, in nats. Float32."""
    targets = batch.targets()
    width = targets.shape[1]
    logits = base.model(**batch.inputs(), logits_to_keep=width + 1, use_cache=False).logits[:, -width - 1 : -1]
    losses = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="none")
    return losses.view(targets.shape).sum(1), (targets != -100).sum(1)


class checkpointing:
    """Gradient checkpointing while the block lasts; the model is left as it was."""

    def __init__(self, base: Base, wanted: bool) -> None:
        self.base = base
        self.wanted = wanted

    def __enter__(self) -> None:
        if self.wanted:
            with _quiet():
                self.base.model.gradient_checkpointing_enable({"use_reentrant": False})
            # transformers lets gradients reach the embeddings and would leave that on; this kind has no need of it.
            self.base.model.disable_input_require_grads()
            for module in self.base.model.modules():
                # Only a layer in training mode is checkpointed; the others stay as they are, without dropout.
                module.training = getattr(module, "gradient_checkpointing", False)

    def __exit__(self, *_: object) -> None:
        if self.wanted:
            with _quiet():
                self.base.model.gradient_checkpointing_disable()
            self.base.model.eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warning of newer transformers that checkpointing has another name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
