"""The process around a command: its streams, whatever they are, and the signals that end it."""

from __future__ import annotations

import codecs
import io
import json
import os
import re
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import BinaryIO, TextIO

ESCAPE = "perpcs.escape"
"""The handler of characters that a stream's encoding lacks."""
STOPPING = ("SIGINT", "SIGTERM", "SIGHUP")


class Stopped(KeyboardInterrupt):
    """A signal asks the process to end. Exit codes are 128 and the signal's number, as of Ctrl-C in a shell."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number


class Stream(io.TextIOWrapper):
    r"""A standard stream that writes characters that its encoding lacks as \uXXXX, so that JSON remains JSON.

    Errors say its name. With `heard` false it has none: what nobody can hear is not said.
    """

    def __init__(self, buffer: BinaryIO, encoding: str, called: str, *, heard: bool = True) -> None:
        super().__init__(buffer, encoding, ESCAPE, line_buffering=True)
        self.called, self.heard = called, heard

    def write(self, text: str) -> int:
        """Write text. Raises OSError where it cannot be written."""
        try:
            return super().write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        """Write what is held back. Raises OSError where it cannot be written."""
        try:
            super().flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        # Else what is still held would be tried again at the end of the process.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        if self.heard:
            error.filename = self.called
            raise error


def _escaped(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4)), error.end


codecs.register_error(ESCAPE, _escaped)


def set_streams() -> None:
    """Let stdout and stderr be streams that never end in a traceback, also where they are closed.

    A closed one is opened so that reading and writing fail: else the next file that is opened would be taken for it.
    """
    for number, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)
    sys.stdout = _stream(1, sys.stdout, "stdout", heard=True)
    sys.stderr = _stream(2, sys.stderr, "stderr", heard=False)


def _stream(number: int, old: TextIO | None, called: str, *, heard: bool) -> Stream:
    # Python has none where it found it closed.
    buffer = io.BufferedWriter(io.FileIO(number, "w", closefd=False)) if old is None else old.buffer
    return Stream(buffer, old.encoding if old else "utf-8", called, heard=heard)


def stopped(error: KeyboardInterrupt) -> int:
    """Say how a command that was stopped goes on; its exit code."""
    talk("stopped; run the same command again to go on\n")
    return error.exit_code if isinstance(error, Stopped) else 128 + signal.SIGINT


def heed_signals() -> None:
    """Let the signals that end a process end it as Ctrl-C does, once: what is half written is taken away meanwhile.

    Those that are ignored already, as by nohup, still are.
    """
    numbers = [getattr(signal, name) for name in STOPPING if hasattr(signal, name)]

    def stop(number: int, _: FrameType | None) -> None:
        for one in numbers:
            signal.signal(one, signal.SIG_IGN)
        raise Stopped(number)

    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)


def show(text: str) -> None:
    """Write to stdout."""
    sys.stdout.write(text)
    sys.stdout.flush()


def talk(text: str) -> None:
    """Write to stderr."""
    sys.stderr.write(visible(text))
    sys.stderr.flush()


def portable(encoded: bytes) -> str:
    """JSON as text that is JSON in the encoding of stdout, too."""
    text = encoded.decode()
    utf8 = sys.stdout.encoding.lower().replace("-", "") == "utf8"
    return text if utf8 else text.encode("ascii", ESCAPE).decode()


def visible(text: str) -> str:
    r"""Text with what breaks lines or speaks to terminals as \uXXXX, but for newlines and tabs."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text)


STREAM = Path("-")
"""As a file: stdin, where one is read, and stdout, where one is written."""


@contextmanager
def spooled(path: Path) -> Iterator[Path]:
    """The file to read: `path`, or for `-` all of stdin in a file of its own, which can be read more than once."""
    if path != STREAM:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="perpcs-") as directory:
        data = sys.stdin.buffer.read()
        file = Path(directory) / f"stdin{_ending(data)}"
        file.write_bytes(data)
        yield file


@contextmanager
def printed(out: Path | None, name: str) -> Iterator[Path | None]:
    """The file to write: `out`, or for `-` one that is called `name` and printed when the block has ended well."""
    if out != STREAM:
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="perpcs-") as directory:
        file = Path(directory) / name
        yield file
        if file.exists():
            show(file.read_text(encoding="utf-8"))


def _ending(data: bytes) -> str:
    """What the name of a file with this content ends in: rows stand a line each, and say no format."""
    text = data.removeprefix(codecs.BOM_UTF8).strip()
    if text[:1] not in (b"{", b"["):
        return ".toml"
    first, _, rest = text.partition(b"\n")
    try:
        row = json.loads(first)
    except ValueError:
        return ".json"
    return ".jsonl" if isinstance(row, dict) and (rest or "format" not in row) else ".json"
