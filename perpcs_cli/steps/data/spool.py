"""Values put aside in a file without a name, which takes the disk instead of memory and is gone with the process."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import msgspec

from perpcs_cli.artifacts.io import atomic

BUFFER = 1 << 20


class Spool:
    """Values as lines of JSON, each found again by its place."""

    def __init__(self, file: IO[bytes], target: Path) -> None:
        self._file = file
        self._target = target
        self._encoder = msgspec.json.Encoder()
        self._end = 0

    def add(self, value: object) -> int:
        """The place of a value that is put aside. Raises PerpcsError where there is no room."""
        line = self._encoder.encode(value) + b"\n"
        with atomic.writing(self._target):
            self._file.write(line)
        self._end += len(line)
        return self._end - len(line)

    def lines(self, places: Iterable[int]) -> Iterator[bytes]:
        """The lines at these places, in this order. Nothing is added before they have been read. Raises the same."""
        with atomic.writing(self._target):
            self._file.flush()
        at = -1
        for place in places:
            if place != at:
                self._file.seek(place)
            line = self._file.readline()
            at = place + len(line)
            yield line


@contextmanager
def spooled(target: Path, *, beside: bool) -> Iterator[Spool]:
    """A spool for what will stand at `target`: `beside` it, where its room is, else where temporary files go."""
    file = _unnamed(target.parent if beside else None)
    try:
        yield Spool(file, target)
    finally:
        # What found no room is of no use any more.
        with suppress(OSError):
            file.close()


def _unnamed(directory: Path | None) -> IO[bytes]:
    try:
        return tempfile.TemporaryFile(dir=directory, buffering=BUFFER)
    except OSError:
        # It may not be there yet, or not be ours to write into.
        return tempfile.TemporaryFile(buffering=BUFFER)
