"""Trainings that did not come to their end: their logs stay, the others go on, and the command ends in an error."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from perpcs_cli.artifacts.io import typed_files
from perpcs_cli.artifacts.training_log import failed_log
from perpcs_cli.steps.report import Report

if TYPE_CHECKING:
    from perpcs_cli.model.training.train import Job


class Failures:
    """The failed trainings of a command."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._jobs: list[Job] = []

    def note(self, job: Job, directory: Path) -> bool:
        """Keep the log of a job that has failed, and say so; whether it has.

        A private one has no log. That of an earlier failure goes when the training succeeds.
        """
        path = failed_log(directory)
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
