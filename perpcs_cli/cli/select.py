"""`perpcs select`: which candidates are asked to share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perpcs_cli.artifacts import store
from perpcs_cli.artifacts.embeddings import What
from perpcs_cli.artifacts.selection import Selection, Skipped, Strategy, is_written, write_selection
from perpcs_cli.artifacts.users import User
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.context import Context, open_context
from perpcs_cli.cli.neighbours import embedded_texts
from perpcs_cli.cli.options import (
    DryRunOption,
    ForceOption,
    JsonOption,
    QuietOption,
    SeedOption,
    TaskOption,
    UserFlags,
    WorkspaceOption,
    takes,
)
from perpcs_cli.cli.tables import Column, Table, render
from perpcs_cli.errors import DataError, UsageError

if TYPE_CHECKING:
    from perpcs_cli.methods.selection import Floats

CLUSTERED: dict[Strategy, What] = {"history-cluster": "history", "profile-cluster": "profile"}


@takes(UserFlags)
def select(
    who: UserFlags,
    strategy: Annotated[Strategy, typer.Option("--strategy", help="How sharers are selected.")] = "history-cluster",
    clusters: Annotated[int, typer.Option("--clusters", min=1, metavar="<K>", help="Clusters of k-means.")] = 50,
    count: Annotated[
        int | None,
        typer.Option("--count", min=1, help="Sharers of most-active and random. [default: as many as --clusters]"),
    ] = None,
    min_items: Annotated[int, typer.Option("--min-items", min=1, help="Fewest history items of a sharer.")] = 11,
    embeddings: Annotated[
        Path | None,
        typer.Option("--embeddings", help="User embeddings. [default: those that `perpcs embed` writes]"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Directory. [default: splits of the workspace]")
    ] = None,
    workspace: WorkspaceOption = Path(),
    task: TaskOption = None,
    seed: SeedOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Select the sharers among the candidates.

    The cluster strategies divide the users by k-means on the embeddings of their histories or profiles (`perpcs
    embed`, `perpcs embed --what profile`) and take the most active user of each cluster; a cluster whose most active
    user has too few items gives none. The others take the users with the most history items, or draw them by seed. The
    users are those of splits/candidate.txt by default. Writes sharer.txt, whom `perpcs train-sharer` trains by default,
    and selection.json, with the reasons.
    """
    console = Console(json=json, quiet=quiet)
    if count and strategy in CLUSTERED:
        raise UsageError(f"is not for the strategy {strategy}", where="--count", hint="Give --clusters.")
    context = open_context(workspace, task=task, seed=seed)
    users = {user.user_id: user for user in who.select(context, "candidate")}
    items = {user: len(users[user].history) for user in sorted(users) if users[user].history}
    if len(items) < len(users):
        console.note(f"{len(users) - len(items)} users have no history, and cannot share")
    able = {user: number for user, number in items.items() if number >= min_items}
    if not able:
        raise DataError(
            f"none of {len(users)} users has {min_items} history items",
            where=who.users_file or context.users,
            hint=f"The most active has {max(items.values(), default=0)}. Lower --min-items, or choose other users.",
        )

    from perpcs_cli.methods.selection import best_of_clusters, cluster, drawn, most_active

    wanted = count or clusters
    skipped: list[Skipped] = []
    settings: dict[str, object] = {"strategy": strategy, "min_items": min_items}
    inputs = {"users": store.digest_value(items)}
    if strategy in CLUSTERED:
        vectors = _vectors(context, embeddings, CLUSTERED[strategy], [users[user] for user in items])
        labels = dict(zip(items, cluster(vectors, wanted, context.settings.seed), strict=True))
        chosen, skipped = best_of_clusters(labels, items, min_items)
        settings["clusters"] = wanted
        inputs["embeddings"] = store.digest_bytes(vectors.tobytes())
        if (found := len(chosen) + len(skipped)) < wanted:
            console.note(f"{found} clusters instead of {wanted}: {len(items)} users have {found} different embeddings")
    else:
        chosen = most_active(able, wanted) if strategy == "most-active" else drawn(able, wanted, context.settings.seed)
        settings["count"] = wanted
        if len(chosen) < wanted:
            console.note(f"{len(chosen)} sharers instead of {wanted}: all users with at least {min_items} items")
    selection = Selection(
        strategy=strategy,
        candidates=len(users),
        chosen=chosen,
        skipped=skipped,
        provenance=context.provenance("select", settings, inputs),
    )
    if skipped:
        console.note(f"{len(skipped)} clusters give no sharer: their most active users have under {min_items} items")
    directory = out or context.splits
    if not dry_run:
        if not force and is_written(directory, selection):
            console.note(f"{directory} holds this selection already")
        else:
            write_selection(directory, selection)
            console.note(f"wrote {directory}: {len(chosen)} sharers of {len(users)} candidates")
    rows = [(one.user_id, one.items, one.reason) for one in chosen]
    console.result(selection, render(Table((Column("sharer"), Column("items"), Column("reason")), [rows]), "table"))


def _vectors(context: Context, path: Path | None, what: What, users: list[User]) -> Floats:
    """The users' embeddings, [users, H], float64. Raises DataError where one is missing or of older texts."""
    import numpy as np

    from perpcs_cli.artifacts.embeddings import read_embeddings

    found = read_embeddings(path or context.embeddings_of(what), what)
    for user in users:
        texts = embedded_texts(context.task, user, what)
        if not texts:
            raise DataError(
                f"user {user.user_id!r} has no {what}",
                where=context.profiles,
                hint=f"Write it with `perpcs profile --user {user.user_id}`, then `perpcs embed --what profile`.",
            )
        found.check_texts(user.user_id, store.digest_value(texts))
    return np.stack([found.vector(user.user_id).double().numpy() for user in users])
