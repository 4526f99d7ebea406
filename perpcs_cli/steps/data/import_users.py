"""Bring in users from LaMP's files, the published Per-PCs layout, or our own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from perpcs_cli.artifacts.io import typed_files
from perpcs_cli.artifacts.settings import read_settings
from perpcs_cli.errors import DataError, UsageError
from perpcs_cli.steps.data.spool import spooled
from perpcs_cli.steps.job import Outcome, Output, run_one, same_bytes
from perpcs_cli.steps.report import SILENT, Report
from perpcs_cli.steps.workspace import Places, stored_task
from perpcs_cli.tasks.importing.import_users import ImportResult, read_users
from perpcs_cli.tasks.spec import get_task


def task_name(given: str | None, places: Places) -> str | None:
    """The task that was given, else the workspace's; None where neither is known."""
    if given or not places.settings_file.exists():
        return given
    return stored_task(places.root, read_settings(places.settings_file))


def write_once(
    path: Path,
    lines: Callable[[], Iterable[bytes]],
    *,
    force: bool,
    dry_run: bool = False,
    report: Report = SILENT,
) -> Outcome[bool]:
    """Write the lines of users, unless the file holds just these. Raises UsageError where it holds something else."""

    def make() -> bool:
        typed_files.write_lines(path, lines())
        return True

    output = Output(path.stem, path, same_bytes(path, lines()))
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
) -> tuple[ImportResult[int], Outcome[bool] | None]:
    """(what was found in files and directories, what became of users.jsonl; None where it was not to be written).

    Users are not held, but put aside on the disk until it is known that they may be written: nothing is where a record
    is broken, unless `allow_broken`. Raises UsageError where no task is known and DataError where there are no users.
    """
    task = task_name(task, places)
    if not task:
        hint = "Give --task, or make a workspace with `perpcs init`."
        raise UsageError("no task is known", where=places.settings_file, hint=hint)
    path = out or places.users
    with spooled(path, beside=not dry_run) as spool:
        found = read_users(sources, get_task(task), spool.add)
        if not found.users and not found.problems:
            raise DataError("the sources hold no users", where=", ".join(map(str, sources)))
        if not found.users or (found.problems and not allow_broken):
            return found, None
        lines = partial(spool.lines, found.users)
        return found, write_once(path, lines, force=force, dry_run=dry_run, report=report)
