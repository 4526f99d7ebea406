"""Deleting a sharer's files, and nothing but these: what a manifest names may be anything."""

from __future__ import annotations

from pathlib import Path

from perpcs_cli.artifacts.adapter import CARD, CONFIG, WEIGHTS
from perpcs_cli.artifacts.gate import FILE as GATE_FILE
from perpcs_cli.artifacts.io.atomic import writing
from perpcs_cli.artifacts.io.leftovers import LOCK, WORKSHOP, sweep
from perpcs_cli.artifacts.training_log import FILE as LOG_FILE
from perpcs_cli.artifacts.training_log import failed_log
from perpcs_cli.errors import DataError

FILES = (CARD, LOG_FILE, GATE_FILE, "README.md", CONFIG, WEIGHTS)
"""What is deleted, PEFT's model card included. The weights go last: where they are, the directory is an adapter's."""


def check_removable(directory: Path) -> None:
    """Raise DataError where `directory` is no adapter's, or holds more than `remove_sharer` deletes."""
    if not directory.exists() and not directory.is_symlink():
        return
    hint = "It was not deleted; move it elsewhere, and run the command again."
    if directory.is_symlink() or not directory.is_dir():
        raise DataError("is a link or a file, and no sharer's directory", where=directory, hint=hint)
    found = sorted(directory.iterdir())
    if strangers := [path.name for path in found if not _is_own(path)]:
        raise DataError(f"holds {strangers[0]!r}, which is no part of an adapter", where=directory, hint=hint)
    if found and directory / WEIGHTS not in found:
        raise DataError(f"holds no {WEIGHTS}", where=directory, hint=hint)


def remove_sharer(directory: Path) -> None:
    """Delete a sharer's directory: an adapter, its gates, its logs, and what a stopped run has left of them.

    Raises DataError, and deletes nothing, where it holds anything else; nothing is done where it is gone already.
    """
    check_removable(directory)
    if directory.exists():
        sweep(directory)
        with writing(directory):
            names = [path.name for path in directory.iterdir()]
            for name in sorted(names, key=lambda name: FILES.index(name) if name in FILES else -1):
                (directory / name).unlink(missing_ok=True)
            directory.rmdir()
    failed_log(directory).unlink(missing_ok=True)


def _is_own(path: Path) -> bool:
    if path.is_symlink():
        return False
    hidden = path.name.startswith(".")
    if path.is_dir():
        return hidden and path.name.endswith(WORKSHOP)
    return path.is_file() and (path.name in FILES or (hidden and path.name.endswith(LOCK)))
