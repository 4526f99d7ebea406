"""One process at a time writes a place, or several that share it; the others wait, and are told for whom."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from perpcs_cli.artifacts.io.atomic import writing
from perpcs_cli.artifacts.io.leftovers import LOCK, hold, sweep


@contextmanager
def locked(place: Path, waiting: Callable[[str], None], *, shared: bool = False) -> Iterator[None]:
    """Hold the lock of a file or directory that is about to be written while the block lasts.

    It is `.NAME.perpcs.lock` beside it. Where another process holds it, `waiting` is told who, and the block begins
    when that one has ended. The lock of a process that was killed is nobody's, and so is what it was writing there: it
    is swept away. A `shared` lock is held by any number of processes that share it, and by none that does not.
    """
    with writing(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        path = place.parent / f".{place.name}{LOCK}"
        wait = lambda: waiting(f"waiting for {_holder(path)}, which writes {place}")  # noqa: E731
        release = _share(path, wait) if shared else _acquire(path, wait)
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
    try:
        for directory in (place.parent, place):
            sweep(directory)
        yield
    finally:
        release()


def _acquire(path: Path, wait: Callable[[], None]) -> Callable[[], None]:
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        wait()
        lock.acquire()

    def release() -> None:
        try:
            # While it is held: who waits for a deleted file begins again with a new one.
            path.unlink(missing_ok=True)
        finally:
            lock.release()

    return release


def _share(path: Path, wait: Callable[[], None]) -> Callable[[], None]:
    import fcntl

    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                wait()
                fcntl.flock(handle, fcntl.LOCK_SH)
            except OSError:
                # A file system without such locks: those who share tell each other apart by locks of their own.
                break
            # Not one that was deleted meanwhile by who held it before.
            if os.path.samestat(os.fstat(handle), path.stat()):
                break
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)

    def release() -> None:
        # The last one takes it away.
        with contextlib.suppress(OSError):
            hold(handle)
            path.unlink(missing_ok=True)
        os.close(handle)

    return release


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") or "another process"
    except OSError:
        return "another process"
