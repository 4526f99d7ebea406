"""What the target users are asked: read anew each time, so that few of them are in memory at a time."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import replace

from perpcs_cli.artifacts.users import User, UserFile
from perpcs_cli.errors import DataError
from perpcs_cli.steps.workspace import Who, Workspace
from perpcs_cli.tasks.examples import query_prompts
from perpcs_cli.tasks.prompts import Prompt, Shown, digest

BLOCK = 4096
"""Queries that are in memory at a time."""


class Queries:
    """The queries of the target users `who`, whose prompts show what `shown` says.

    The prompts must stay what they were when they were made first. The first ones are kept: few are not made twice.
    """

    def __init__(self, workspace: Workspace, who: Who, shown: Shown) -> None:
        self.workspace = workspace
        self.who = who
        self.shown = shown
        self.users = UserFile(who.path(workspace))
        self._digests: dict[str, str] = {}
        self._first: dict[str, list[Prompt]] = {}
        self._room = BLOCK

    def ids(self) -> dict[str, list[str]]:
        """The ids of each user's queries, of those who have any."""
        return {user.user_id: [query.id for query in user.queries] for user in self._each()}

    def prompts(self, wanted: Container[str] | None = None) -> Iterator[tuple[str, list[Prompt]]]:
        """(user, prompts) of those of `wanted`, or of all, one user at a time. Raises DataError where they are others
        than the first time."""
        for user in self._each():
            if wanted is None or user.user_id in wanted:
                yield user.user_id, self._first.get(user.user_id) or self._prompts(user)

    def _each(self) -> Iterator[User]:
        return (user for user in self.who.each(self.workspace, self.users, "target") if user.queries)

    def _prompts(self, user: User) -> list[Prompt]:
        made = query_prompts(self.workspace.task, user, self.shown, seed=self.workspace.settings.seed)
        # A known answer must not shape its own prompt: neither how much is cut nor the tokens where they meet.
        prompts = [replace(prompt, answer=None) for prompt in made]
        found = digest(prompts)[:16]
        if self._digests.setdefault(user.user_id, found) != found:
            what = f"what user {user.user_id!r} is asked has changed while this command ran"
            raise DataError(what, where=self.users.path, hint="Run it again.")
        if len(prompts) <= self._room:
            self._room -= len(prompts)
            self._first[user.user_id] = prompts
        return prompts
