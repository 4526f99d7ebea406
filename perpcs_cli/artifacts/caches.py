"""Where this machine keeps what can be made again."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

import platformdirs

SETTLED_NS = 2_000_000_000
"""A file that was changed so lately may be changed again within one tick of its clock."""


def cache_directory() -> Path:
    """`$PERPCS_CACHE`, else the platform's place for caches: `~/.cache/perpcs` on Linux."""
    if own := os.environ.get("PERPCS_CACHE"):
        return expanded(own)
    return platformdirs.user_cache_path("perpcs", appauthor=False)


def file_states(paths: Iterable[Path]) -> list[tuple[int, ...] | None] | None:
    """What tells that a file has not changed, of each, links followed: its size, the times of its content and of any
    change, its inode and device; None for one that is not there. None for all where one may still be changing."""
    settled = time.time_ns() - SETTLED_NS
    states: list[tuple[int, ...] | None] = []
    for path in paths:
        try:
            found = path.stat()
        except (OSError, ValueError):
            states.append(None)
            continue
        if max(found.st_mtime_ns, found.st_ctime_ns) > settled:
            return None
        states.append((found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev))
    return states


def expanded(text: str) -> Path:
    """A path in which `~` is somebody's home, as far as there is such an account."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)
