"""The nearest sharers of a user."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from perpcs_cli.steps.similar_sharers import open_similar
from perpcs_cli.steps.workspace import EVERYONE, Who, Workspace

if TYPE_CHECKING:
    from perpcs_cli.methods.per_pcs.similarity import Neighbour


def similar(
    workspace: Workspace,
    who: Who = EVERYONE,
    *,
    count: int | None = None,
    pool: Path | None = None,
    embeddings: Path | None = None,
) -> dict[str, list[Neighbour]]:
    """{target user: the pool's sharers by the cosine of their embeddings, best first}; `count` of them, or all."""
    users = who.select(workspace, "target")
    near = open_similar(workspace, pool, embeddings)
    return {user.user_id: near.nearest(user, count) for user in users}
