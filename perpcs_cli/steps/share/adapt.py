"""Teach the base the task's form with one LoRA, on users who are neither sharers nor targets."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perpcs_cli.artifacts.adapter import Card, open_adapter
from perpcs_cli.artifacts.io import atomic, typed_files
from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.merged_model import FILE as MERGED_FILE
from perpcs_cli.artifacts.merged_model import Merged, read_merged
from perpcs_cli.artifacts.settings import set_task_adapter
from perpcs_cli.errors import UsageError
from perpcs_cli.steps.base import StepModel
from perpcs_cli.steps.job import Outcome, Output, made_from, run
from perpcs_cli.steps.report import SILENT, Report
from perpcs_cli.steps.share.failures import Failures
from perpcs_cli.steps.share.train_loras import LoraWork, read_trained, train_loras
from perpcs_cli.steps.workspace import EVERYONE, Who, Workspace
from perpcs_cli.tasks.examples import adaptation_prompts
from perpcs_cli.tasks.prompts import PUBLISHED, Shown, Source, digest

if TYPE_CHECKING:
    from perpcs_cli.model.loading.base import Base


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
    if save_merged and settings.quantize != "none":
        raise UsageError(
            "an adapter cannot be merged into weights in 4 bits",
            where="--save-merged",
            hint="Leave it out, or adapt with --quantize none.",
        )
    if not who.ids and not workspace.split("base"):
        raise UsageError(
            "no base users are known, and without them the targets would be among those that the base is adapted on",
            where=workspace.splits / "base.txt",
            hint="Draw them with `perpcs split`, or name them with --user or --users.",
        )
    users = who.select(workspace, "base")
    prompts = adaptation_prompts(workspace.task, users, shown, source=source, seed=settings.seed)
    if max_examples and max_examples < len(prompts):
        prompts = random.Random(settings.seed).sample(prompts, max_examples)
    model = StepModel(workspace, report, adapted=False, changed=save_merged is not None, trains=True)
    provenance = workspace.provenance(
        "adapt",
        {"adapt": settings.adapt, "lora": settings.lora, "source": source, "prompts": shown}
        | {"max_examples": max_examples, "max_length": settings.max_length, **model.describe()},
        {"examples": digest(prompts)},
        model.fingerprint,
    )

    def train() -> Card:
        rows = model.encode(prompts, who="base users")
        report.note(f"adapting on {len(rows)} examples of {len(users)} users")
        # perpcs.toml names it before it is there: killed in between, other commands must miss it, and not do without.
        work = [LoraWork("task-adapter", target, rows, provenance, announce=named)]
        failures = Failures(report)
        (card,) = train_loras(
            model.base, work, settings.lora, settings.adapt, report, seed=settings.seed, failures=failures
        )
        failures.end()
        assert card
        return card

    def named() -> None:
        if record and workspace.settings_file.exists():
            _record(workspace, target, report)

    outputs: list[Output[Any]] = [Output("task-adapter", target, made_from(provenance, target, read_trained))]
    if save_merged:
        outputs.append(Output("merged", save_merged, made_from(provenance, save_merged, read_merged)))

    def make(todo: Sequence[Output[Any]], keep: Any) -> None:
        for one in todo:
            if one.path == target:
                keep(one, train())
            else:
                keep(one, _merge(model.base, target, one.path, provenance, report))

    things = "outputs" if save_merged else ""
    adapted, *_ = run(outputs, make, place=target, things=things, force=force, dry_run=dry_run, report=report)
    if dry_run and adapted.state == "to do":
        model.encode(prompts, who="base users")
    if adapted.state == "finished" and not dry_run:
        named()
    return adapted


def _merge(base: Base, adapter: Path, directory: Path, provenance: Provenance, report: Report) -> Merged:
    """Write the base with the adapter in its weights as a model directory."""
    from perpcs_cli.model.loading.base import merge_adapter, save_model

    card = Merged(provenance=provenance)
    merge_adapter(base.model, open_adapter(adapter))
    with atomic.replacing_directory(directory) as temporary:
        save_model(base, temporary)
        typed_files.write_json(temporary / MERGED_FILE, card)
    report.note(f"wrote {directory}")
    return card


def _record(workspace: Workspace, target: Path, report: Report) -> None:
    """Name the adapter in perpcs.toml, relative to it where it lies below, unless it is named there already."""
    root = workspace.root.resolve()
    place = target.resolve()
    named = str(place.relative_to(root) if place.is_relative_to(root) else place)
    if workspace.settings.task_adapter == "" or Path(workspace.settings.task_adapter).resolve() != place:
        set_task_adapter(workspace.settings_file, named)
        report.note(f"{workspace.settings_file} now names {named} as the task adapter")
