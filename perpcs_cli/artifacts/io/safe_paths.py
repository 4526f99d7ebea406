"""Names that can name a file, and paths that stay in their directory."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from perpcs_cli.errors import DataError

_SPLITTING = ("Cc", "Cs", "Zl", "Zp")
"""Control characters, halves of characters, and what ends a line or a paragraph: an id is one line of a list."""


def check_id(identifier: str, what: str, *, where: object = None) -> str:
    """Return `identifier` if it can safely name a file; raise DataError if it cannot."""
    bad = (
        not identifier
        or identifier != identifier.strip()
        or identifier.startswith(".")
        or ".." in identifier
        or any(c in "/\\" or unicodedata.category(c) in _SPLITTING for c in identifier)
        or len(identifier.encode()) > 200
    )
    if bad:
        raise DataError(
            f"{what} {identifier!r:.80} cannot name a file",
            where=where,
            hint="Ids are not empty, at most 200 bytes, do not start with a dot, and have no slash, backslash, "
            "'..', control character, line separator or space around them. Rename it in the source.",
        )
    return identifier


def inside(root: Path, relative: str, *, where: object) -> Path:
    """`root / relative`, refused with DataError where it is absolute or leads out of `root`."""
    path = root / relative
    if Path(relative).is_absolute() or not path.resolve().is_relative_to(root.resolve()):
        raise DataError(f"the path {relative!r} leaves its directory", where=where)
    return path
