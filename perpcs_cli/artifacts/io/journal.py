"""Journals: append-only JSONL files that survive a crash, with a first line that says whose they are.

What takes long is kept in a journal while it is made: every row is on disk before the next one is begun. A run that
was stopped goes on from the journal of its own settings and no other.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from perpcs_cli.artifacts.io import typed_files
from perpcs_cli.artifacts.io.atomic import writing
from perpcs_cli.artifacts.io.provenance import Provenance, check_same
from perpcs_cli.errors import DataError

Row = TypeVar("Row")
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

    def append(self, rows: Iterable[object]) -> None:
        """Append rows and flush them to the disk."""
        lines = b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
        with writing(self.path), self.path.open("ab") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())


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


def open_journal(path: Path, header: Heading, kind: type[Row], *, force: bool = False) -> Journal[Row]:
    """Open the journal of a run to go on with, or begin one.

    Raises DataError where it is another run's, or broken; with `force` that one is begun again.
    """
    if not force and path.exists() and path.stat().st_size:
        found, rows = read_journal(path, type(header), kind)
        if rows:
            if getattr(found, "of", "") != getattr(header, "of", ""):
                raise DataError(f"is the beginning of a {found.of}", where=path, hint="Use --force to begin again.")
            check_same(found.provenance, header.provenance, where=path)
            return Journal(path, rows)
    # One without rows is nobody's: its run was stopped before it had made anything.
    typed_files.write_jsonl(path, [header])
    return Journal(path, [])


def read_journal(path: Path, header: type[Any], kind: type[Row]) -> tuple[Any, list[Row]]:
    """(first line, rows) of a journal; a last line without its end is passed over.

    Raises DataError with the line's number where one is broken.
    """
    lines = typed_files.read_bytes(path).split(b"\n")[:-1]
    decoded: list[Any] = []
    for number, line in enumerate(lines, start=1):
        try:
            decoded.append(msgspec.json.decode(line, type=kind if decoded else header))
        except typed_files.UNREADABLE as error:
            what = f"not a {(kind if decoded else header).__name__}: {error}"
            raise DataError(what, where=f"{path}, line {number}", hint="Use --force to begin again.") from None
    if not decoded:
        raise DataError("holds nothing", where=path, hint="Use --force to begin again.")
    return decoded[0], decoded[1:]


def end_journal(path: Path) -> None:
    """Take away the journal of `NAME.SUFFIX`, which is written, or of which nothing was made."""
    partial_path(path).unlink(missing_ok=True)


def partial_path(path: Path) -> Path:
    """Where a run that has not ended keeps what it has made of `NAME.SUFFIX`: `NAME.partial.jsonl`."""
    return path.with_name(f"{path.stem}.partial.jsonl")
