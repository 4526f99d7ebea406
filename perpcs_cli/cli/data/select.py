"""`perpcs select`: which candidates are asked to share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perpcs_cli.artifacts.selection import Strategy
from perpcs_cli.cli import flags, setting_flags
from perpcs_cli.cli.command import command
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.tables import Column, Table, render


@command
def select(
    console: Console,
    write: flags.WriteFlags,
    here: flags.TaskFlags,
    who: flags.UserFlags,
    how: setting_flags.SelectFlags,
    strategy: Annotated[Strategy, typer.Option("--strategy", help="How sharers are selected.")] = "history-cluster",
    clusters: Annotated[int, typer.Option("--clusters", min=1, metavar="<K>", help="Clusters of k-means.")] = 50,
    count: Annotated[int | None, flags.count_option("as many as --clusters")] = None,
    min_items: Annotated[int, typer.Option("--min-items", min=1, help="Fewest history items of a sharer.")] = 11,
    embeddings: flags.EmbeddingsOption = None,
    out: Annotated[Path | None, flags.out_option("splits of the workspace", "directory")] = None,
    seed: flags.SeedOption = None,
) -> None:
    """Select the sharers among the candidates.

    The cluster strategies divide the users by k-means on the embeddings of their histories or profiles (`perpcs
    embed`, `perpcs embed --what profile`) and take the most active user of each cluster; a cluster whose most active
    user has too few items gives none. The others take --count users (by default as many as --clusters) with the most
    history items, or draw them by seed. The users are those of splits/candidate.txt by default. Writes sharer.txt,
    whom `perpcs train-sharer` trains by default, and selection.json, with the reasons.
    """
    from perpcs_cli.steps.data.select import select as step

    outcome = step(
        here.open(how, seed=seed),
        who.who(),
        strategy=strategy,
        clusters=clusters,
        count=count,
        min_items=min_items,
        embeddings=embeddings,
        out=out,
        **write.mode(console),
    )
    if outcome.state == "to do":
        console.note(f"{outcome.path}: to do")
    chosen = outcome.value.chosen if outcome.value else []
    rows = [(one.user_id, one.items, one.reason) for one in chosen]
    table = render(Table((Column("sharer"), Column("items"), Column("reason")), [rows]), "table")
    console.result(outcome.value, table)
