"""Where this machine keeps what can be made again."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

SETTLED_NS = 2_000_000_000
"""A file that was changed so lately may be changed again within one tick of its clock."""


def cache_directory() -> Path:
    """`$PERPCS_CACHE`, else the platform's place for caches: `~/.cache/perpcs` on Linux."""
    if own := os.environ.get("PERPCS_CACHE"):
        return expanded(own)
    return platformdirs.user_cache_path("perpcs", appauthor=False)


def expanded(text: str) -> Path:
    """A path in which `~` is somebody's home, as far as there is such an account."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)
