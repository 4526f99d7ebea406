"""`perpcs report`: one page of a workspace or a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perpcs_cli.cli import flags
from perpcs_cli.cli.command import command
from perpcs_cli.cli.console import Console


@command
def report(
    console: Console,
    write: flags.WriteFlags,
    who: flags.UserFlags,
    place: Annotated[
        Path,
        typer.Argument(
            metavar="WORKSPACE|SWEEP",
            envvar="PERPCS_WORKSPACE",
            help="Directory of a workspace, or of a sweep's results.",
        ),
    ] = Path(),
    answers: Annotated[int | None, flags.answers_option("5")] = None,
    mia: flags.SummariesOption = None,
    out: Annotated[Path | None, flags.out_option("report.html there", "file")] = None,
) -> None:
    """Write one page of all that was found.

    The page is a single HTML file that needs no network and no scripts. It shows what was compared, the metrics with
    intervals and p-values, each user's gain, answers beside the reference, utility against leakage, ROC curves,
    searches, recipes, storage and time, and where everything comes from; of what is not there it names the command that
    makes it. Answers are users' own words: --answers 0 leaves them out, and --user and --users choose whose are shown.
    Nothing is run.
    """
    from perpcs_cli.experiments.report.write import ANSWERS, write_report

    shown = ANSWERS if answers is None else answers
    outcome = write_report(place, who.who(), answers=shown, mia=mia or (), out=out, **write.mode(console))
    text = f"{outcome.path}\t{outcome.state}" + (f"\t{outcome.path.stat().st_size} bytes" if outcome.value else "")
    console.result({"path": str(outcome.path), "state": outcome.state}, text)
