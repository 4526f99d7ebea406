"""Opening files that may come from anybody: what is no file is refused before it is read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from perpcs_cli.errors import DataError


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """The file at `path`, to read.

    Raises DataError where it is missing, a device without end, a named pipe, or cannot be read.
    """
    try:
        # What a shell makes of `<(…)` has no name of its own; a named pipe may wait for its writer for ever.
        if stat.S_ISFIFO(path.stat().st_mode) and Path(os.path.realpath(path)).is_fifo():
            raise DataError("is a pipe, and no file", where=path)
        file = path.open("rb")
    except FileNotFoundError:
        raise DataError("no such file", where=path) from None
    except (OSError, ValueError) as error:
        # A ValueError is a path that holds NUL or half a character.
        raise DataError(f"cannot be read: {getattr(error, 'strerror', None) or error}", where=path) from None
    with file:
        mode = os.fstat(file.fileno()).st_mode
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            raise DataError("is a device, and no file", where=path)
        try:
            yield file
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror or error}", where=path) from None
