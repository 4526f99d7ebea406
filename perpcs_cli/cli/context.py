"""What every command starts from: the workspace's directory, its settings, and the users that were asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from perpcs_cli.artifacts.embeddings import What
from perpcs_cli.artifacts.profiles import with_profiles
from perpcs_cli.artifacts.provenance import Provenance
from perpcs_cli.artifacts.users import User, choose_users, read_ids, read_users
from perpcs_cli.artifacts.workspace import FILE, Settings, make_settings, read_settings
from perpcs_cli.errors import UsageError
from perpcs_cli.tasks.presets import published_settings
from perpcs_cli.tasks.spec import Task, get_task


@dataclass(frozen=True)
class Context:
    """An opened workspace: settings by precedence (flag, environment, perpcs.toml, published) and default paths."""

    root: Path
    settings: Settings

    @property
    def task(self) -> Task:
        """The task that the settings name."""
        return get_task(self.settings.task)

    @property
    def users(self) -> Path:
        """All users."""
        return self.root / "users.jsonl"

    @property
    def splits(self) -> Path:
        """Id lists of base, target and candidate users."""
        return self.root / "splits"

    @property
    def task_adapter(self) -> Path:
        """The task adapter's default place."""
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
        """One recipe per target user."""
        return self.root / "recipes"

    @property
    def embeddings(self) -> Path:
        """The embeddings of the users' histories."""
        return self.embeddings_of("history")

    def embeddings_of(self, what: What) -> Path:
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
    def metrics(self) -> Path:
        """Evaluations."""
        return self.root / "metrics"

    @property
    def mia(self) -> Path:
        """What membership attacks found out."""
        return self.root / "mia"

    def split(self, name: str) -> list[str] | None:
        """The selection `@splits/NAME.txt`, or None where there is no such list."""
        path = self.splits / f"{name}.txt"
        return [f"@{path}"] if path.exists() else None

    def provenance(
        self, command: str, settings: dict[str, Any], inputs: dict[str, str] | None = None, base: str = ""
    ) -> Provenance:
        """The provenance of what `command` writes; `settings` are the ones that change the result."""
        # Through JSON, so that it equals what will be read back: to_builtins leaves tuples as they are.
        plain = msgspec.json.decode(msgspec.json.encode({"task": self.settings.task, **settings}))
        return Provenance(command=command, settings=plain, seed=self.settings.seed, inputs=inputs or {}, base=base)


def open_context(workspace: Path, **flags: Any) -> Context:
    """Open `workspace` with the given flags; a flag that is None was not given, a dict overrides keys of a section.

    Raises UsageError where no task or model is known, or a value is out of range.
    """
    given = {key: value for key, value in flags.items() if value is not None}
    path = workspace / FILE
    stored = read_settings(path) if path.exists() else {}
    for key in ("task", "model", "task_adapter"):
        if not isinstance(stored.get(key, ""), str):
            raise UsageError(f"settings: {key} must be text, and is {stored[key]!r}", where=path)
    if given.get("task_adapter") == "none":
        given["task_adapter"] = ""
    elif stored.get("task_adapter") and "task_adapter" not in given:
        stored["task_adapter"] = str(workspace / stored["task_adapter"])
    for key in ("task", "model"):
        if not {**stored, **given}.get(key):
            raise UsageError(
                f"no {key} is known",
                where=path,
                hint=f"Give --{key}, or make a workspace with `perpcs init`.",
            )
    task = get_task({**stored, **given}["task"]).name
    published = published_settings(task, given.get("preset") or stored.get("preset") or "per-pcs")
    if "task" in given and "task" in stored and get_task(stored["task"]).name != task:
        # Another task than the workspace's: its published settings, not the stored ones.
        stored = {key: value for key, value in stored.items() if not isinstance(value, dict)}
    make_settings(published, {"model": ""}, stored, where=path)
    try:
        settings = make_settings(published, stored, {**given, "task": task})
    except UsageError as error:
        # The file is in order, so a flag or its variable in the environment is not.
        raise UsageError(error.what, where=", ".join(_flags(given, error.what)), hint=error.hint) from None
    return Context(workspace, settings)


def _flags(given: Mapping[str, Any], message: str) -> list[str]:
    """The given flags that a message about settings names."""
    sections = [value if isinstance(value, Mapping) else {key: value} for key, value in given.items()]
    names = [name for section in sections for name in section if re.search(rf"\b{name}\b", message)]
    return ["--" + name.replace("_", "-") for name in names]


def stored_seed(workspace: Path, seed: int | None) -> int:
    """The seed by precedence, for commands that need neither task nor model: flag or environment, perpcs.toml, 0."""
    if seed is None and (workspace / FILE).exists():
        return open_context(workspace).settings.seed
    return seed or 0


def named_users(user: list[str] | None, users: str | None) -> list[str]:
    """What --user and --users name together, `@FILE` as it is.

    Raises UsageError where --users was given and names nobody.
    """
    if users is None or users.startswith("@"):
        return [*(user or []), *([users] if users else [])]
    return [*(user or []), *_separated(users, "--users")]


def listed_ids(ids: str, flag: str) -> list[str]:
    """The ids that a flag lists: separated by commas, or @FILE with one id a line. Raises UsageError for none."""
    return read_ids(Path(ids[1:])) if ids.startswith("@") else _separated(ids, flag)


def _separated(ids: str, flag: str) -> list[str]:
    names = [name.strip() for name in ids.split(",") if name.strip()]
    if not names:
        raise UsageError("names no user", where=flag, hint="Give ids separated by commas, or @FILE.")
    return names


def selected(
    context: Context, users_file: Path | None, user: list[str] | None, users: str | None, *defaults: str
) -> tuple[dict[str, User], list[User]]:
    """(all users, the ones named by --user and --users), else those of the first of the lists `defaults`, else all.

    Users have the profiles of profiles.jsonl where it has them. Raises DataError for a broken file and UsageError for
    an unknown user.
    """
    path = users_file or context.users
    everyone = with_profiles(read_users(path), context.profiles)
    wanted = named_users(user, users)
    if not wanted:
        wanted = next(filter(None, map(context.split, defaults)), [])
    return everyone, choose_users(everyone, wanted, where=path) if wanted else list(everyone.values())
