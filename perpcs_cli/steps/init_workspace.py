"""Make a workspace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from perpcs_cli.artifacts.io import typed_files
from perpcs_cli.artifacts.settings import Paper, Preset, Settings, make_settings, to_toml
from perpcs_cli.model.loading.catalogue import absolute
from perpcs_cli.steps.job import Outcome, Output, run_one, same_bytes
from perpcs_cli.steps.report import SILENT, Report
from perpcs_cli.steps.workspace import Places
from perpcs_cli.tasks.published_settings import published_settings
from perpcs_cli.tasks.spec import Task, get_task


def init(
    directory: Path,
    *,
    task: str,
    model: str,
    paper: Paper = "per-pcs",
    preset: Preset = "perpcs",
    force: bool = False,
    dry_run: bool = False,
    report: Report = SILENT,
    **settings: Any,
) -> tuple[Settings, Outcome[bool]]:
    """Write perpcs.toml with the published settings of a task, and others of the top by name.

    The file of an own task is copied beside it.
    """
    path = Places(directory).settings_file
    made = make_settings(published_settings(task, paper, preset), {"model": absolute(model), **settings})
    chosen, made = _within(made)
    files = {path: to_toml(made).encode()}
    if chosen.is_own:
        files[directory / chosen.file_name] = chosen.file.read_bytes()

    def finished() -> bool | None:
        # Each is looked at: one that says something else is refused, even where the other is missing.
        same = [same_bytes(file, [content])() for file, content in files.items()]
        return all(same) or None

    def make() -> bool:
        _write(directory, chosen, made)
        return True

    outcome = run_one(Output(path.stem, path, finished), make, force=force, dry_run=dry_run, report=report)
    return made, outcome


def write_settings(directory: Path, settings: Settings) -> None:
    """Write a perpcs.toml as it is given, with a copy of an own task's file beside it."""
    _write(directory, *_within(settings))


def _within(settings: Settings) -> tuple[Task, Settings]:
    """(the task, the settings as they stand in a workspace that has a copy of its file)."""
    task = get_task(settings.task)
    return task, msgspec.structs.replace(settings, task=task.file_name if task.is_own else task.name)


def _write(directory: Path, task: Task, settings: Settings) -> None:
    if task.is_own:
        task.copy_to(directory)
    typed_files.write_text(Places(directory).settings_file, to_toml(settings))
