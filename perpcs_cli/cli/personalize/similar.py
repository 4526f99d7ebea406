"""`perpcs similar --user u42`: the nearest sharers."""

from __future__ import annotations

from perpcs_cli.cli import flags
from perpcs_cli.cli.command import command
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.tables import Column, Table, render


@command
def similar(
    console: Console,
    here: flags.TaskFlags,
    where: flags.SimilarityFlags,
    who: flags.UserFlags,
    similar: flags.AllSimilarOption = None,
) -> None:
    """List the sharers most like a user.

    Lists a pool's sharers by the cosine of their embedding with the user's, best first; for the users of
    splits/target.txt by default. A user is never listed as its own neighbour.
    """
    from perpcs_cli.steps.personalize.similar import similar as step

    found = step(here.open(), who.who(), count=similar, pool=where.pool, embeddings=where.embeddings)
    columns = (Column("user"), Column("rank"), Column("sharer"), Column("similarity", digits=4))
    sections = [
        [(user, rank, one.user_id, one.similarity) for rank, one in enumerate(ranked, start=1)]
        for user, ranked in found.items()
    ]
    plain = {user: [one._asdict() for one in ranked] for user, ranked in found.items()}
    console.result(plain, render(Table(columns, sections), "table"))
