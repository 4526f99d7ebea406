"""Shards: a command over users divided between jobs, on one machine or several that share a file system.

Files of which there is one a user are written side by side. For a file that all users share, each shard has its own
place beside it, with its name in the file's: the command without a shard takes what all of them have made, makes what
is missing, and writes the file. What a shard has made says that it was made from what the file will be made from, so
that one of other settings is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import TypeVar

from perpcs_cli.artifacts.io.journal import Header, Row, each_of_journal, end_journal, partial_path
from perpcs_cli.artifacts.io.lock import locked
from perpcs_cli.artifacts.io.provenance import check_same
from perpcs_cli.steps.report import Report

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """One of `of` parts of what a command was asked for, `number` from 1."""

    number: int
    of: int

    def part(self, things: Sequence[T], unit: int = 1) -> list[T]:
        """Its part of `things`: neighbours, in whole units, as many units as any other shard or one more."""
        units = -(-len(things) // unit)
        first, last = (units * number // self.of * unit for number in (self.number - 1, self.number))
        return list(things[first:last])

    def path(self, path: Path) -> Path:
        """What it has in the place of a file or directory that all shards share."""
        return path.with_name(f"{path.stem}.shard-{self.number}-of-{self.of}{path.suffix}")


def paths(path: Path, ending: str = "") -> list[Path]:
    """What shards have in the place of `path`, whatever their number; of other files than it by their `ending`."""
    return sorted(path.parent.glob(f"{escape(path.stem)}.shard-*-of-*{ending or path.suffix}"))


def without_shard(stem: str) -> str:
    """The name, without its ending, of the file that a shard has this name for."""
    return re.sub(r"\.shard-[0-9]+-of-[0-9]+$", "", stem)


def journals(path: Path) -> list[Path]:
    """Where shards keep their rows of the file `path`."""
    return paths(path, ".partial.jsonl")


@contextmanager
def held(place: Path, shard: Shard | None, report: Report) -> Iterator[None]:
    """Lock what a command writes: shards of it run side by side, each once, and never beside the command itself."""
    if shard is None:
        with locked(place, report.note):
            yield
    else:
        with locked(place, report.note, shared=True), locked(shard.path(place), report.note):
            yield


def journal_of(path: Path, shard: Shard | None) -> Path:
    """Where a shard keeps its rows of the file `path`, and the command itself those that it has made so far."""
    return partial_path(shard.path(path) if shard else path)


def rows_of_shards(path: Path, header: Header, kind: type[Row], *, force: bool = False) -> Iterator[Row]:
    """The rows that all shards have made of the file `path`, one at a time.

    Raises DataError where they are of other settings, or broken; with `force` those are passed over.
    """
    for journal in journals(path):
        start, rows = each_of_journal(journal, Header, kind)
        if not force or start.provenance == header.provenance:
            check_same(start.provenance, header.provenance, where=journal)
            yield from rows


def end_journals(path: Path) -> None:
    """Take away what was kept of the file `path`, which is written: the command's journal and those of its shards."""
    for journal in journals(path):
        journal.unlink(missing_ok=True)
    end_journal(path)
