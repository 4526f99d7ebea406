"""`perpcs synth`: make a small data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perpcs_cli.artifacts import store
from perpcs_cli.artifacts.users import write_users
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.options import ForceOption, QuietOption, SeedOption


def synth(
    users: Annotated[int, typer.Option("--users", help="How many users.")] = 24,
    history: Annotated[int, typer.Option("--history", help="History items of each user.")] = 16,
    queries: Annotated[int, typer.Option("--queries", help="Queries of each user, with references.")] = 4,
    habits: Annotated[int, typer.Option("--habits", help="Headline habits that groups of users share.")] = 4,
    seed: SeedOption = None,
    out: Annotated[Path, typer.Option("--out", help="The users file to write.")] = Path("users.jsonl"),
    force: ForceOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make a small synthetic data set with planted habits.

    The task is news_headline. Groups of users share a headline habit; the start of their ids names it.
    """
    from perpcs_cli.tasks.synthetic import make_users

    store.refuse_existing(out, force=force)
    made = make_users(users, history, queries, seed or 0, habits)
    write_users(out, made)
    Console(quiet=quiet).note(f"wrote {out}: {len(made)} users, {history} history items and {queries} queries each")
