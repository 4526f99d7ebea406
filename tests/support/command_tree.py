"""All commands as a tree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from perpcs_cli.cli.main import app


def walk(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and group with its path."""
    yield path, command
    context = command.context_class(command, info_name="perpcs")
    for name in command.list_commands(context) if hasattr(command, "list_commands") else ():
        yield from walk(command.get_command(context, name), (*path, name))


TREE = dict(walk(typer.main.get_command(app)))
COMMAND_TREE = {path: command for path, command in TREE.items() if not hasattr(command, "list_commands")}
