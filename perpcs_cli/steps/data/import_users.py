"""Bring in users from LaMP's files, the published Per-PCs layout, or our own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from perpcs_cli.artifacts.io import typed_files
from perpcs_cli.artifacts.settings import read_settings
from perpcs_cli.artifacts.users import User, write_users
from perpcs_cli.errors import DataError, UsageError
from perpcs_cli.steps.job import Outcome, Output, run_one, same_bytes
from perpcs_cli.steps.report import SILENT, Report
from perpcs_cli.steps.workspace import Places, stored_task
from perpcs_cli.tasks.importing.import_users import ImportResult, load
from perpcs_cli.tasks.spec import get_task


def task_name(given: str | None, places: Places) -> str | None:
    """The task that was given, else the workspace's; None where neither is known."""
    if given or not places.settings_file.exists():
        return given
    return stored_task(places.root, read_settings(places.settings_file))


def write_once(
    path: Path, users: list[User], *, force: bool, dry_run: bool = False, report: Report = SILENT
) -> Outcome[bool]:
    """Write users, unless the file holds just these. Raises UsageError where it holds something else."""

    def make() -> bool:
        write_users(path, users)
        return True

    output = Output(path.stem, path, same_bytes(path, typed_files.jsonl_lines(users)))
    return run_one(output, make, force=force, dry_run=dry_run, report=report)


def import_users(
    sources: Sequence[Path],
    places: Places,
    *,
    task: str | None = None,
    allow_broken: bool = False,
    out: Path | None = None,
    force: bool = False,
    dry_run: bool = False,
    report: Report = SILENT,
) -> tuple[ImportResult, Outcome[bool] | None]:
    """(what was found in files and directories, what became of users.jsonl; None where it was not to be written).

    Nothing is written where a record is broken, unless `allow_broken`. Raises UsageError where no task is known and
    DataError where there are no users.
    """
    task = task_name(task, places)
    if not task:
        hint = "Give --task, or make a workspace with `perpcs init`."
        raise UsageError("no task is known", where=places.settings_file, hint=hint)
    found = load(sources, get_task(task))
    if not found.users and not found.problems:
        raise DataError("the sources hold no users", where=", ".join(map(str, sources)))
    if not found.users or (found.problems and not allow_broken):
        return found, None
    path = out or places.users
    return found, write_once(path, found.users, force=force, dry_run=dry_run, report=report)
