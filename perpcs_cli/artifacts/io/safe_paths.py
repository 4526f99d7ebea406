"""Names that can name a file, and paths that stay in their directory."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from perpcs_cli.errors import DataError, UsageError

_SPLITTING = ("Cc", "Cs", "Zl", "Zp")
"""Control characters, halves of characters, and what ends a line or a paragraph: an id is one line of a list."""
RULE = (
    "are not empty, at most 200 bytes, do not start with a dot, and have no slash, backslash, '..', control character, "
    "line separator or space around them"
)


def check_id(identifier: str, what: str, *, where: object = None) -> str:
    """Return `identifier` if it can safely name a file; raise DataError if it cannot."""
    if not _can_name(identifier):
        hint = f"Ids {RULE}. Rename it in the source."
        raise DataError(f"{what} {identifier!r:.80} cannot name a file", where=where, hint=hint)
    return identifier


def check_name(name: str, flag: str) -> str:
    """Return the value of a flag if it can safely name a file; raise UsageError if it cannot."""
    if not _can_name(name):
        raise UsageError(f"{name!r:.80} cannot name a file", where=flag, hint=f"Names {RULE}.")
    return name


def _can_name(identifier: str) -> bool:
    return not (
        not identifier
        or identifier != identifier.strip()
        or identifier.startswith(".")
        or ".." in identifier
        or any(c in "/\\" or unicodedata.category(c) in _SPLITTING for c in identifier)
        or len(identifier.encode()) > 200
    )


def inside(root: Path, relative: str, *, where: object) -> Path:
    """`root / relative`, refused with DataError where it is absolute, leads out of `root`, or can be no path."""
    check_inside(root, [relative], where=where)
    return root / relative


def check_inside(root: Path, relatives: Iterable[str], *, where: object) -> None:
    """Raise for the first of many paths for which `inside` would, looking at `root` once."""
    real = os.path.realpath(root)
    for relative in relatives:
        try:
            path = os.path.realpath(root / relative)
            leaves = Path(relative).is_absolute() or os.path.commonpath([real, path]) != real
            _look(Path(path))
        except (OSError, ValueError) as error:
            # Too long, or a link to itself.
            raise DataError(f"the path {relative!r:.80} can be none: {error!s:.40}", where=where) from None
        if leaves:
            raise DataError(f"the path {relative!r} leaves its directory", where=where)


def _look(path: Path) -> None:
    """Raise OSError where there can be no such path; that there is none is no error."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return
