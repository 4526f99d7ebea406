"""Running a sweep's steps in this process: what each command knows, checking command lines, and running one."""

from __future__ import annotations

import shutil
import time
from typing import Any

import msgspec
import typer

from perpcs_cli import __version__
from perpcs_cli.artifacts import store
from perpcs_cli.artifacts.predictions import info_path
from perpcs_cli.artifacts.sweep import STEPS
from perpcs_cli.artifacts.workspace import FILE, to_toml
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.inprocess import find_command, opened, run_line
from perpcs_cli.errors import UsageError
from perpcs_cli.methods.grid import Flag, Flags
from perpcs_cli.methods.pipeline import COMMANDS, Step, Workspace

WHOLE = frozenset({"import", "split", "adapt", "select", "pool"})
"""Steps that do not go on with what they wrote before they were stopped; the others do."""

REFUSED: Any = typer.BadParameter.__base__
"""What a command raises for a command line that it does not take; Typer exports only this kind of it."""


class Done(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="format", tag="perpcs.step/1"
):
    """Written when a step has ended: what it was, and how long it took."""

    name: str
    digest: str
    command: tuple[str, ...]
    seconds: float
    tool: str


def done(step: Step) -> Done | None:
    """The record of a step that was run to its end, or None. Raises DataError where it is broken."""
    return store.read_json(step.marker, Done) if step.marker.exists() and step.product.exists() else None


def run_step(step: Step, console: Console) -> Done:
    """Run a step that has not ended yet, and record it. Its data goes nowhere, its talk to stderr."""
    prepare(step.workspace)
    again = ["--force"] if step.name in WHOLE and step.product.exists() else []
    began = time.monotonic()
    run_line([*step.line, *again], console)
    seconds = round(time.monotonic() - began, 3)
    record = Done(name=step.name, digest=step.digest, command=step.line, seconds=seconds, tool=__version__)
    store.write_json(step.marker, record)
    return record


def prepare(workspace: Workspace) -> None:
    """Write the `perpcs.toml` that a step reads, and the profiles beside it."""
    if not (workspace.path / FILE).exists():
        store.write_text(workspace.path / FILE, to_toml(workspace.settings))
    if workspace.profile and not (target := workspace.path / "profiles.jsonl").exists():
        source = workspace.profile.product
        with store.replacing(info_path(target)) as temporary:
            shutil.copyfile(info_path(source), temporary)
        with store.replacing(target) as temporary:
            shutil.copyfile(source, temporary)


def known_flags() -> Flags:
    """The flags of each step's command."""
    return {
        step: {
            flag.name: flag
            for parameter in find_command(COMMANDS.get(step, (step,)))[0].params
            for flag in [_flag(parameter)]
            if flag is not None
        }
        for step in STEPS
    }


def check_line(step: Step) -> None:
    """Raise UsageError where the command would not take its own command line."""
    try:
        with opened(step.line):
            pass
    except REFUSED as error:
        raise UsageError(error.format_message(), where=str(step)) from None


def _flag(parameter: Any) -> Flag | None:
    """What a command's parameter is on the command line; None for an argument."""
    if parameter.param_type_name != "option":
        return None
    name = max(parameter.opts, key=len).removeprefix("--")
    off = parameter.secondary_opts[0].removeprefix("--") if parameter.secondary_opts else ""
    default = parameter.default if isinstance(parameter.default, bool | int | float | str) else None
    return Flag(name, default, bool(parameter.is_flag), off)
