"""The commands of perpcs for a sweep: what each one takes, and running a command line as a person could by hand."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import typer

from perpcs_cli.artifacts.settings import declared
from perpcs_cli.artifacts.sweep import STEPS
from perpcs_cli.cli.console import Console
from perpcs_cli.errors import UsageError
from perpcs_cli.experiments.sweeps.grid import Flag, Flags
from perpcs_cli.experiments.sweeps.pipeline import COMMANDS

REFUSED: Any = typer.BadParameter.__base__
"""What a command raises for a command line that it does not take; Typer exports only this kind of it."""


@dataclass(frozen=True)
class Shell:
    """Runs command lines in this process; their talk goes to `console`, and what they find nowhere."""

    console: Console

    def flags(self) -> Flags:
        """The flags of each step's command."""
        return {
            step: {
                flag.name: flag
                for parameter in _find(COMMANDS.get(step, (step,)))[0].params
                for flag in [_flag(parameter)]
                if flag is not None
            }
            for step in STEPS
        }

    def check(self, line: Sequence[str]) -> None:
        """Raise UsageError where the command would not take its own command line."""
        try:
            with self._opened(line):
                pass
        except REFUSED as error:
            raise UsageError(error.format_message()) from None

    def run(self, line: Sequence[str]) -> None:
        """Run a command line, and say which."""
        self.console.note(f"$ {shlex.join(['perpcs', *line])}")
        with self._opened(line) as (command, context):
            command.invoke(context)

    @contextlib.contextmanager
    def _opened(self, line: Sequence[str]) -> Iterator[tuple[Any, Any]]:
        """(command, context) of a command line, without `perpcs` in front, while the block lasts."""
        command, words = _find(line)
        quiet = Console(quiet=self.console.quiet, data=False)
        name = " ".join(["perpcs", *line[:words]])
        with _no_settings_around(), command.make_context(name, list(line[words:]), obj=quiet) as context:
            yield command, context


@contextlib.contextmanager
def _no_settings_around() -> Iterator[None]:
    """Without the variables of settings: a sweep's steps take theirs from the line and the workspace alone."""
    names = ["PERPCS_WORKSPACE", *(one.variable for one in declared().values())]
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


@cache
def _tree() -> Any:
    """All commands. A sweep checks and runs hundreds of lines over the same tree."""
    from perpcs_cli.cli.main import app

    return typer.main.get_command(app)


def _find(line: Sequence[str]) -> tuple[Any, int]:
    """(the command that a line names, how many of its words do)."""
    command, words = _tree(), 0
    while hasattr(command, "get_command") and words < len(line):
        command = command.get_command(None, line[words])
        words += 1
    return command, words


def _flag(parameter: Any) -> Flag | None:
    """What a command's parameter is on the command line; None for an argument."""
    if parameter.param_type_name != "option":
        return None
    name = max(parameter.opts, key=len).removeprefix("--")
    off = parameter.secondary_opts[0].removeprefix("--") if parameter.secondary_opts else ""
    default = parameter.default if isinstance(parameter.default, bool | int | float | str) else None
    return Flag(name, default, bool(parameter.is_flag), off)
