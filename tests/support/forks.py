"""Commands in forked processes: killed at one of their writes, or several at once."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shell import Shell

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink", "os.chmod"}
"""What Python tells of changes to a file system, besides opening a file to write it."""
TIMES = re.compile(rb'"seconds":(\s*[\d.e-]+|\{[^}]*\})')


@dataclass
class Ended:
    """How a process ended. `code` is negative for the signal that killed it."""

    code: int
    output: str
    writes: int
    """How many, which is not known of one that was killed."""
    torn: list[int]
    """Those before which something was written and not yet synced."""


@dataclass
class Writes:
    """Counts a process's changes below a directory, and kills it before one of them.

    With `tear`, half of what was appended to a file and not yet synced is lost, as when a machine loses power.
    """

    root: Path
    kill_at: int | None = None
    tear: bool = False
    count: int = 0
    unsynced: dict[Path, int] = field(default_factory=dict)
    """Files that were opened to write → their sizes then."""
    torn: list[int] = field(default_factory=list)

    def watch(self) -> None:
        """Begin; there is no end, so a process of its own is watched."""
        sync = os.fsync

        def fsync(handle: int) -> None:
            path = _opened(handle)
            self.change(path)
            sync(handle)
            self.unsynced.pop(path, None)

        os.fsync = fsync
        sys.addaudithook(self._hook)

    def _hook(self, event: str, found: tuple[Any, ...]) -> None:
        if event == "open":
            name, mode, flags = found
            if isinstance(name, int) or not (flags & (os.O_WRONLY | os.O_RDWR) or set(mode or "") & set("wax+")):
                return
            path = Path(os.fsdecode(name)).absolute()
            if self.change(path):
                with contextlib.suppress(OSError):
                    self.unsynced.setdefault(path, 0 if flags & os.O_TRUNC else path.stat().st_size)
        elif event in CHANGES:
            names = [name for name in found if isinstance(name, str | bytes | os.PathLike)]
            handles = [handle for handle in found[len(names) :] if isinstance(handle, int) and handle > 2]
            # A name in an opened directory, or a path.
            place = _opened(handles[0]) if handles and event in ("os.remove", "os.rmdir") else Path()
            self.change((place / os.fsdecode(names[0])).absolute())

    def change(self, path: Path) -> bool:
        """Count a change that is about to be made, if it is below the root."""
        if not path.is_relative_to(self.root):
            return False
        if self.count == self.kill_at:
            self.kill_at = None
            for torn, before in self.unsynced.items() if self.tear else ():
                with contextlib.suppress(OSError):
                    os.truncate(torn, (before + torn.stat().st_size) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        if self.unsynced:
            self.torn.append(self.count)
        self.count += 1
        return True


def _opened(handle: int) -> Path:
    """The path of an opened file or directory."""
    try:
        return Path(f"/proc/self/fd/{handle}").readlink()
    except OSError:
        return Path()


def run(shell: Shell, line: str, kill_at: int | None = None, *, tear: bool = False) -> Ended:
    """Run a command in a process of its own, and kill it before its change number `kill_at`."""
    return wait(start(shell, line, Writes(shell.root, kill_at, tear)))


def race(shell: Shell, lines: Sequence[str]) -> list[Ended]:
    """Run commands at the same time."""
    gate, go = os.pipe()
    running = [start(shell, line, Writes(shell.root), gate) for line in lines]
    os.write(go, b"!" * len(lines))
    ended = [wait(one) for one in running]
    os.close(gate)
    os.close(go)
    return ended


def start(shell: Shell, line: str, writes: Writes, gate: int | None = None) -> tuple[int, int]:
    """(process, where it tells how it ended) of a command that begins when there is a byte to read at `gate`."""
    told, tell = os.pipe()
    process = os.fork()
    if process:
        os.close(tell)
        return process, told
    code = 70
    try:
        if gate is not None:
            os.read(gate, 1)
        writes.watch()
        result = shell(line)
        code = result.exit_code
        watched = [writes.count, *writes.torn]
        trace = ""
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            code, trace = 71, "".join(traceback.format_exception(*result.exc_info))
        with os.fdopen(tell, "w", encoding="utf-8") as out:
            out.write(f"{' '.join(map(str, watched))}\n{result.output}{trace}")
    finally:
        os._exit(code)


def wait(running: tuple[int, int]) -> Ended:
    """How a process ended."""
    process, told = running
    with os.fdopen(told, encoding="utf-8") as out:
        first, _, output = out.read().partition("\n")
    _, status = os.waitpid(process, 0)
    count, *torn = map(int, first.split() or [0])
    return Ended(os.waitstatus_to_exitcode(status), output, count, torn)


def tree(root: Path) -> dict[str, bytes | None]:
    """Everything below a directory, hidden files too, without measured times; a directory's content is None."""
    return {
        str(path.relative_to(root)): TIMES.sub(b"", path.read_bytes()) if path.is_file() else None
        for path in sorted(root.rglob("*"))
    }


def differences(found: dict[str, bytes | None], wanted: dict[str, bytes | None]) -> str:
    """What differs between two trees, in words; empty where nothing does."""
    words = [f"missing: {name}" for name in wanted if name not in found]
    words += [f"left over: {name}" for name in found if name not in wanted]
    words += [f"different: {name}" for name in wanted if name in found and found[name] != wanted[name]]
    return ", ".join(words)
