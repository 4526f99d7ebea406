"""Make a workspace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from perpcs_cli.artifacts.io import typed_files
from perpcs_cli.artifacts.settings import Paper, Preset, Settings, make_settings, to_toml
from perpcs_cli.model.loading.catalogue import absolute
from perpcs_cli.steps.job import Outcome, Output, run_one, same_bytes
from perpcs_cli.steps.report import SILENT, Report
from perpcs_cli.steps.workspace import Places
from perpcs_cli.tasks.published_settings import published_settings


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
    """Write perpcs.toml with the published settings of a task, and others of the top by name."""
    path = Places(directory).settings_file
    made = make_settings(published_settings(task, paper, preset), {"model": absolute(model), **settings})
    text = to_toml(made)

    def make() -> bool:
        typed_files.write_text(path, text)
        return True

    output = Output(path.stem, path, same_bytes(path, [text.encode()]))
    return made, run_one(output, make, force=force, dry_run=dry_run, report=report)
