"""The same adapter at another place, as hard links: for gates of its own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from perpcs_cli.artifacts.adapter import CARD, CONFIG, WEIGHTS, open_adapter
from perpcs_cli.artifacts.io import atomic
from perpcs_cli.errors import DataError


def check_same_adapter(source: Path, target: Path) -> bool:
    """Whether the adapter of `source` stands at `target` already. Raises DataError where another one does."""
    if not (target / WEIGHTS).exists():
        return False
    if open_adapter(target).digest_weights() != open_adapter(source).digest_weights():
        raise DataError("is another adapter", where=target, hint=f"Use --force to replace it by {source}.")
    return True


def link_adapter(source: Path, target: Path, *, force: bool = False) -> None:
    """Make a directory of the same adapter at `target`, as hard links where the file system has them; no gates.

    An adapter of the same weights that is there already stays, with what lies beside it. Raises DataError where
    another one is there, unless `force`.
    """
    if not force and check_same_adapter(source, target):
        return
    with atomic.replacing_directory(target) as temporary:
        for name in (WEIGHTS, CONFIG, CARD):
            if not (source / name).exists():
                continue
            try:
                os.link(source / name, temporary / name)
            except OSError:
                shutil.copyfile(source / name, temporary / name)
