"""What every step starts from: the workspace's directory, its settings, and the users that were asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from perpcs_cli.artifacts.embeddings import What
from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.packed_recipes import place_of, places_in
from perpcs_cli.artifacts.profiles import with_profiles
from perpcs_cli.artifacts.settings import FILE, Settings, declared, make_settings, read_settings
from perpcs_cli.artifacts.split import read_list
from perpcs_cli.artifacts.users import User, UserFile, read_chosen, read_users
from perpcs_cli.errors import UsageError
from perpcs_cli.steps.shards import Shard
from perpcs_cli.tasks.published_settings import published_settings
from perpcs_cli.tasks.spec import OWN, Task, get_task

T = TypeVar("T")
TOGETHER = 1000
"""Users whose profiles are looked up at a time."""


@dataclass(frozen=True)
class Places:
    """The default places of a workspace's files, below its directory `root`. They need no settings."""

    root: Path

    @property
    def settings_file(self) -> Path:
        """What it is set to."""
        return self.root / FILE

    @property
    def users(self) -> Path:
        """All users."""
        return self.root / "users.jsonl"

    @property
    def splits(self) -> Path:
        """Id lists of base, target and candidate users, and of sharers."""
        return self.root / "splits"

    @property
    def task_adapter(self) -> Path:
        """The task adapter."""
        return self.root / "task-adapter"

    @property
    def sharers(self) -> Path:
        """One directory per sharer."""
        return self.root / "sharers"

    @property
    def pool(self) -> Path:
        """The pool manifest."""
        return self.root / "pool.json"

    @property
    def recipes(self) -> Path:
        """One recipe per target user: a directory, or a packed file where there is one and no directory."""
        return place_of(self.root / "recipes")

    def recipes_of(self, method: str) -> Path:
        """The recipes of another method than Per-PCs."""
        return place_of(self.root / f"recipes-{method}")

    @property
    def recipe_places(self) -> list[Path]:
        """All directories and packed files of recipes, those of stopped runs included."""
        return places_in(self.root)

    def embeddings(self, what: What = "history") -> Path:
        """The embeddings of the users' histories or profiles."""
        return self.root / {"history": "embeddings.safetensors", "profile": "profile-embeddings.safetensors"}[what]

    @property
    def profiles(self) -> Path:
        """The users' textual profiles."""
        return self.root / "profiles.jsonl"

    @property
    def traces(self) -> Path:
        """One trace per PriME search."""
        return self.root / "traces"

    @property
    def predictions(self) -> Path:
        """One file per predicted model."""
        return self.root / "predictions"

    @property
    def mia(self) -> Path:
        """What membership attacks found out."""
        return self.root / "mia"

    def split(self, name: str) -> list[str] | None:
        """The ids of `splits/NAME.txt`, or None where there is no such list. Raises DataError where it is stale."""
        return read_list(self.splits, name)

    def seed(self, given: int | None) -> int:
        """The seed for steps that need neither task nor model: as given, else by `perpcs.toml`, else 0."""
        if given is None and self.settings_file.exists():
            return open_workspace(self.root).settings.seed
        return given or 0


@dataclass(frozen=True)
class Workspace(Places):
    """An opened workspace: its places, and its settings by precedence (given, perpcs.toml, published)."""

    settings: Settings

    @cached_property
    def task(self) -> Task:
        """The task that the settings name, with the white space that they want."""
        return msgspec.structs.replace(get_task(self.settings.task), white_space=self.settings.white_space)

    def provenance(
        self, command: str, settings: dict[str, Any], inputs: dict[str, str] | None = None, base: str = ""
    ) -> Provenance:
        """The provenance of what `command` writes; `settings` are the ones that change the result."""
        # Through JSON, so that it equals what will be read back: to_builtins leaves tuples as they are.
        plain = msgspec.json.decode(msgspec.json.encode({**self.task.identity, **settings}))
        return Provenance(command=command, settings=plain, seed=self.settings.seed, inputs=inputs or {}, base=base)


