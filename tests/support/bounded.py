"""Running something in a process of its own, with little memory and little time."""

from __future__ import annotations

import os
import resource
import signal
import traceback
from collections.abc import Callable
from pathlib import Path

MEMORY = 512 << 20
"""Bytes beside what the process has already."""
SECONDS = 20


def in_child(action: Callable[[], object], memory: int = MEMORY) -> str:
    """Run `action` in a fork with a bound on its memory; its traceback, or how it died, or nothing."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        said = ""
        try:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory, resource.RLIM_INFINITY))
            action()
        except BaseException:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            said = traceback.format_exc() or "failed"
        finally:
            with os.fdopen(write, "w", errors="backslashreplace") as pipe:
                pipe.write(said)
            os._exit(0)
    os.close(write)
    with os.fdopen(read, errors="replace") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    return said or ("" if status == 0 else f"the process died: {status}")


def in_time(action: Callable[[], object], seconds: int = SECONDS) -> object:
    """Run `action`; raise TimeoutError where it takes longer than `seconds`."""

    def late(*_: object) -> None:
        raise TimeoutError(f"took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        return action()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
