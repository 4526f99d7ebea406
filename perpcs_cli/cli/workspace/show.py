"""`perpcs show`: what a file holds, in a form for reading."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perpcs_cli.cli import process
from perpcs_cli.cli.command import command
from perpcs_cli.cli.console import Console


@command
def show(
    console: Console,
    path: Annotated[
        Path, typer.Argument(metavar="FILE", help="A file, or the directory of an adapter.", show_default=False)
    ],
    rows: Annotated[int, typer.Option("--rows", min=1, help="At most so many rows of a table.")] = 20,
) -> None:
    """Show what a file holds.

    Of a recipe the map of whose pieces run where, of adapters and gates the norms by layer and projection, of a trace
    the search's course, of predictions the answers beside the references. With --json all of it. FILE - is stdin.
    """
    from perpcs_cli.cli.workspace.views import VIEWS, File, anything, plain
    from perpcs_cli.steps.inspect.kinds import kind_of

    with process.spooled(path) as file:
        kind = kind_of(file)
        content = kind.read(file)
        place = file if kind.name != "adapter" or file.is_dir() else file.parent
        console.note(f"{path}: {kind.name}")
        text = "" if console.json else VIEWS.get(kind.name, anything)(File(place, content, rows))
        console.result({"kind": kind.name, "content": plain(content)} if console.json else None, text)
