"""What a report is asked to show, and what was gathered for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from perpcs_cli.artifacts.mia import summaries_in
from perpcs_cli.experiments.report.blocks import Page
from perpcs_cli.steps.workspace import Who


@dataclass(frozen=True)
class Wanted:
    """What a report is asked to show."""

    who: Who
    answers: int
    """Of each user; 0 for none."""
    mia: Sequence[Path]
    """Summaries of attacks, and directories of them; where empty, those of the place."""

    def summaries(self, root: Path) -> list[Path]:
        """The summaries of attacks for a report of `root`."""
        return summaries_in(self.mia) if self.mia else sorted((root / "mia").glob("*.json"))


@dataclass(frozen=True)
class Gathered:
    """A page, and the files that it was made from."""

    page: Page
    files: list[Path]
