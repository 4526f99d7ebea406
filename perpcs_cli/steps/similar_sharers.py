"""Looking for similar sharers: a pool, the embeddings of its sharers and of target users, the texts behind them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from perpcs_cli.artifacts.embeddings import What
from perpcs_cli.artifacts.io import hashing
from perpcs_cli.artifacts.pool import OpenPool, open_pool
from perpcs_cli.artifacts.pools.pseudonyms import own_names
from perpcs_cli.artifacts.pools.secret import existing_secret
from perpcs_cli.artifacts.users import User
from perpcs_cli.errors import DataError
from perpcs_cli.steps.workspace import Workspace
from perpcs_cli.tasks.prompts import history_line
from perpcs_cli.tasks.spec import Task

if TYPE_CHECKING:
    from perpcs_cli.artifacts.embeddings import Embeddings
    from perpcs_cli.methods.per_pcs.similarity import Neighbour, Neighbourhood


@dataclass(frozen=True)
class SimilarSharers:
    """A pool and the embeddings of its sharers and of target users.

    `theirs` are the sharers', under the ids that the pool has for them; `secret` tells which pseudonym is whose.
    """

    task: Task
    pool: OpenPool
    embeddings: Embeddings
    theirs: Embeddings
    secret: bytes | None = None

    @cached_property
    def _sharers(self) -> Neighbourhood:
        from perpcs_cli.methods.per_pcs.similarity import Neighbourhood

        return Neighbourhood(self.theirs, self.pool.ids)

    def nearest(self, user: User, count: int | None = None) -> list[Neighbour]:
        """The `count` most similar sharers, or all, best first. The user is never among them, under whatever name.

        Raises DataError where an embedding is missing or the user's history has changed since, UsageError where the
        pool has fewer sharers.
        """
        self.embeddings.check_texts(user.user_id, hashing.digest_value(embedded_texts(self.task, user)))
        own = own_names(self.pool, self.secret, user.user_id)
        return self._sharers.nearest(user.user_id, self.embeddings.vector(user.user_id), own, count)


def open_similar(workspace: Workspace, pool: Path | None = None, embeddings: Path | None = None) -> SimilarSharers:
    """Open a pool and the users' embeddings. Raises DataError where one is missing or broken."""
    opened = open_pool(pool or workspace.pool)

    from perpcs_cli.artifacts.embeddings import read_embeddings

    own = read_embeddings(embeddings or workspace.embeddings())
    theirs = check_comparable(opened.embeddings(), own) if opened.manifest.pseudonyms else own
    return SimilarSharers(workspace.task, opened, own, theirs, existing_secret(workspace.root))


def check_comparable(theirs: Embeddings, own: Embeddings) -> Embeddings:
    """Return the pool's embeddings. Raises DataError where another encoder made them than the users'."""
    origins = [one.card.provenance for one in (theirs, own)]
    made = [(origin.inputs.get("encoder"), origin.settings.get("max_length")) for origin in origins]
    if made[0] != made[1]:
        raise DataError(
            "the pool's embeddings were made by another encoder than the users', or with another length",
            where=theirs.path,
            hint=f"The pool's encoder is {theirs.card.encoder!r}: use it with `perpcs embed --encoder … --force`.",
        )
    return theirs


def embedded_texts(task: Task, user: User, what: What = "history") -> list[str]:
    """What is embedded of a user: each history item as retrieval shows it, or the profile. Empty without one."""
    if what == "profile":
        return [user.profile] if user.profile else []
    try:
        return [history_line(task, item).strip() for item in user.history]
    except DataError as error:
        raise DataError(error.what, where=f"user {user.user_id}", hint=error.hint) from None
