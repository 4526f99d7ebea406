"""`perpcs similar --user u42`: the nearest sharers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perpcs_cli.cli.console import Console
from perpcs_cli.cli.context import open_context
from perpcs_cli.cli.neighbours import SimilarityFlags
from perpcs_cli.cli.options import JsonOption, TaskOption, UserFlags, WorkspaceOption, takes
from perpcs_cli.cli.tables import Column, Table, render


@takes(SimilarityFlags, UserFlags)
def similar(
    where: SimilarityFlags,
    who: UserFlags,
    top_k: Annotated[int | None, typer.Option("--top-k", min=1, help="Sharers per user. [default: all]")] = None,
    workspace: WorkspaceOption = Path(),
    task: TaskOption = None,
    json: JsonOption = False,
) -> None:
    """List the sharers most like a user.

    Lists a pool's sharers by the cosine of their embedding with the user's, best first; for the users of
    splits/target.txt by default. A user is never listed as its own neighbour.
    """
    context = open_context(workspace, task=task)
    users = who.select(context, "target")
    near = where.open(context)
    found = {user.user_id: near.nearest(user, top_k or max(1, len(near.others(user)))) for user in users}
    columns = (Column("user"), Column("rank"), Column("sharer"), Column("similarity", digits=4))
    sections = [
        [(user, rank, one.user_id, one.similarity) for rank, one in enumerate(ranked, start=1)]
        for user, ranked in found.items()
    ]
    plain = {user: [one._asdict() for one in ranked] for user, ranked in found.items()}
    Console(json=json).result(plain, render(Table(columns, sections), "table"))
