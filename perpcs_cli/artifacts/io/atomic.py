"""Files and directories that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perpcs_cli.errors import PerpcsError, UsageError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a sibling temporary path; when the block ends well, fsync it and rename it to `path`.

    If the block raises or the process dies, whatever stood at `path` is untouched.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:60]}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
    temporary = Path(name)
    try:
        with writing(path):
            yield temporary
            _sync_file(temporary)
            # mkstemp makes files private; an artifact has the mode that any new file would have.
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            temporary.replace(path)
            _sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_directory(path: Path) -> Iterator[Path]:
    """The same for a directory of files: it appears at `path` whole or not at all."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name[:60]}.", suffix=".tmp", dir=path.parent))
        temporary.chmod(0o755)
    old = temporary.with_suffix(".old")
    try:
        with writing(path):
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    _sync_file(file)
            if path.exists():
                path.rename(old)
            temporary.rename(path)
            _sync_directory(path.parent)
    except BaseException:
        if old.exists() and not path.exists():
            old.rename(path)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's refusals into errors that name the file that was to be written."""
    try:
        yield
    except OSError as error:
        raise PerpcsError(
            f"cannot be written: {error.strerror or error}",
            where=path,
            hint="Check the directory's permissions and the free space, or choose another place with --out.",
        ) from error


def check_writable(path: Path) -> None:
    """Raise PerpcsError where `path` could not be written: before the work, not after it."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass


def refuse_existing(path: Path, *, force: bool) -> None:
    """Raise UsageError where `path` exists and `--force` was not given."""
    if not force and (path.is_file() or (path.is_dir() and any(path.iterdir()))):
        raise UsageError("already exists", where=path, hint="Use --force to replace it.")


def _sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
