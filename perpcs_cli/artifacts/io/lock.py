"""One process at a time writes a place; the others wait, and are told for whom."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from perpcs_cli.artifacts.io.atomic import writing
from perpcs_cli.artifacts.io.leftovers import LOCK, sweep


@contextmanager
def locked(place: Path, waiting: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a file or directory that is about to be written while the block lasts.

    It is `.NAME.perpcs.lock` beside it. Where another process holds it, `waiting` is told who, and the block begins
    when that one has ended. The lock of a process that was killed is nobody's, and so is what it was writing there: it
    is swept away.
    """
    from filelock import FileLock, Timeout

    with writing(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        path = place.parent / f".{place.name}{LOCK}"
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waiting(f"waiting for {_holder(path)}, which writes {place}")
            lock.acquire()
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
    try:
        for directory in (place.parent, place):
            sweep(directory)
        yield
    finally:
        try:
            # While it is held: who waits for a deleted file begins again with a new one.
            path.unlink(missing_ok=True)
        finally:
            lock.release()


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") or "another process"
    except OSError:
        return "another process"
