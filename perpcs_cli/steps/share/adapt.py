"""Teach the base the task's form with one LoRA, on users who are neither sharers nor targets."""

from __future__ import annotations

import random
from pathlib import Path

from perpcs_cli.artifacts.adapter import Card, open_adapter
from perpcs_cli.artifacts.io import atomic
from perpcs_cli.artifacts.settings import set_task_adapter
from perpcs_cli.steps.base import StepModel
from perpcs_cli.steps.job import Outcome, Output, made_from, run_one
from perpcs_cli.steps.report import SILENT, Report
from perpcs_cli.steps.share.failures import Failures
from perpcs_cli.steps.share.train_loras import LoraWork, read_trained, train_loras
from perpcs_cli.steps.workspace import EVERYONE, Who, Workspace
from perpcs_cli.tasks.examples import adaptation_prompts
from perpcs_cli.tasks.prompts import PUBLISHED, Shown, Source, digest


def adapt(
    workspace: Workspace,
    who: Who = EVERYONE,
    *,
    shown: Shown = PUBLISHED,
    source: Source = "auto",
    max_examples: int | None = None,
    save_merged: Path | None = None,
    record: bool = True,
    out: Path | None = None,
    force: bool = False,
    dry_run: bool = False,
    report: Report = SILENT,
) -> Outcome[Card]:
    """Train the task adapter on the base users, by the sections `adapt` and `lora` of the settings.

    `source`: queries, history, both, or the queries where there are any. At most `max_examples` are used, drawn by
    seed. With `record`, perpcs.toml names the adapter; `save_merged` is a directory for the adapted model.
    """
    settings = workspace.settings
    target = out or workspace.task_adapter
    users = who.select(workspace, "base")
    prompts = adaptation_prompts(workspace.task, users, shown, source=source, seed=settings.seed)
    if max_examples and max_examples < len(prompts):
        prompts = random.Random(settings.seed).sample(prompts, max_examples)
    model = StepModel(workspace, report, adapted=False, changed=save_merged is not None)
    provenance = workspace.provenance(
        "adapt",
        {"adapt": settings.adapt, "lora": settings.lora, "source": source, "prompts": shown}
        | {"max_examples": max_examples, "max_length": settings.max_length, **model.describe()},
        {"examples": digest(prompts)},
        model.fingerprint,
    )

    def make() -> Card:
        if save_merged:
            atomic.refuse_existing(save_merged, force=force)
        rows = model.encode(prompts, who="base users")
        report.note(f"adapting on {len(rows)} examples of {len(users)} users")
        work = [LoraWork("task-adapter", target, rows, provenance)]
        failures = Failures(report)
        (card,) = train_loras(
            model.base, work, settings.lora, settings.adapt, report, seed=settings.seed, failures=failures
        )
        failures.end()
        assert card
        return card

    output = Output("task-adapter", target, made_from(provenance, target, read_trained))
    outcome = run_one(output, make, force=force, dry_run=dry_run, report=report)
    if outcome.value is None or dry_run:
        return outcome
    if record and workspace.settings_file.exists():
        _record(workspace, target, report)
    if save_merged and (outcome.state == "made" or not save_merged.exists()):
        from perpcs_cli.model.loading.base import merge_adapter

        merge_adapter(model.base.model, open_adapter(target))
        with atomic.replacing_directory(save_merged) as temporary:
            model.base.model.save_pretrained(temporary)
            model.base.tokenizer.save_pretrained(temporary)
        report.note(f"wrote {save_merged}")
    return outcome


def _record(workspace: Workspace, target: Path, report: Report) -> None:
    """Name the adapter in perpcs.toml, relative to it where it lies below, unless it is named there already."""
    root = workspace.root.resolve()
    place = target.resolve()
    named = str(place.relative_to(root) if place.is_relative_to(root) else place)
    if workspace.settings.task_adapter == "" or Path(workspace.settings.task_adapter).resolve() != place:
        set_task_adapter(workspace.settings_file, named)
        report.note(f"{workspace.settings_file} now names {named} as the task adapter")
