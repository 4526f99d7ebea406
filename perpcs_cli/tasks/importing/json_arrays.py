"""Large JSON lists record by record: only one record is held at a time, and a broken one is one problem.

Strings, brackets and commas tell where a record ends; what stands between is read by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from perpcs_cli.artifacts.io import limits, typed_files
from perpcs_cli.artifacts.io.reading import opened

BLOCK = 1 << 20
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|["\[\]{},]', re.S)
"""A whole string, a bracket, a comma, or the quote of a string whose end has not been read yet."""


def is_list(path: Path) -> bool:
    """Whether a file begins as a JSON list does. Raises DataError where it cannot be read."""
    with opened(path) as file:
        return typed_files.without_mark(file.read(BLOCK)).lstrip()[:1] == b"["


def records(path: Path) -> Iterator[bytes]:
    """The values of the JSON list that a file is, each as its bytes, whatever they hold.

    What follows the list, and what a file that ends within it has of its last value, comes as one value more, with a
    bracket that it lacks or has too many: it is no JSON. Raises DataError where the file cannot be read or is too
    large.
    """
    scan = _Scan()
    size = 0
    with opened(path) as file:
        # Of a long value as much again is read at once, so that it is looked at a few times only.
        while block := file.read(max(BLOCK, scan.held)):
            text = block if size else typed_files.without_mark(block)
            size += len(block)
            if size > limits.DATA_BYTES:
                raise typed_files.too_large(path, limits.DATA_BYTES)
            yield from scan.more(text)
    yield from scan.rest()


class _Scan:
    """Where the values of a list end, block by block."""

    def __init__(self) -> None:
        self._held = b""
        """What has been read from the beginning of a value on."""
        self._looked = 0
        """How much of it has been looked at."""
        self._depth = 0
        self._several = False
        """Whether a comma has been seen: then a value without content is one."""

    @property
    def held(self) -> int:
        """The bytes of a value whose end has not been found."""
        return len(self._held)

    def more(self, block: bytes) -> Iterator[bytes]:
        """The values that end in the next bytes of the file."""
        held, begin = self._held + block, 0
        self._looked, looked = len(held), self._looked
        for token in _TOKEN.finditer(held, looked):
            kind = held[token.start()]
            if kind == b'"'[0]:
                if token.end() - token.start() == 1:
                    self._looked = token.start()
                    break
            elif kind in b"[{":
                self._depth += 1
                if self._depth == 1:
                    begin = token.end()
            elif kind in b"]}":
                self._depth -= 1
                if self._depth == 0:
                    value = held[begin : token.start()].strip()
                    if value or self._several:
                        yield value
                    begin = token.end()
            elif self._depth == 1:
                self._several = True
                yield held[begin : token.start()].strip()
                begin = token.end()
        self._held = held[begin:]
        self._looked -= begin

    def rest(self) -> Iterator[bytes]:
        """What is left at the end of the file: nothing, where it is one whole list."""
        if self._depth or self._held.strip():
            yield self._held.strip() + b"["
