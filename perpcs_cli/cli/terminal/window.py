"""The window that a person looks at: how wide it is, and whether it shows colours."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

LEAST = 20
"""Columns; a narrower window breaks the lines itself."""


def width() -> int | None:
    """The columns of the window that stdout goes to, by COLUMNS or the terminal; None where it goes elsewhere."""
    return max(LEAST, shutil.get_terminal_size().columns) if sys.stdout.isatty() else None


def moves(stream: TextIO) -> bool:
    """Whether what `stream` has shown can be shown anew."""
    return stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def coloured() -> bool:
    """Whether stdout shows colours and other styles; NO_COLOR, where it is not empty, and TERM=dumb say no."""
    return moves(sys.stdout) and not os.environ.get("NO_COLOR")


def rich_console() -> Console:
    """rich's, for what is shown on stdout."""
    from rich.console import Console

    return Console(file=sys.stdout, width=width(), no_color=not coloured(), highlight=False)
