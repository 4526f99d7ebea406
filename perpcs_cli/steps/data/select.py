"""Which candidates are asked to share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from perpcs_cli.artifacts.embeddings import What
from perpcs_cli.artifacts.io import hashing
from perpcs_cli.artifacts.selection import FILE, Selection, Skipped, Strategy, is_written, write_selection
from perpcs_cli.artifacts.users import User
from perpcs_cli.errors import DataError, UsageError
from perpcs_cli.steps.job import Outcome, Output, run_one
from perpcs_cli.steps.report import SILENT, Report
from perpcs_cli.steps.similar_sharers import embedded_texts
from perpcs_cli.steps.workspace import EVERYONE, Who, Workspace

if TYPE_CHECKING:
    from perpcs_cli.methods.per_pcs.selection import Floats

CLUSTERED: dict[Strategy, What] = {"history-cluster": "history", "profile-cluster": "profile"}


def select(
    workspace: Workspace,
    who: Who = EVERYONE,
    *,
    strategy: Strategy = "history-cluster",
    clusters: int = 50,
    count: int | None = None,
    min_items: int = 11,
    embeddings: Path | None = None,
    out: Path | None = None,
    force: bool = False,
    dry_run: bool = False,
    report: Report = SILENT,
) -> Outcome[Selection]:
    """Select sharers among the candidates, into OUT/sharer.txt and, with the reasons, OUT/selection.json.

    The cluster strategies take the most active user of each of `clusters` clusters of k-means; the others `count`
    users, as many as `clusters` by default. `min_items`: fewest history items of a sharer.
    """
    from perpcs_cli.methods.per_pcs.selection import best_of_clusters, cluster, drawn, most_active

    if count and strategy in CLUSTERED:
        raise UsageError(f"is not for the strategy {strategy}", where="--count", hint="Give --clusters.")
    seed = workspace.settings.seed
    users = {user.user_id: user for user in who.select(workspace, "candidate")}
    items = {user: len(users[user].history) for user in sorted(users) if users[user].history}
    if len(items) < len(users):
        report.note(f"{len(users) - len(items)} users have no history, and cannot share")
    able = {user: number for user, number in items.items() if number >= min_items}
    if not able:
        raise DataError(
            f"none of {len(users)} users has {min_items} history items",
            where=who.path(workspace),
            hint=f"The most active has {max(items.values(), default=0)}. Lower --min-items, or choose other users.",
        )
    wanted = count or clusters
    skipped: list[Skipped] = []
    settings: dict[str, object] = {"strategy": strategy, "min_items": min_items}
    inputs = {"users": hashing.digest_value(items)}
    if strategy in CLUSTERED:
        vectors = _vectors(workspace, embeddings, CLUSTERED[strategy], [users[user] for user in items])
        kmeans_seed = workspace.settings.select.kmeans_seed
        labels = dict(zip(items, cluster(vectors, wanted, seed, kmeans_seed), strict=True))
        chosen, skipped = best_of_clusters(labels, items, min_items)
        settings |= {"clusters": wanted, "kmeans_seed": kmeans_seed}
        inputs["embeddings"] = hashing.digest_bytes(vectors.tobytes())
        if (found := len(chosen) + len(skipped)) < wanted:
            report.note(f"{found} clusters instead of {wanted}: {len(items)} users have {found} different embeddings")
    else:
        chosen = most_active(able, wanted) if strategy == "most-active" else drawn(able, wanted, seed)
        settings["count"] = wanted
        if len(chosen) < wanted:
            report.note(f"{len(chosen)} sharers instead of {wanted}: all users with at least {min_items} items")
    selection = Selection(
        strategy=strategy,
        candidates=len(users),
        chosen=chosen,
        skipped=skipped,
        provenance=workspace.provenance("select", settings, inputs),
    )
    if skipped:
        report.note(f"{len(skipped)} clusters give no sharer: their most active users have under {min_items} items")
    directory = out or workspace.splits

    def make() -> Selection:
        write_selection(directory, selection)
        report.note(f"wrote {directory}: {len(chosen)} sharers of {len(users)} candidates")
        return selection

    output = Output("selection", directory / FILE, lambda: selection if is_written(directory, selection) else None)
    outcome = run_one(output, make, force=force, dry_run=dry_run, report=report)
    # What would be selected is known, whether it is written or not.
    return Outcome(outcome.name, outcome.path, outcome.state, selection)


def _vectors(workspace: Workspace, path: Path | None, what: What, users: list[User]) -> Floats:
    """The users' embeddings, [users, H], float64. Raises DataError where one is missing or of older texts."""
    import numpy as np

    from perpcs_cli.artifacts.embeddings import read_embeddings

    found = read_embeddings(path or workspace.embeddings(what), what)
    for user in users:
        texts = embedded_texts(workspace.task, user, what)
        if not texts:
            raise DataError(
                f"user {user.user_id!r} has no {what}",
                where=workspace.profiles,
                hint=f"Write it with `perpcs profile --user {user.user_id}`, then `perpcs embed --what profile`.",
            )
        found.check_texts(user.user_id, hashing.digest_value(texts))
    return np.stack([found.vector(user.user_id).astype(np.float64) for user in users])
