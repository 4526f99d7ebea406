"""What the commands share that look for similar sharers: pool, embeddings, and the texts that are embedded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perpcs_cli.artifacts import store
from perpcs_cli.artifacts.pool import OpenPool, open_pool
from perpcs_cli.artifacts.users import User
from perpcs_cli.cli.context import Context
from perpcs_cli.cli.pool import PoolOption
from perpcs_cli.errors import DataError
from perpcs_cli.tasks.prompts import history_line
from perpcs_cli.tasks.spec import Task

if TYPE_CHECKING:
    from perpcs_cli.artifacts.embeddings import Embeddings
    from perpcs_cli.methods.similarity import Neighbour


@dataclass(frozen=True)
class SimilarityFlags:
    """Where similar sharers are looked for."""

    pool: PoolOption = None
    embeddings: Annotated[
        Path | None,
        typer.Option("--embeddings", help="User embeddings. [default: embeddings.safetensors of the workspace]"),
    ] = None

    def open(self, context: Context) -> Neighbourhood:
        """Open both. Raises DataError where one is missing or broken."""
        pool = open_pool(self.pool or context.pool)

        from perpcs_cli.artifacts.embeddings import read_embeddings

        return Neighbourhood(context.task, pool, read_embeddings(self.embeddings or context.embeddings))


@dataclass(frozen=True)
class Neighbourhood:
    """A pool and the embeddings of its sharers and of target users."""

    task: Task
    pool: OpenPool
    embeddings: Embeddings

    def nearest(self, user: User, count: int) -> list[Neighbour]:
        """The `count` most similar sharers, best first.

        Raises DataError where an embedding is missing or the user's history has changed since, UsageError where the
        pool has fewer sharers.
        """
        from perpcs_cli.methods.similarity import nearest

        self.embeddings.check_history(user.user_id, store.digest_value(embedded_texts(self.task, user)))
        return nearest(self.embeddings, user.user_id, self.pool.ids, count)


def embedded_texts(task: Task, user: User) -> list[str]:
    """What is embedded of a user: each history item as retrieval shows it."""
    try:
        return [history_line(task, item).strip() for item in user.history]
    except DataError as error:
        raise DataError(error.what, where=f"user {user.user_id}", hint=error.hint) from None
