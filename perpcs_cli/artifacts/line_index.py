"""Where in a large file of lines each one stands, so that a command for one user does not read those of all others.

An index is kept in the cache for a file that was read to its end without a mistake, and believed while the file's
size, times and inode are what they were. What is read by it must still be what was looked for; otherwise the file is
read as if there were none. It has digests of ids, and no ids.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec

from perpcs_cli.artifacts.caches import cache_directory, file_states
from perpcs_cli.artifacts.io import atomic, hashing, limits, typed_files
from perpcs_cli.artifacts.io.reading import opened
from perpcs_cli.artifacts.io.typed_files import Span
from perpcs_cli.errors import DataError, PerpcsError

SMALL = 1 << 20
"""Bytes up to which a file is sooner read than looked up."""
INDEX_BYTES = 1 << 30
KEY, NUMBER = 8, 8
ENTRY = KEY + 2 * NUMBER
"""Bytes of an entry: a digest of the id, the line's first byte and its length. Entries are sorted."""

T = TypeVar("T")


class Heading(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="format", tag="perpcs.lines/1"
):
    """The first line of an index; its entries follow."""

    state: str
    """Of the file that it is of."""
    sha256: str
    """Of the entries."""


@dataclass(frozen=True)
class Index:
    """The entries of an index."""

    entries: bytes

    def spans(self, name: str) -> Iterator[Span]:
        """Where lines of that name may stand."""
        key, count = _key(name), len(self.entries) // ENTRY
        at = bisect_left(range(count), key, key=self._key_at)
        while at < count and self._key_at(at) == key:
            start = at * ENTRY + KEY
            yield self._number(start), self._number(start + NUMBER)
            at += 1

    def _key_at(self, place: int) -> bytes:
        return self.entries[place * ENTRY : place * ENTRY + KEY]

    def _number(self, start: int) -> int:
        return int.from_bytes(self.entries[start : start + NUMBER], "big")


def find_rows(
    path: Path,
    wanted: Collection[str],
    kind: type[T],
    each: Callable[[Path], Iterable[tuple[Span, T]]],
    name: Callable[[T], str],
) -> dict[str, T]:
    """The rows of a file whose names are among `wanted`, in any order; nothing else is held.

    `each` reads the whole file, and raises where it is wrong; it is spared where the file has not changed since.
    """
    index, wanted = recall_index(path), set(wanted)
    found = _looked_up(path, index, wanted, kind, name) if index else None
    if found is not None:
        return found
    found = {}

    def take(row: T) -> None:
        if name(row) in wanted:
            found[name(row)] = row

    _indexed(path, each, name, take)
    return found


def each_found(
    path: Path,
    wanted: Sequence[str],
    kind: type[T],
    each: Callable[[Path], Iterable[tuple[Span, T]]],
    name: Callable[[T], str],
) -> Iterator[T]:
    """The same rows one at a time, in the order of `wanted`, of a file that can be read twice: none of them is held."""
    index, left = recall_index(path), list(wanted)
    fresh = index is None
    index = index or _indexed(path, each, name)
    while left:
        with opened(path) as file:
            for place, one in enumerate(left):
                rows = _rows(file, index, one, kind, name)
                yield from rows or ()
                if rows == [] and not fresh:
                    left, fresh = left[place:], True
                    break
            else:
                return
        index = _indexed(path, each, name)


def _indexed(
    path: Path,
    each: Callable[[Path], Iterable[tuple[Span, T]]],
    name: Callable[[T], str],
    take: Callable[[T], object] = lambda row: None,
) -> Index:
    """The index of a file that is read to its end, and kept if it can be; `take` gets each row."""
    state, entries = _state(path), []
    for span, row in each(path):
        take(row)
        entries.append(entry_of(name(row), span))
    if state and state == _state(path):
        write_index(_place(path), state, entries)
    return Index(b"".join(sorted(entries)))


def recall_index(path: Path) -> Index | None:
    """The index of a file that has not changed since it was read to its end."""
    state = _state(path)
    return read_index(_place(path), state) if state else None


def read_index(place: Path, state: str) -> Index | None:
    """The index at `place` if it is of a file with this state. It is a cache: a broken one is none."""
    try:
        first, _, entries = typed_files.read_bytes(place, INDEX_BYTES).partition(b"\n")
        heading = msgspec.json.decode(first, type=Heading)
    except (DataError, *typed_files.UNREADABLE):
        return None
    whole = len(entries) % ENTRY == 0 and heading.sha256 == hashing.digest_bytes(entries)
    return Index(entries) if whole and heading.state == state else None


def write_index(place: Path, state: str, entries: Collection[bytes]) -> None:
    """Keep the entries of a file that had this state when they were read."""
    body = b"".join(sorted(entries))
    heading = msgspec.json.encode(Heading(state=state, sha256=hashing.digest_bytes(body)))
    try:
        with atomic.replacing(place) as temporary:
            temporary.write_bytes(heading + b"\n" + body)
    except PerpcsError:
        # Where there is no place for caches, the file is read each time.
        return


def entry_of(name: str, span: Span) -> bytes:
    """What an index has of a line of that name."""
    return _key(name) + b"".join(number.to_bytes(NUMBER, "big") for number in span)


def _looked_up(
    path: Path, index: Index, wanted: Collection[str], kind: type[T], name: Callable[[T], str]
) -> dict[str, T] | None:
    """The rows by the index; None where one is not where it says."""
    found = {}
    with opened(path) as file:
        for one in wanted:
            rows = _rows(file, index, one, kind, name)
            if rows == []:
                return None
            if rows:
                found[one] = rows[0]
    return found


def _rows(file: BinaryIO, index: Index, wanted: str, kind: type[T], name: Callable[[T], str]) -> list[T] | None:
    """The row of that name, or none where it is not where the index says; None where the index tells of none."""
    spans = list(index.spans(wanted))
    for first, length in spans:
        file.seek(first)
        try:
            row = msgspec.json.decode(file.read(min(length, limits.DATA_BYTES)), type=kind)
        except typed_files.UNREADABLE:
            continue
        if name(row) == wanted:
            return [row]
    return [] if spans else None


def _state(path: Path) -> str | None:
    """A digest of what tells that a file has not changed; None for one that is small, has just changed or is none."""
    if not path.is_file() or not (states := file_states([path])) or not states[0] or states[0][0] <= SMALL:
        return None
    return hashing.digest_value(states[0])


def _place(path: Path) -> Path:
    """Where the index of a file lies: one for each, whatever becomes of it."""
    return cache_directory() / "lines" / hashing.digest_value(os.fspath(path.resolve()))


def _key(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=KEY).digest()
