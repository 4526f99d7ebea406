"""Flags made from the declarations of the settings: name, type, range, help, variable and default come from there."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from perpcs_cli.artifacts.declarations import Declared
from perpcs_cli.artifacts.settings import declared
from perpcs_cli.errors import PerpcsError, UsageError

BY_TASK = "by the task"
"""Shown where neither the declaration nor a workspace tells the default."""


def setting(path: str) -> Any:
    """The flag of one setting: `perpcs.toml`'s key, as `seed` or `train.lr`."""
    one = declared()[path]
    name = f"--{one.flag}"
    switch = f"{name}/--no-{one.flag}" if one.kind is bool else name
    ranged = one.kind is int and one.limits
    least = max((meta.ge for meta in one.limits if meta.ge is not None), default=None) if ranged else None
    return typer.Option(
        switch,
        envvar=one.variable,
        show_envvar=not one.section,
        help=one.help,
        min=least,
        metavar="<numbers>" if _is_numbers(one) else None,
        show_default=default_in_words(one, one.default),
    )


def _is_numbers(one: Declared) -> bool:
    return getattr(one.kind, "__origin__", None) is tuple


def default_in_words(one: Declared, value: Any) -> str:
    """A setting's value as help shows it."""
    if value is None:
        return {"prime.popsize": "4 + 3 ln n", "prime.recent": "all"}.get(one.path, "not set")
    if not isinstance(value, str | int | float | bool | tuple | list):
        return "of the workspace" if one.path in ("task", "model") else BY_TASK
    if isinstance(value, bool):
        return f"{'' if value else 'no-'}{one.flag}"
    if isinstance(value, tuple | list):
        return ",".join(end if isinstance(end, str) else f"{end:g}" for end in value)
    return f"{value:g}" if isinstance(value, float) else str(value) or "none"


class Section:
    """The flags over one section of `perpcs.toml`, all made from its declarations. `given`: those that were given."""

    name: ClassVar[str]
    only: ClassVar[tuple[str, ...]]
    """The keys that have flags here; empty for all."""

    def __init_subclass__(cls, name: str, only: tuple[str, ...] = ()) -> None:
        cls.name, cls.only = name, only

    def __init__(self, **values: Any) -> None:
        self.given = {}
        for key, value in values.items():
            if value is not None:
                one = declared()[f"{self.name}.{key}"]
                self.given[key] = numbers(value, one) if _is_numbers(one) else value
        if self.given.get("epochs") and not self.given.get("steps"):
            # Epochs that are given win over steps that are stored.
            self.given = {"steps": None, **self.given}

    @classmethod
    def parameters(cls) -> list[inspect.Parameter]:
        """One for each setting of the section that has a flag."""
        found = []
        for one in declared().values():
            if one.section == cls.name and one.flag and (not cls.only or one.key in cls.only):
                kind = str if _is_numbers(one) else one.kind
                hint: Any = Annotated[kind | None, setting(one.path)]
                found.append(inspect.Parameter(one.key, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint))
        return found


def numbers(text: str, one: Declared) -> list[float]:
    """`0,0.2,1` → [0, 0.2, 1]; of a range `B` → [-B, B]. Raises UsageError for what is no number."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"not numbers separated by commas: {text!r}", where=f"--{one.flag}") from None
    return [-values[0], values[0]] if one.path == "prime.bounds" and len(values) == 1 else values


def workspace_defaults(arguments: list[str], environment: Mapping[str, str]) -> dict[str, str]:
    """{path: value in words} of every setting as the workspace of a command line has it; empty without a workspace."""
    place = environment.get("PERPCS_WORKSPACE", "")
    for at, word in enumerate(arguments):
        if word in ("-w", "--workspace") and at + 1 < len(arguments):
            place = arguments[at + 1]
        elif word.startswith("--workspace="):
            place = word.partition("=")[2]
    from perpcs_cli.steps.workspace import Places, open_workspace

    root = Path(place)
    if not Places(root).settings_file.exists():
        return {}
    try:
        settings = open_workspace(root).settings
    except PerpcsError:
        # Help is shown all the same; the command itself will say what is wrong.
        return {}
    found = {}
    for path, one in declared().items():
        table = getattr(settings, one.section) if one.section else settings
        found[path] = default_in_words(one, getattr(table, one.key))
    return found
