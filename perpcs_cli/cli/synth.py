"""`perpcs synth`: make a small data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perpcs_cli.artifacts import store
from perpcs_cli.artifacts.users import write_users
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.context import stored_seed
from perpcs_cli.cli.options import ForceOption, QuietOption, SeedOption, WorkspaceOption


def synth(
    users: Annotated[int, typer.Option("--users", help="How many users.")] = 24,
    history: Annotated[int, typer.Option("--history", help="History items of each user.")] = 16,
    queries: Annotated[int, typer.Option("--queries", help="Queries of each user, with references.")] = 4,
    habits: Annotated[int, typer.Option("--habits", help="Headline habits that groups of users share.")] = 4,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The users file. [default: users.jsonl of the workspace]")
    ] = None,
    workspace: WorkspaceOption = Path(),
    seed: SeedOption = None,
    force: ForceOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make a small synthetic data set with planted habits.

    The task is news_headline. Groups of users share a headline habit; the start of their ids names it.
    """
    from perpcs_cli.tasks.synthetic import make_users

    path = out or workspace / "users.jsonl"
    store.refuse_existing(path, force=force)
    made = make_users(users, history, queries, stored_seed(workspace, seed), habits)
    write_users(path, made)
    Console(quiet=quiet).note(f"wrote {path}: {len(made)} users, {history} history items and {queries} queries each")
