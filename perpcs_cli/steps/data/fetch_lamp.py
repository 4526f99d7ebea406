"""Fetch LaMP's official files into the cache, and import them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from perpcs_cli.artifacts.caches import cache_directory
from perpcs_cli.artifacts.io import hashing, typed_files
from perpcs_cli.artifacts.io.atomic import check_writable
from perpcs_cli.artifacts.io.download import check_url, download
from perpcs_cli.artifacts.io.lock import locked
from perpcs_cli.errors import PerpcsError, UsageError
from perpcs_cli.steps.data.import_users import import_users, task_name
from perpcs_cli.steps.job import Outcome
from perpcs_cli.steps.report import SILENT, Report
from perpcs_cli.steps.workspace import Places
from perpcs_cli.tasks.importing.import_users import ImportResult
from perpcs_cli.tasks.importing.lamp_files import BASE_URL, Part, Separation, paths_of
from perpcs_cli.tasks.spec import Task, get_task


class FetchCard(msgspec.Struct, frozen=True, kw_only=True, tag_field="format", tag="perpcs.fetched/1"):
    """`NAME.card.json` beside a fetched file: where it is from, and what it was when it came."""

    url: str
    size: int
    sha256: str


class Fetched(msgspec.Struct, frozen=True, kw_only=True):
    """One file of LaMP's, and what became of it."""

    path: Path
    url: str
    state: Literal["made", "finished", "to do"]
    size: int = 0
    """Bytes; 0 where it is still to do."""
    sha256: str = ""


def fetch_lamp(
    places: Places,
    *,
    task: str | None = None,
    separation: Separation = "user",
    parts: Sequence[Part] = (Part.train, Part.dev),
    base_url: str = BASE_URL,
    allow_broken: bool = False,
    out: Path | None = None,
    force: bool = False,
    dry_run: bool = False,
    report: Report = SILENT,
) -> tuple[list[Fetched], tuple[ImportResult[int], Outcome[bool] | None] | None]:
    """(LaMP's files in the cache, what `import_users` says of them; None for a dry run where files are missing).

    A file that is in the cache as it came is not fetched again, unless `force`. Raises UsageError where no task of
    LaMP's is known, and PerpcsError where a file cannot be fetched: what has come of it stays, and is gone on with.
    """
    check_url(base_url, "--base-url")
    chosen = _chosen(task, places)
    wanted = [path for part in dict.fromkeys(parts) for path in paths_of(chosen, separation, part)]
    files = []
    for path in wanted:
        target = cache_directory() / "lamp" / separation / path.removeprefix("time/")
        files.append(_fetch(f"{base_url.rstrip('/')}/{path}", target, force=force, dry_run=dry_run, report=report))
    if any(file.state == "to do" for file in files):
        return files, None
    found = import_users(
        [file.path for file in files],
        places,
        task=task,
        allow_broken=allow_broken,
        out=out,
        force=force,
        dry_run=dry_run,
        report=report,
    )
    return files, found


def _chosen(task: str | None, places: Places) -> Task:
    name = task_name(task, places)
    if not name:
        raise UsageError("no task is known", where="--task", hint="Give LaMP's number, as --task 4.")
    return get_task(name)


def _fetch(url: str, target: Path, *, force: bool, dry_run: bool, report: Report) -> Fetched:
    card = target.with_name(f"{target.name}.card.json")
    if not force and (found := there(url, target, card)):
        return found
    if dry_run:
        return Fetched(path=target, url=url, state="to do")
    check_writable(target)
    with locked(target, report.note):
        # Another process may have fetched it while this one waited.
        if not force and (found := there(url, target, card)):
            return found
        digest = download(url, target, note=report.note, progress=report.progress)
        size = target.stat().st_size
        typed_files.write_json(card, FetchCard(url=url, size=size, sha256=digest))
    return Fetched(path=target, url=url, state="made", size=size, sha256=digest)


def there(url: str, target: Path, card: Path) -> Fetched | None:
    """The file if it is in the cache as it came from there."""
    try:
        said = typed_files.read_json(card, FetchCard)
        size = target.stat().st_size
    except (PerpcsError, OSError):
        return None
    if said.url != url or said.size != size or hashing.digest_file(target) != said.sha256:
        return None
    return Fetched(path=target, url=url, state="finished", size=size, sha256=said.sha256)
