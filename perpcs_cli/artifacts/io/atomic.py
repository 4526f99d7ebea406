"""Files and directories that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perpcs_cli.artifacts.io.leftovers import WORKSHOP, hold
from perpcs_cli.errors import PerpcsError, UsageError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the path of a new file to write; when the block ends well, fsync it and rename it to `path`.

    If the block raises or the process dies, whatever stood at `path` is untouched. Raises UsageError where a link, a
    directory or a device stands there: nothing but a file is ever replaced.
    """
    check_kind(path, "file")
    with workshop(path) as room, writing(path):
        new = room / path.name
        yield new
        _sync_file(new)
        new.replace(path)
        _sync_directory(path.parent)


@contextmanager
def replacing_directory(path: Path) -> Iterator[Path]:
    """The same for a directory of files: at any moment the old one or the new one stands at `path`, whole."""
    check_kind(path, "directory")
    with workshop(path) as room, writing(path):
        new = room / path.name
        new.mkdir()
        yield new
        for file in new.rglob("*"):
            if file.is_file():
                _sync_file(file)
        if not path.exists():
            new.rename(path)
        elif not _exchange(new, path):
            # On other systems two renames: after a kill between them, `sweep` puts back what was there.
            aside = room / "before"
            aside.mkdir()
            path.rename(aside / path.name)
            new.rename(path)
        _sync_directory(path.parent)


@contextmanager
def workshop(path: Path) -> Iterator[Path]:
    """A private hidden directory beside `path`, to make it in; gone when the block ends.

    It is locked by this process: one that nobody holds is a killed process's, and `sweep` takes it away.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        room, handle = _held_room(path)
    try:
        yield room
    finally:
        shutil.rmtree(room, ignore_errors=True)
        os.close(handle)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's refusals into errors that name the file that was to be written."""
    try:
        yield
    except Exception as error:
        # safetensors has an error of its own for what the system says.
        if not isinstance(error, OSError) and type(error).__name__ != "SafetensorError":
            raise
        raise PerpcsError(
            f"cannot be written: {getattr(error, 'strerror', None) or error}",
            where=path,
            hint="Check the directory's permissions and the free space, or choose another place with --out.",
        ) from error


def check_writable(path: Path, kind: str = "file") -> None:
    """Raise PerpcsError where `path` could not be written: before the work, not after it."""
    check_kind(path, kind)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass


def refuse_existing(path: Path, *, force: bool) -> None:
    """Raise UsageError where `path` exists and `--force` was not given."""
    if not force and (path.is_file() or (path.is_dir() and any(path.iterdir()))):
        raise UsageError("already exists", where=path, hint="Use --force to replace it.")


def check_kind(path: Path, kind: str) -> None:
    """Raise UsageError where something else stands at `path` than the file or directory that is to be written."""
    if (found := _kind(path)) not in (kind, None):
        raise UsageError(
            f"is a {found}, where a {kind} is to be written",
            where=path,
            hint="It was left alone; move it away, or choose another place with --out.",
        )


def _kind(path: Path) -> str | None:
    """What stands there, in a word; None for nothing."""
    if path.is_symlink():
        return "link"
    if path.is_dir():
        return "directory"
    if path.is_file():
        return "file"
    return "device" if path.exists() else None


def _held_room(path: Path) -> tuple[Path, int]:
    """(a new workshop beside `path`, the handle that holds its lock)."""
    while True:
        room = Path(tempfile.mkdtemp(prefix=f".{path.name[:60]}.", suffix=WORKSHOP, dir=path.parent))
        handle = os.open(room, os.O_RDONLY)
        try:
            hold(handle)
            if os.path.samestat(os.fstat(handle), room.stat()):
                return room, handle
        except (BlockingIOError, FileNotFoundError):
            # A sweep came between, while it was nobody's yet.
            os.close(handle)
        except OSError:
            # A file system without locks: there nothing is swept either.
            return room, handle


def _exchange(one: Path, other: Path) -> bool:
    """Let two directories change places at once. False where the system cannot."""
    import ctypes

    rename = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), swap) == 0


def _sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
