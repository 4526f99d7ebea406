"""`perpcs report`: one page of a workspace or a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from perpcs_cli.artifacts.io import atomic
from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.mia import roc_path
from perpcs_cli.artifacts.results import FILE as RESULTS
from perpcs_cli.artifacts.settings import FILE as SETTINGS
from perpcs_cli.errors import DataError
from perpcs_cli.experiments.report import origins, sweep, workspace
from perpcs_cli.experiments.report.page import render
from perpcs_cli.experiments.report.wanted import Wanted
from perpcs_cli.steps.job import Outcome, Output, run_one, same_bytes
from perpcs_cli.steps.report import SILENT, Report
from perpcs_cli.steps.workspace import EVERYONE, Who, open_workspace

NAME = "report.html"
ANSWERS = 5
"""Of each user, where nothing else is asked for."""


def write_report(
    place: Path,
    who: Who = EVERYONE,
    *,
    answers: int = ANSWERS,
    mia: Sequence[Path] = (),
    out: Path | None = None,
    force: bool = False,
    dry_run: bool = False,
    report: Report = SILENT,
) -> Outcome[bool]:
    """Write what the files of `place` say, a workspace's directory or a sweep's or its results.jsonl, as one page.

    `who`: whose answers, recipes and searches are shown, and where the users are; `answers`: so many of each user;
    `mia`: summaries of attacks, or directories of them, instead of those in mia/. Nothing is run. Raises DataError
    where the place is neither, or a file is broken; and as the others do where another page is there.
    """
    root, asked = place, Wanted(who, answers, mia)
    if place.is_file() or (place / RESULTS).exists():
        root = place.parent if place.is_file() else place
        gathered = sweep.gather(root / place.name if place.is_file() else root / RESULTS, asked)
    elif (place / SETTINGS).exists():
        gathered = workspace.gather(open_workspace(place), asked)
    else:
        what = "is neither a workspace nor a sweep" if place.exists() else "no such directory"
        hint = f"A workspace has a {SETTINGS}, and a sweep's directory its {RESULTS}."
        raise DataError(what, where=place, hint=hint)
    summaries = [path for one in asked.summaries(root) for path in (one, roc_path(one))]
    inputs = origins.digests(root, [*gathered.files, *summaries])
    settings = {"users": list(who.ids), "answers": answers}
    page = render(gathered.page, Provenance(command="report", settings=settings, seed=0, inputs=inputs))
    path = out or root / NAME

    def make() -> bool:
        with atomic.replacing(path) as temporary:
            temporary.write_bytes(page)
        return True

    return run_one(Output(path.name, path, same_bytes(path, [page])), make, force=force, dry_run=dry_run, report=report)
