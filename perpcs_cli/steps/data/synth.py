"""Make a small synthetic data set with planted habits."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from perpcs_cli.artifacts.io import typed_files
from perpcs_cli.steps.data.import_users import write_once
from perpcs_cli.steps.job import Outcome
from perpcs_cli.steps.report import SILENT, Report
from perpcs_cli.steps.workspace import Places
from perpcs_cli.tasks.synthetic_users import make_users


def synth(
    places: Places,
    *,
    count: int = 24,
    history: int = 16,
    queries: int = 4,
    forms: int = 4,
    seed: int | None = None,
    out: Path | None = None,
    force: bool = False,
    dry_run: bool = False,
    report: Report = SILENT,
) -> Outcome[bool]:
    """Write `count` users of the task news_headline, each with `history` items and `queries` queries.

    Groups of users share one of `forms` forms of headlines, and others an ending; their ids name the form.
    """
    made = make_users(count, history, queries, places.seed(seed), forms)
    lines = partial(typed_files.jsonl_lines, made)
    return write_once(out or places.users, lines, force=force, dry_run=dry_run, report=report)
