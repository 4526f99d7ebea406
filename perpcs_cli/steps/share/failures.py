"""Trainings that did not come to their end: their logs stay, the others go on, and the command ends in an error."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from perpcs_cli.artifacts.io import typed_files
from perpcs_cli.steps.report import Report

if TYPE_CHECKING:
    from perpcs_cli.model.training.train import Job


def log_path(directory: Path) -> Path:
    """Where the log of a failed training of the sharer in `directory` is: `NAME.failed.jsonl` beside it."""
    return directory.with_name(f"{directory.name}.failed.jsonl")


class Failures:
    """The failed trainings of a command."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._jobs: list[Job] = []

    def note(self, job: Job, directory: Path) -> bool:
        """Keep the log of a job that has failed, and say so; whether it has.

        A private one has no log. That of an earlier failure goes when the training succeeds.
        """
        path = log_path(directory)
        if not job.failure:
            path.unlink(missing_ok=True)
            return False
        self._jobs.append(job)
        kept = ""
        if job.log:
            typed_files.write_jsonl(path, job.log)
            kept = f"; the steps before are in {path}"
        self._report.warn(f"{job.name} is not trained to the end: {job.failure}{kept}")
        return True

    def end(self) -> None:
        """Raise PerpcsError, naming them, where any have failed."""
        from perpcs_cli.model.training.train import check_trained

        if self._jobs:
            check_trained(self._jobs)
