"""`perpcs synth`: make a small data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perpcs_cli.cli import flags
from perpcs_cli.cli.command import command
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.rows import show_outcome

COUNT = 24


@command
def synth(
    console: Console,
    write: flags.WriteFlags,
    here: flags.PlaceFlags,
    count: Annotated[int | None, flags.count_option(str(COUNT))] = None,
    history: Annotated[int, typer.Option("--history", help="History items of each user.")] = 16,
    queries: Annotated[int, typer.Option("--queries", help="Queries of each user, with references.")] = 4,
    forms: Annotated[int, typer.Option("--forms", help="Forms of headlines, which groups of users share.")] = 4,
    out: Annotated[Path | None, flags.out_option("users.jsonl of the workspace", "file")] = None,
    seed: flags.SeedOption = None,
) -> None:
    """Make a small synthetic data set with planted habits.

    The task is news_headline. A user has two habits, a form of headline, which the id names, and an ending, and shares
    each with other users. `perpcs eval --habits` tells which answers keep them.
    """
    from perpcs_cli.steps.data.synth import synth as step

    outcome = step(
        here.places,
        count=count or COUNT,
        history=history,
        queries=queries,
        forms=forms,
        seed=seed,
        out=out,
        **write.mode(console),
    )
    show_outcome(console, outcome, [f"{count or COUNT} users", f"{history} history items and {queries} queries each"])
