"""Journals: append-only JSONL files that survive a crash, with a first line that says whose they are.

What takes long is kept in a journal while it is made: every row is on disk before the next one is begun. A run that
was stopped goes on from the journal of its own settings and no other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from perpcs_cli.artifacts.io import limits, typed_files
from perpcs_cli.artifacts.io.atomic import writing
from perpcs_cli.artifacts.io.provenance import Provenance, check_same
from perpcs_cli.artifacts.io.reading import opened
from perpcs_cli.errors import DataError

Row = TypeVar("Row")
Key = TypeVar("Key", bound=Hashable)
BLOCK = 1 << 16


class Heading(Protocol):
    """A first line: at least where the rows come from."""

    @property
    def provenance(self) -> Provenance:
        """What all rows were made from."""


class Header(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="format", tag="perpcs.journal/1"
):
    """The first line of what a run has made so far: the format that it will become, and what it is made from."""

    of: str
    provenance: Provenance


class Appender:
    """Rows at the end of a file. Opening it drops a last line that was cut off in the middle."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                end, size = _end_of_lines(path), path.stat().st_size
                if end < size:
                    os.truncate(path, end)

    def append(self, rows: Iterable[object]) -> list[int]:
        """Append rows, flush them to the disk, and say how many bytes each has."""
        lines = [msgspec.json.encode(row) + b"\n" for row in rows]
        with writing(self.path), self.path.open("ab") as file:
            file.write(b"".join(lines))
            file.flush()
            os.fsync(file.fileno())
        return [len(line) for line in lines]


def _end_of_lines(path: Path) -> int:
    """How many bytes of a file are whole lines; it is looked at from its end."""
    with path.open("rb") as file:
        at = file.seek(0, os.SEEK_END)
        while at:
            start = max(0, at - BLOCK)
            file.seek(start)
            end = file.read(at - start).rfind(b"\n")
            if end >= 0:
                return start + end + 1
            at = start
    return 0


class Journal(Appender, Generic[Row]):
    """An opened journal: `rows` is what it holds."""

    def __init__(self, path: Path, rows: list[Row]) -> None:
        super().__init__(path)
        self.rows = rows

    def add(self, rows: Sequence[Row]) -> None:
        """Append rows to the file, flush it to the disk, and remember them."""
        if rows:
            self.append(rows)
            self.rows += rows


class LongJournal(Appender, Generic[Key, Row]):
    """An opened journal whose rows stay in the file: `places` says at which byte the last row of each key begins."""

    def __init__(self, path: Path, kind: type[Row], key: Callable[[Row], Key], places: dict[Key, int]) -> None:
        super().__init__(path)
        self.kind = kind
        self.key = key
        self.places = places

    def add(self, rows: Sequence[Row]) -> None:
        """Append rows to the file, flush it to the disk, and remember where they are."""
        if rows:
            end = self.path.stat().st_size
            for row, size in zip(rows, self.append(rows), strict=True):
                self.places[self.key(row)] = end
                end += size

    def rows(self, keys: Iterable[Key]) -> Iterator[Row]:
        """The rows of these keys, one at a time."""
        decoder = msgspec.json.Decoder(self.kind)
        with opened(self.path) as file:
            for key in keys:
                file.seek(self.places[key])
                yield decoder.decode(file.readline())


def open_journal(path: Path, header: Heading, kind: type[Row], *, force: bool = False) -> Journal[Row]:
    """Open the journal of a run to go on with, or begin one.

    Raises DataError where it is another run's, or broken; with `force` that one is begun again.
    """
    return Journal(path, [row for _, row in _begun(path, header, kind, force=force)])


def open_long_journal(
    path: Path, header: Heading, kind: type[Row], key: Callable[[Row], Key], *, force: bool = False
) -> LongJournal[Key, Row]:
    """The same of one whose rows are not held."""
    return LongJournal(path, kind, key, {key(row): at for at, row in _begun(path, header, kind, force=force)})


def _begun(path: Path, header: Heading, kind: type[Row], *, force: bool) -> Iterator[tuple[int, Row]]:
    """What the run's journal has, each row with its first byte; it is begun where it has none."""
    if not force and path.exists() and path.stat().st_size:
        found, rows = _placed(path, type(header), kind)
        if first := next(rows, None):
            if getattr(found, "of", "") != getattr(header, "of", ""):
                raise DataError(f"is the beginning of a {found.of}", where=path, hint="Use --force to begin again.")
            check_same(found.provenance, header.provenance, where=path)
            yield first
            yield from rows
            return
    # One without rows is nobody's: its run was stopped before it had made anything.
    typed_files.write_jsonl(path, [header])


def read_journal(path: Path, header: type[Any], kind: type[Row]) -> tuple[Any, list[Row]]:
    """(first line, rows) of a journal; a last line without its end is passed over.

    Raises DataError with the line's number where one is broken.
    """
    first, rows = each_of_journal(path, header, kind)
    return first, list(rows)


def each_of_journal(path: Path, header: type[Any], kind: type[Row]) -> tuple[Any, Iterator[Row]]:
    """The same with one row at a time."""
    first, rows = _placed(path, header, kind)
    return first, (row for _, row in rows)


def _placed(path: Path, header: type[Any], kind: type[Row]) -> tuple[Any, Iterator[tuple[int, Row]]]:
    lines = _decoded(path, header, kind)
    for _, first in lines:
        return first, lines
    raise DataError("holds nothing", where=path, hint="Use --force to begin again.")


def _decoded(path: Path, header: type[Any], kind: type[Row]) -> Iterator[tuple[int, Any]]:
    at, asked = 0, header
    with opened(path) as file:
        for number in count(1):
            line = file.readline(limits.DATA_BYTES + 1 - at)
            if not line.endswith(b"\n"):
                break
            try:
                yield at, msgspec.json.decode(line, type=asked)
            except typed_files.UNREADABLE as error:
                what = f"not a {asked.__name__}: {error}"
                raise DataError(what, where=f"{path}, line {number}", hint="Use --force to begin again.") from None
            at, asked = at + len(line), kind
    if at + len(line) > limits.DATA_BYTES:
        raise typed_files.too_large(path, limits.DATA_BYTES)


def end_journal(path: Path) -> None:
    """Take away the journal of `NAME.SUFFIX`, which is written, or of which nothing was made."""
    partial_path(path).unlink(missing_ok=True)


def partial_path(path: Path) -> Path:
    """Where a run that has not ended keeps what it has made of `NAME.SUFFIX`: `NAME.partial.jsonl`."""
    return path.with_name(f"{path.stem}.partial.jsonl")
