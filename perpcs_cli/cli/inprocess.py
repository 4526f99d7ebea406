"""Running a command line of perpcs inside another command, as a person could by hand."""

from __future__ import annotations

import contextlib
import io
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

import typer

from perpcs_cli.cli.console import Console


def find_command(line: Sequence[str]) -> tuple[Any, int]:
    """(the command that a line names, how many of its words do)."""
    from perpcs_cli.cli.main import app

    command: Any = typer.main.get_command(app)
    words = 0
    while hasattr(command, "get_command") and words < len(line):
        command = command.get_command(None, line[words])
        words += 1
    return command, words


@contextlib.contextmanager
def opened(line: Sequence[str]) -> Iterator[tuple[Any, Any]]:
    """(command, context) of a command line, without `perpcs` in front, while the block lasts.

    Raises what Typer raises for a line that the command does not take.
    """
    command, words = find_command(line)
    with command.make_context(" ".join(["perpcs", *line[:words]]), list(line[words:])) as context:
        yield command, context


def run_line(line: Sequence[str], console: Console) -> None:
    """Run a command line, and say which. Its data goes nowhere, its talk to stderr."""
    quiet = ["--quiet"] if console.quiet else []
    console.note(f"$ {shlex.join(['perpcs', *line])}")
    with opened([*line, *quiet]) as (command, context), contextlib.redirect_stdout(io.StringIO()):
        command.invoke(context)