def open_workspace(root: Path, **given: Any) -> Workspace:
    """Open the workspace in `root` with settings over those that it has.

    `given`: settings of the top by name, and of a section as a dict; one that is None was not given. Raises UsageError
    where no task or model is known, or a value is out of range.
    """
    given = {key: value for key, value in given.items() if value is not None}
    path = root / FILE
    stored = read_settings(path) if path.exists() else {}
    for key in ("task", "model", "task_adapter", "paper", "preset"):
        if not isinstance(stored.get(key, ""), str):
            raise UsageError(f"settings: {key} must be text, and is {stored[key]!r}", where=path)
    if given.get("task_adapter") == "none":
        given["task_adapter"] = ""
    elif stored.get("task_adapter") and "task_adapter" not in given:
        stored["task_adapter"] = str(root / stored["task_adapter"])
    for key in ("task", "model"):
        if not {**stored, **given}.get(key):
            raise UsageError(
                f"no {key} is known",
                where=path,
                hint=f"Give --{key}, or make a workspace with `perpcs init`.",
            )
    if "task" in stored:
        stored["task"] = stored_task(root, stored)
    task = get_task({**stored, **given}["task"])
    start = {key: {**stored, **given}[key] for key in ("paper", "preset") if {**stored, **given}.get(key)}
    published = published_settings({**stored, **given}["task"], **start)
    if "task" in given and "task" in stored and get_task(stored["task"]).identity != task.identity:
        # Another task than the workspace's: its published settings, not the stored ones.
        stored = {key: value for key, value in stored.items() if not isinstance(value, dict)}
    make_settings(published, {"model": ""}, stored, where=path)
    try:
        settings = make_settings(published, stored, {**given, "task": published["task"]})
    except UsageError as error:
        # The file is in order, so a flag or its variable in the environment is not.
        raise UsageError(error.what, where=", ".join(_flags(given, error.what)), hint=error.hint) from None
    return Workspace(root, settings)


def stored_task(root: Path, stored: Mapping[str, Any]) -> str:
    """The task that the content of a `perpcs.toml` names: the file of an own one stands in the workspace `root`."""
    name = str(stored.get("task", ""))
    return str(root / name) if name.endswith(OWN) else name


def _flags(given: Mapping[str, Any], message: str) -> list[str]:
    """The given settings that a message names, as flags."""
    paths = [
        path
        for key, value in given.items()
        for path in ([f"{key}.{name}" for name in value] if isinstance(value, Mapping) else [key])
    ]
    named = [path for path in paths if re.search(rf"\b{path.rpartition('.')[2]}\b", message)]
    return [f"--{declared()[path].flag}" for path in named if path in declared()]


@dataclass(frozen=True)
class Who:
    """Which users a step works on: those of `ids`, else those of the first list in splits/ that the step asks for."""

    ids: Sequence[str] = ()
    file: Path | None = None
    """Instead of the workspace's users.jsonl."""
    shard: Shard | None = None
    """The part of them that this job makes; None for all."""

    def everyone(self, workspace: Workspace) -> dict[str, User]:
        """All users by id, with their profiles where profiles.jsonl has any. Raises DataError for a broken file."""
        return with_profiles(read_users(self.path(workspace)), workspace.profiles)

    def select(self, workspace: Workspace, *lists: str) -> list[User]:
        """The users asked for, else those of the first of `lists` that exists, else all. Raises UsageError for an
        unknown one. Of a file, nobody else is held."""
        wanted = self._wanted(workspace, lists)
        if not wanted:
            return list(self.everyone(workspace).values())
        chosen = {user.user_id: user for user in read_chosen(self.path(workspace), wanted)}
        return list(with_profiles(chosen, workspace.profiles).values())

    def each(self, workspace: Workspace, users: UserFile, *lists: str) -> Iterator[User]:
        """The same of the file `users`, one at a time."""
        wanted = self._wanted(workspace, lists)
        left = users.chosen(wanted) if wanted else iter(users)
        while some := {user.user_id: user for user in islice(left, TOGETHER)}:
            yield from with_profiles(some, workspace.profiles).values()

    def _wanted(self, workspace: Workspace, lists: Sequence[str]) -> Sequence[str]:
        return self.ids or next(filter(None, map(workspace.split, lists)), [])

    def mine(self, users: Sequence[T], unit: int = 1) -> list[T]:
        """Those of all `users` asked for that this job's shard makes, in whole groups of `unit`."""
        return self.shard.part(users, unit) if self.shard else list(users)

    def path(self, places: Places) -> Path:
        """Where the users are."""
        return self.file or places.users


EVERYONE = Who()
"""As a step does by default."""
