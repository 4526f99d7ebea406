"""What `adapt` and `train_sharer` share: training LoRAs and writing each as an adapter directory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from perpcs_cli.artifacts.adapter import CARD, AdapterConfig, Card, open_adapter, write_adapter
from perpcs_cli.artifacts.io import atomic, typed_files
from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.pools.removal import check_removable
from perpcs_cli.artifacts.privacy import Guarantee
from perpcs_cli.artifacts.settings import LoraSettings, TrainSettings
from perpcs_cli.artifacts.training_log import FILE as LOG_FILE
from perpcs_cli.model.loading.catalogue import hub_name
from perpcs_cli.steps.job import Output
from perpcs_cli.steps.report import Report
from perpcs_cli.steps.share.failures import Failures
from perpcs_cli.steps.share.privacy import Budget, told, train_with_guarantee

if TYPE_CHECKING:
    from perpcs_cli.model.engine.batching import Encoded
    from perpcs_cli.model.loading.base import Base
    from perpcs_cli.model.training.train import Job

T = TypeVar("T")

TOGETHER = 8
"""Sharers that are trained side by side where nothing else is asked for; passes are divided as memory has it."""


def trained_together(asked: int | None, private: bool) -> int:
    """How many sharers are trained side by side: with differential privacy one alone."""
    return asked or (1 if private else TOGETHER)


@dataclass(frozen=True)
class LoraWork:
    """One LoRA to be trained: whose, where it is written, on what, and made from what."""

    name: str
    directory: Path
    examples: Sequence[Encoded]
    provenance: Provenance
    wanted: bool = True
    """Otherwise it is finished, and trained again only for those who share its batches."""
    announce: Callable[[], None] = lambda: None
    """Called when it is trained, before it is written."""


def read_trained(directory: Path) -> Card | None:
    """The card of an adapter that was trained to its end by perpcs; None where there is none.

    Raises DataError where the adapter is broken or its weights have changed since.
    """
    if not (directory / CARD).exists():
        return None
    adapter = open_adapter(directory)
    adapter.digest_weights()
    return adapter.card


def side_by_side(outputs: Sequence[Output[T]], todo: Sequence[Output[T]], together: int) -> list[Sequence[Output[T]]]:
    """The groups of `together` outputs in which any is to do.

    They do not depend on what is finished: rounding does on who shares a batch, and what is left must become what it
    would have been. So finished ones of a group are trained again.
    """
    groups = [outputs[at : at + together] for at in range(0, len(outputs), together)]
    return [group for group in groups if any(one in todo for one in group)]


def train_loras(
    base: Base,
    work: Sequence[LoraWork],
    lora: LoraSettings,
    settings: TrainSettings,
    report: Report,
    *,
    seed: int,
    failures: Failures,
    budget: Budget | None = None,
) -> list[Card | None]:
    """Train LoRAs, all in shared batches, and write those that are `wanted`; None for one that is not, or failed.

    With a budget each is trained alone, with a guarantee.
    """
    from perpcs_cli.model.training.order import total_steps
    from perpcs_cli.model.training.pass_size import pass_tokens
    from perpcs_cli.model.training.train import new_lora, train

    for one in work:
        if one.wanted:
            atomic.check_writable(one.directory, "directory")
            check_removable(one.directory)
    jobs = [new_lora(base, one.name, one.examples, lora, seed) for one in work]
    spent: list[Guarantee | None] = [None] * len(jobs)
    if budget:
        spent = [
            train_with_guarantee(base, job, settings, budget, one.provenance, report)
            for job, one in zip(jobs, work, strict=True)
        ]
    else:
        steps = sum(total_steps(settings, len(job.examples)) for job in jobs)
        label = jobs[0].name if len(jobs) == 1 else f"{len(jobs)} users"
        with report.progress(label, steps) as bar:
            tokens = pass_tokens(base)
            train(base, jobs, settings, seed=seed, dropout=lora.dropout, tokens=tokens, report=bar.loss)
    return [
        _write(job, one, base, lora, bound) if one.wanted and not failures.note(job, one.directory) else None
        for job, one, bound in zip(jobs, work, spent, strict=True)
    ]


def _write(job: Job, work: LoraWork, base: Base, lora: LoraSettings, spent: Guarantee | None) -> Card:
    config = AdapterConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
        base_model_name_or_path=hub_name(base.name),
    )
    work.announce()
    with atomic.replacing_directory(work.directory) as temporary:
        digest = write_adapter(temporary, job.pieces, config, version("peft"))
        if not spent:
            typed_files.write_jsonl(temporary / LOG_FILE, job.log)
        card = Card(
            user_id=job.name,
            examples=len(job.examples),
            tokens=None if spent else sum(len(row.answer) for row in job.examples),
            **told(job, spent),
            digest=digest,
            scale=config.scale,
            provenance=work.provenance,
        )
        typed_files.write_json(temporary / CARD, card)
    return card
