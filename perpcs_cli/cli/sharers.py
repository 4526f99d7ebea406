"""What `adapt` and `train-sharer` share: training LoRAs and writing each as an adapter directory."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from perpcs_cli.artifacts import store
from perpcs_cli.artifacts.adapter import CARD, LOG, AdapterConfig, Card, write_adapter
from perpcs_cli.artifacts.privacy import Guarantee
from perpcs_cli.artifacts.provenance import Provenance
from perpcs_cli.artifacts.workspace import LoraSettings, TrainSettings
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.privacy import Budget, told, train_with_guarantee
from perpcs_cli.model.catalogue import hub_name

if TYPE_CHECKING:
    from perpcs_cli.model.base import Base
    from perpcs_cli.model.batching import Encoded
    from perpcs_cli.model.train import Job


def train_loras(
    base: Base,
    work: Sequence[tuple[str, Path, Sequence[Encoded], Provenance]],
    lora: LoraSettings,
    settings: TrainSettings,
    console: Console,
    *,
    seed: int,
    budget: Budget | None = None,
) -> list[Card]:
    """Train one LoRA for each (name, directory, examples, provenance), all in shared batches, and write them.

    With a budget each is trained alone, with differential privacy.
    """
    from perpcs_cli.model.train import new_lora, total_steps, train

    for _, directory, _, _ in work:
        store.check_writable(directory)
    jobs = [new_lora(base, name, examples, lora, seed) for name, _, examples, _ in work]
    spent: list[Guarantee | None] = [None] * len(jobs)
    if budget:
        origins = [origin for *_, origin in work]
        spent = [
            train_with_guarantee(base, job, settings, budget, origin, console)
            for job, origin in zip(jobs, origins, strict=True)
        ]
    else:
        steps = sum(total_steps(settings, len(job.examples)) for job in jobs)
        label = jobs[0].name if len(jobs) == 1 else f"{len(jobs)} users"
        with console.progress(label, steps) as bar:
            train(base, jobs, settings, seed=seed, dropout=lora.dropout, report=bar.loss)
    return [
        _write(job, directory, base, lora, provenance, one)
        for job, (_, directory, _, provenance), one in zip(jobs, work, spent, strict=True)
    ]


def _write(
    job: Job,
    directory: Path,
    base: Base,
    lora: LoraSettings,
    provenance: Provenance,
    spent: Guarantee | None,
) -> Card:
    config = AdapterConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
        base_model_name_or_path=hub_name(base.name),
    )
    with store.replacing_directory(directory) as temporary:
        digest = write_adapter(temporary, job.pieces, config, version("peft"))
        if not spent:
            store.write_jsonl(temporary / LOG, job.log)
        card = Card(
            user_id=job.name,
            examples=len(job.examples),
            tokens=None if spent else sum(len(row.answer) for row in job.examples),
            **told(job, spent),
            digest=digest,
            provenance=provenance,
        )
        store.write_json(temporary / CARD, card)
    return card
