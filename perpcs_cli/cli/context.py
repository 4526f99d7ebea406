"""What every command starts from: the workspace's directory, its settings, and the users that were asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from perpcs_cli.artifacts.provenance import Provenance
from perpcs_cli.artifacts.users import User, choose_users, read_users
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
    def predictions(self) -> Path:
        """One file per predicted model."""
        return self.root / "predictions"

    @property
    def metrics(self) -> Path:
        """Evaluations."""
        return self.root / "metrics"

    def split(self, name: str) -> list[str] | None:
        """The selection `@splits/NAME.txt`, or None where there is no such list."""
        path = self.splits / f"{name}.txt"
        return [f"@{path}"] if path.exists() else None

    def provenance(
        self, command: str, settings: dict[str, Any], inputs: dict[str, str] | None = None, base: str = ""
    ) -> Provenance:
        """The provenance of what `command` writes; `settings` are the ones that change the result."""
        plain = msgspec.to_builtins({"task": self.settings.task, **settings})
        return Provenance(command=command, settings=plain, seed=self.settings.seed, inputs=inputs or {}, base=base)


def open_context(workspace: Path, **flags: Any) -> Context:
    """Open `workspace` with the given flags; a flag that is None was not given, a dict overrides a section.

    Raises UsageError where no task or model is known, or a value is out of range.
    """
    given: dict[str, Any] = {}
    for key, value in flags.items():
        if isinstance(value, Mapping):
            given[key] = {name: inner for name, inner in value.items() if inner is not None}
        elif value is not None:
            given[key] = value
    path = workspace / FILE
    stored = read_settings(path) if path.exists() else {}
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
    settings = make_settings(published, stored, {**given, "task": task}, where=path if stored else None)
    return Context(workspace, settings)


def selected(
    context: Context, users_file: Path | None, user: list[str] | None, users: str | None, default: str | None = None
) -> tuple[dict[str, User], list[User]]:
    """(all users, the ones named by --user and --users), else those of the split `default`, else all.

    Raises DataError for a broken file and UsageError for an unknown user.
    """
    path = users_file or context.users
    everyone = read_users(path)
    wanted = list(user or [])
    if users is not None:
        wanted += [users] if users.startswith("@") else [name.strip() for name in users.split(",") if name.strip()]
    if not wanted and default:
        wanted = context.split(default) or []
    return everyone, choose_users(everyone, wanted, where=path) if wanted else list(everyone.values())
