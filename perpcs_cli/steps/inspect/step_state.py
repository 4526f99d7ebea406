"""What one step of a workspace is like: a name, a state, and the command that mends it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from perpcs_cli.errors import PerpcsError

State = Literal["done", "partial", "stale", "broken", "missing"]
Found = tuple[State, str, str]
"""(state, counts in words, why it is stale, broken or not all there)."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a workspace."""

    name: str
    state: State
    what: str = ""
    """Counts, in words."""
    why: str = ""
    """Why it is stale, broken or not all there."""
    path: str
    """Below the workspace."""
    bytes: int = 0
    command: str
    """What makes it, or makes it again."""
    optional: bool = False


def looked(
    root: Path,
    name: str,
    path: Path,
    command: str,
    look: Callable[[], Found],
    *,
    optional: bool = False,
    there: bool = False,
    files: str = "*",
) -> Step:
    """A step by what `look` finds at `path`, where there is anything or `there` says so. A broken file is a state.

    Of a directory, the size is of its `files`.
    """
    found: Found = ("missing", "", "")
    if there or path.exists():
        try:
            found = look()
        except PerpcsError as error:
            found = ("broken", "", error.what)
    state, what, why = found
    again = f"{command} --force" if state in ("stale", "broken") else command
    return Step(
        name=name,
        state=state,
        what=what,
        why=why,
        path=str(path.relative_to(root)),
        bytes=_size(path, files),
        command=again,
        optional=optional,
    )


def spoken_bytes(count: float) -> str:
    """A size as people say it, in powers of 1000."""
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"


def _size(path: Path, files: str) -> int:
    """Bytes of a file, or of some files below a directory; 0 where nothing is."""
    if path.is_dir():
        return sum(one.stat().st_size for one in path.rglob(files) if one.is_file())
    return path.stat().st_size if path.is_file() else 0
