"""What `train-sharer` and `gate` share of differential privacy: the flags, and a training that ends in a guarantee."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perpcs_cli.artifacts.privacy import Guarantee, check_installed, guarantee, noise_multiplier
from perpcs_cli.artifacts.provenance import Provenance
from perpcs_cli.artifacts.secret import keyed_digest, workspace_secret
from perpcs_cli.artifacts.workspace import TrainSettings
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.options import TrainingFlags
from perpcs_cli.cli.running import first_and_last
from perpcs_cli.errors import UsageError
from perpcs_cli.tasks.prompts import PLAIN, Shown

if TYPE_CHECKING:
    from perpcs_cli.artifacts.adapter import Card
    from perpcs_cli.artifacts.gate import GateCard
    from perpcs_cli.model.base import Base
    from perpcs_cli.model.train import Job

DELTA = 1e-5
LORA_CLIP = 1.0
GATE_CLIP = 0.1
"""Below the gradients of most examples, as measured on SmolLM2: with AdamW, which divides by the gradients' scale, a
low bound costs nothing, and a high one costs noise."""


@dataclass(frozen=True)
class Budget:
    """What a training may spend (`epsilon`), or how much noise it adds (`noise`); and the secret of its workspace."""

    epsilon: float | None
    noise: float | None
    delta: float
    clip: float
    workspace: Path

    @cached_property
    def secret(self) -> bytes:
        """The workspace's, made where there is none yet."""
        return workspace_secret(self.workspace)

    def settings(self) -> dict[str, Any]:
        """What of it changes results, for the provenance; the secret is not told."""
        return {"dp": {"epsilon": self.epsilon, "noise": self.noise, "delta": self.delta, "clip": self.clip}}

    def hide(self, digest: str) -> str:
        """A digest of private data that only this workspace can compare with another."""
        return keyed_digest(self.secret, ["input", digest])


@dataclass(frozen=True)
class PrivacyFlags:
    """The flags of training with differential privacy."""

    dp_epsilon: Annotated[
        float | None,
        typer.Option("--dp-epsilon", metavar="<E>", help="Differential privacy: the most each training may spend."),
    ] = None
    dp_noise: Annotated[
        float | None,
        typer.Option("--dp-noise", metavar="<SIGMA>", help="The same by its noise, as a multiple of --dp-clip."),
    ] = None
    dp_delta: Annotated[
        float | None, typer.Option("--dp-delta", metavar="<D>", help="The delta of the guarantee. [default: 1e-5]")
    ] = None
    dp_clip: Annotated[
        float | None,
        typer.Option("--dp-clip", help="Largest gradient norm of one example. [default: 1; for gates 0.1]"),
    ] = None

    def budget(
        self, workspace: Path, training: TrainingFlags, shown: Shown, together: int, *, clip: float
    ) -> Budget | None:
        """What was asked for, or None without differential privacy. `clip`: the default of --dp-clip.

        Raises UsageError for numbers out of range, and for flags with which the guarantee would not hold.
        """
        if self.dp_epsilon is None and self.dp_noise is None:
            if self.dp_delta is not None or self.dp_clip is not None:
                flag = "--dp-clip" if self.dp_delta is None else "--dp-delta"
                raise UsageError("needs --dp-epsilon or --dp-noise", where=flag)
            return None
        if self.dp_epsilon is not None and self.dp_noise is not None:
            raise UsageError("give one", where="--dp-epsilon and --dp-noise", hint="Each follows from the other.")
        for flag, value in (("epsilon", self.dp_epsilon), ("noise", self.dp_noise), ("clip", self.dp_clip)):
            if value is not None and not 0 < value < float("inf"):
                raise UsageError(f"must be above 0, and is {value:g}", where=f"--dp-{flag}")
        delta = DELTA if self.dp_delta is None else self.dp_delta
        if not 0 < delta < 1:
            raise UsageError(f"must be between 0 and 1, and is {delta:g}", where="--dp-delta")
        self._refuse(training, shown, together)
        check_installed()
        return Budget(self.dp_epsilon, self.dp_noise, delta, self.dp_clip or clip, workspace)

    def _refuse(self, training: TrainingFlags, shown: Shown, together: int) -> None:
        where = "--dp-noise" if self.dp_epsilon is None else "--dp-epsilon"
        if shown != PLAIN:
            raise UsageError(
                "protects each history item only where it is in no example but its own",
                where=where,
                hint="Train on plain prompts: add --plain.",
            )
        if together > 1:
            raise UsageError("trains one user at a time", where=where, hint="Leave out --together.")
        if training.clip is not None:
            raise UsageError("clips each example's gradient, not a batch's", where=where, hint="Use --dp-clip.")


def train_with_guarantee(
    base: Base, job: Job, settings: TrainSettings, budget: Budget, provenance: Provenance, console: Console
) -> Guarantee:
    """Train one job with differential privacy, and say what it spent.

    Noise and batches come from the workspace's secret and everything that the training depends on: the same training
    gives the same bytes, and any other has other noise. Noise used twice would cancel out.
    """
    from perpcs_cli.model.private import Privacy, sampling, train_private

    sample_rate, steps = sampling(settings, len(job.examples))
    noise = budget.noise or noise_multiplier(budget.epsilon or 0.0, budget.delta, sample_rate, steps)
    key = bytes.fromhex(keyed_digest(budget.secret, ["noise", job.name, provenance]))
    if budget.delta * len(job.examples) >= 1:
        console.warn(f"{job.name}: a delta of 1 / {len(job.examples)} examples or more lets one be given away whole")
    with console.progress(job.name, steps) as bar:
        mechanism = train_private(base, job, settings, Privacy(noise, budget.clip, key), report=bar.advance)
    spent = guarantee([mechanism], budget.delta)
    console.note(
        f"{job.name}: {spoken(spent)} for each of {len(job.examples)} examples: noise {noise:.3f} x {budget.clip:g}, "
        f"{steps} steps that see an example with chance {sample_rate:.3g}"
    )
    return spent


def told(job: Job, spent: Guarantee | None) -> dict[str, Any]:
    """What a card tells of a training: with a guarantee nothing that was not noised."""
    if spent:
        return {"steps": spent.mechanisms[0].steps, "privacy": spent}
    first, last = first_and_last([step.loss for step in job.log])
    return {"steps": len(job.log), "first_loss": first, "last_loss": last}


def spoken(spent: Guarantee | None) -> str:
    """A guarantee in short: `epsilon 7.99, delta 1e-05`, or `none`."""
    if not spent:
        return "none"
    # Rounded up: less than what was spent must not be claimed.
    return f"epsilon {math.ceil(spent.epsilon * 100) / 100:.2f}, delta {spent.delta:g}"


def columns(card: Card | GateCard, *more: object) -> str:
    """Tab-separated: first and last loss, then `more`; at the end the guarantee, which forbids to tell the losses."""
    losses = ["-" if loss is None else f"{loss:.4f}" for loss in (card.first_loss, card.last_loss)]
    return "\t".join([*losses, *map(str, more), *([spoken(card.privacy)] if card.privacy else [])])
