"""`words.json`: all commands with their flags and values, made from the commands themselves by `make completions`."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

BY_FLAG = {
    "--user": "user",
    "--users": "users",
    "--base-users": "users",
    "--sharer": "sharer",
    "--recipes": "recipes",
    "--own": "own",
    "--experiment": "experiment",
    "--workspace": "directory",
}
"""What a flag's value is, where its type does not say."""
BY_ARGUMENT: dict[tuple[str, ...], str] = {
    ("adopt",): "directory",
    ("report",): "file",
    ("pool", "revoke"): "sharer",
    ("model", "fetch"): "model",
    ("task", "show"): "task",
    ("task", "check"): "file",
}
"""The same of commands' arguments."""


def command_words() -> str:
    """The content of `words.json`."""
    import typer

    from perpcs_cli.cli.main import app

    table: dict[str, Any] = {}
    _add(table, typer.main.get_command(app), ())
    return json.dumps(table, indent=1, ensure_ascii=False) + "\n"


def _add(table: dict[str, Any], command: Any, path: tuple[str, ...]) -> None:
    context = command.context_class(command, info_name="perpcs")
    inner = {}
    if hasattr(command, "list_commands"):
        inner = {name: command.get_command(context, name) for name in command.list_commands(context)}
    flags, arguments = {}, []
    for parameter in command.get_params(context):
        many = bool(parameter.multiple or parameter.nargs == -1)
        if parameter.param_type_name == "argument":
            arguments.append({"value": _argument(parameter, path), "many": many})
            continue
        for name in [*parameter.opts, *parameter.secondary_opts]:
            flags[name] = {"help": _first(parameter.help), "value": _value(parameter, name), "many": many}
    table[" ".join(path)] = {
        "commands": {name: _first(one.help or one.short_help) for name, one in inner.items()},
        "flags": flags,
        "arguments": arguments,
    }
    for name, one in inner.items():
        _add(table, one, (*path, name))


def _argument(parameter: Any, path: tuple[str, ...]) -> Any:
    kind = BY_ARGUMENT.get(path)
    return _offered(f"--{kind}") or kind or _typed(parameter) or "text"


def _value(parameter: Any, name: str) -> Any:
    """What the flag takes: a list of values, a kind, `text` for anything else; nothing for a switch."""
    if parameter.is_flag or parameter.name == "help":
        return ""
    return BY_FLAG.get(name) or _offered(name) or _typed(parameter) or "text"


def _offered(name: str) -> list[str]:
    from perpcs_cli.model.loading.catalogue import CATALOGUE
    from perpcs_cli.tasks.spec import shipped_tasks

    if name == "--task":
        return list(shipped_tasks())
    return list(CATALOGUE) if name == "--model" else []


def _typed(parameter: Any) -> Any:
    """By the type: the values of a choice, a file, a directory; None for anything else."""
    kind = parameter.type_descriptor.annotation
    if get_origin(kind) is list:
        (kind,) = get_args(kind)
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return [one.value for one in kind]
    if isinstance(kind, type) and issubclass(kind, Path):
        info = parameter.type_descriptor.parameter_info
        return "directory" if not info.file_okay or (parameter.help or "").startswith("Directory") else "file"
    return None


def _first(text: str | None) -> str:
    """The first sentence."""
    line = " ".join((text or "").split("\n\n")[0].split())
    return line.split(". ")[0].removesuffix(".")
