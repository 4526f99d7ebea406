"""What killed processes leave behind, and taking it away: hidden workshops and locks that nobody holds."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

WORKSHOP = ".perpcs.tmp"
"""The ending of the hidden directories in which files are made."""
LOCK = ".perpcs.lock"
"""The ending of the hidden files by which processes wait for each other."""


def sweep(directory: Path, *, below: bool = False) -> None:
    """Take away what killed processes have left in a directory; what another process holds stays.

    With `below`, in all directories below it, too.
    """
    look = directory.rglob if below else directory.glob
    for path in [found for ending in (WORKSHOP, LOCK) for found in look(f".*{ending}")]:
        # Gone, a link, or held by another process: none of these is ours to take away.
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                hold(handle)
                _take_away(path)
            finally:
                os.close(handle)


def hold(handle: int) -> None:
    """Lock an opened file or directory until it is closed or the process ends.

    Raises BlockingIOError where another process holds it, and another OSError where the file system has no locks.
    """
    import fcntl

    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _take_away(path: Path) -> None:
    if not path.is_dir():
        path.unlink()
        return
    for old in (path / "before").glob("*"):
        # Killed between two renames: what stood there is put back.
        if not (path.parent / old.name).exists():
            old.rename(path.parent / old.name)
    shutil.rmtree(path, ignore_errors=True)
