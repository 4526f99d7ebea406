"""Training with differential privacy: what it may spend, and a training that ends in a guarantee."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.pools.secret import BYTES, existing_secret, keyed_digest, workspace_secret
from perpcs_cli.artifacts.privacy import Guarantee, guarantee, noise_multiplier, spoken
from perpcs_cli.artifacts.settings import TrainSettings
from perpcs_cli.errors import UsageError
from perpcs_cli.steps.report import Report
from perpcs_cli.tasks.prompts import PLAIN, Shown

if TYPE_CHECKING:
    from perpcs_cli.artifacts.adapter import Card
    from perpcs_cli.artifacts.gate import GateCard
    from perpcs_cli.model.loading.base import Base
    from perpcs_cli.model.training.train import Job


def secret_of(workspace: Path, *, dry_run: bool) -> bytes:
    """The secret of a workspace, made where there is none yet; a dry run makes up one that is not kept."""
    return (existing_secret(workspace) or os.urandom(BYTES)) if dry_run else workspace_secret(workspace)


@dataclass(frozen=True)
class Budget:
    """What a training may spend (`epsilon`), or how much noise it adds (`noise`); and the secret of its workspace."""

    epsilon: float | None
    noise: float | None
    delta: float
    clip: float
    workspace: Path
    dry_run: bool = False

    @cached_property
    def secret(self) -> bytes:
        """The workspace's, made where there is none yet."""
        return secret_of(self.workspace, dry_run=self.dry_run)

    def settings(self) -> dict[str, Any]:
        """What of it changes results, for the provenance; the secret is not told."""
        return {"dp": {"epsilon": self.epsilon, "noise": self.noise, "delta": self.delta, "clip": self.clip}}

    def hide(self, digest: str) -> str:
        """A digest of private data that only this workspace can compare with another."""
        return keyed_digest(self.secret, ["input", digest])

    def check(self, shown: Shown, together: int) -> None:
        """Raise UsageError where the guarantee would not hold for examples that show `shown`, or not for each user."""
        where = "--dp-noise" if self.epsilon is None else "--dp-epsilon"
        if shown != PLAIN:
            raise UsageError(
                "protects each history item only where it is in no example but its own",
                where=where,
                hint="Train on plain prompts: add --plain.",
            )
        if together > 1:
            raise UsageError("trains one user at a time", where=where, hint="Leave out --together.")


def train_with_guarantee(
    base: Base, job: Job, settings: TrainSettings, budget: Budget, provenance: Provenance, report: Report
) -> Guarantee:
    """Train one job with differential privacy, and say what it spent.

    Noise and batches come from the workspace's secret and everything that the training depends on: the same training
    gives the same bytes, and any other has other noise. Noise used twice would cancel out.
    """
    from perpcs_cli.model.training.dp_sgd import Privacy, sampling, train_private

    sample_rate, steps = sampling(settings, len(job.examples))
    noise = budget.noise or noise_multiplier(budget.epsilon or 0.0, budget.delta, sample_rate, steps)
    key = bytes.fromhex(keyed_digest(budget.secret, ["noise", job.name, provenance]))
    if budget.delta * len(job.examples) >= 1:
        report.warn(f"{job.name}: a delta of 1 / {len(job.examples)} examples or more lets one be given away whole")
    with report.progress(job.name, steps) as bar:
        mechanism = train_private(base, job, settings, Privacy(noise, budget.clip, key), report=bar.advance)
    spent = guarantee([mechanism], budget.delta)
    if not job.failure:
        report.note(
            f"{job.name}: {spoken(spent)} for each of {len(job.examples)} examples: noise {noise:.3f} x "
            f"{budget.clip:g}, {steps} steps that see an example with chance {sample_rate:.3g}"
        )
    return spent


def note_losses(report: Report, name: str, card: Card | GateCard) -> None:
    """Say how a training that promises nothing went."""
    report.note(f"{name}: loss {card.first_loss:.3f} -> {card.last_loss:.3f}, {card.steps} steps")


def told(job: Job, spent: Guarantee | None) -> dict[str, Any]:
    """What a card tells of a training: with a guarantee nothing that was not noised."""
    if spent:
        return {"steps": spent.mechanisms[0].steps, "privacy": spent}
    losses = [step.loss for step in job.log]
    tenth = max(1, len(losses) // 10)
    first, last = sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
    return {"steps": len(job.log), "first_loss": first, "last_loss": last}
