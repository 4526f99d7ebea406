"""`perpcs validate`: read files whole, with all checks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from perpcs_cli.cli.command import command
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.process import visible
from perpcs_cli.errors import DataError


@command
def validate(
    console: Console,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file, or a directory.", show_default=False)],
) -> None:
    """Check a file, or all files of a directory.

    Each is read whole: its format, ranges, digests, shapes, finite numbers, and whether it belongs to what lies beside
    it. Files of others are passed over. The exit status is 3 if anything is wrong.
    """
    from perpcs_cli.steps.inspect.validate import validate as step

    found = step(path, console)
    broken = [one for one in found if one.problems]
    counts = Counter(one.kind for one in found)
    lines = [visible(f"{one.path}\t{problem}") for one in broken for problem in one.problems]
    whole = ", ".join(f"{count} × {kind or 'unknown'}" for kind, count in counts.items())
    files = [{"path": str(one.path), "kind": one.kind, "problems": one.problems} for one in found]
    value = {"ok": not broken, "files": files}
    if broken:
        console.result(value, "\n".join(lines))
        raise DataError(f"{len(broken)} of {len(found)} files are not in order", where=path)
    console.result(value, f"{path}\t{len(found)} files, all in order\t{whole}")
