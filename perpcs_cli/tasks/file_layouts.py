"""The file layouts that hold users: LaMP's official files, the published Per-PCs layout, our own users.jsonl.

A file is recognized by its content:

- LaMP questions: `[{"id", "input", "profile": [item, …], "user_id"?}]`
- labels: `{"task": "LaMP_4", "golds": [{"id", "output"}]}`
- Per-PCs: `[{"user_id", "profile": [item, …], "query": [{"id", "input", "gold"?}]}]`
- users.jsonl: one `{"user_id", "history", "queries", "profile"?}` a line
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeGuard

import msgspec

from perpcs_cli.artifacts.io import limits, typed_files
from perpcs_cli.errors import DataError

DIGITS = 400
"""Of the longest number: more are in nobody's data."""

FORMS = (
    "Readable are LaMP's questions and outputs, the Per-PCs layout (users.json, users_label.json) and "
    "users.jsonl; a directory may hold any one of them."
)


class Problem(msgspec.Struct, frozen=True):
    """A broken record: where it is, which field, and what is wrong with it."""

    file: str
    record: str
    field: str
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.file, self.record, self.field, self.message) if part)


@dataclass(frozen=True)
class Unreadable:
    """What stands where a file has a value that JSON cannot say: only that value's record is refused."""

    why: str

    @classmethod
    def number(cls, digits: str) -> Unreadable:
        """NaN, infinity, or a number without end."""
        return cls(f"{digits:.20} is no number that can be read")


@dataclass(frozen=True)
class RawUser:
    """A user as a file has it, unchecked."""

    file: str
    record: str
    user_id: object
    history: object
    history_field: str
    queries: object
    queries_field: str
    profile: object = None
    extra: frozenset[str] = frozenset()
    """Names of fields that no layout knows."""
    joins: bool = False
    """Whether other records of the same user add to this one, as LaMP's questions with a `user_id` do."""


@dataclass(frozen=True)
class RawGold:
    """A line of a label file, unchecked."""

    file: str
    record: str
    id: object
    output: object


@dataclass
class Sources:
    """What all files hold together."""

    users: list[Iterable[RawUser]] = field(default_factory=list)
    """Those of each file. Of lines, each is read when it is asked for, and none is kept."""
    golds: list[RawGold] = field(default_factory=list)
    tasks: dict[str, str] = field(default_factory=dict)
    """Label file → the LaMP task that it names."""
    problems: dict[Path, list[Problem]] = field(default_factory=dict)
    """What cannot be read, by file; known when the users have been asked for."""


def read_sources(paths: Sequence[Path]) -> Sources:
    """Read files and directories. Raises DataError for a file that is missing or has none of the layouts."""
    sources = Sources()
    for file in dict.fromkeys(file for path in paths for file in _files(path)):
        _read(file, sources)
    return sources


def _files(path: Path) -> list[Path]:
    """The data files of a directory, first layout found: Per-PCs, users.jsonl, LaMP's questions."""
    if not path.is_dir():
        return [path]
    layouts = (
        ["users.json", "users_label.json"],
        ["users.jsonl"],
        sorted(p.name for p in path.iterdir() if p.name.endswith(("questions.json", "outputs.json"))),
    )
    for names in layouts:
        files = [path / name for name in names if (path / name).is_file()]
        if files:
            return files
    raise DataError("holds no users.json, users.jsonl or *questions.json", where=path, hint=FORMS)


def _read(path: Path, sources: Sources) -> None:
    problems = sources.problems[path] = []
    # A pipe can be read but once.
    if path.is_file() and _holds_lines(path):
        sources.users.append(_each_own(path, typed_files.lines(path), problems, "another value follows the first"))
        return
    data = typed_files.without_mark(typed_files.read_bytes(path))
    try:
        content = _decoded(data)
    except typed_files.UNREADABLE as error:
        numbered = ((number, line) for number, line in enumerate(data.splitlines(), start=1) if line.strip())
        sources.users.append(_each_own(path, numbered, problems, str(error)))
        return
    if isinstance(content, dict) and isinstance(content.get("golds"), list):
        sources.tasks[str(path)] = str(content.get("task", ""))
        for place, gold in enumerate(content["golds"]):
            record = f"golds[{place}]"
            if _is_object(gold, path, record, problems):
                sources.golds.append(RawGold(str(path), record, gold.get("id"), gold.get("output")))
    elif isinstance(content, dict) and "user_id" in content:
        sources.users.append([_own(path, "line 1", content)])
    elif isinstance(content, list):
        convert = _question if any(isinstance(r, dict) and "input" in r for r in content) else _per_pcs
        sources.users.append(
            [
                convert(path, f"[{place}]", record)
                for place, record in enumerate(content)
                if _is_object(record, path, f"[{place}]", problems)
            ]
        )
    else:
        raise DataError("has none of the known layouts", where=path, hint=FORMS)


def _decoded(data: bytes) -> Any:
    """A JSON value. What JSON cannot say stands in it as `Unreadable`. Raises one of UNREADABLE for all else."""
    try:
        return msgspec.json.decode(data)
    except typed_files.UNREADABLE as error:
        try:
            # Python's own parser goes on after a NaN and half a character; bytes that are no text become halves.
            content = json.loads(
                data.decode(errors="surrogateescape"),
                parse_constant=Unreadable.number,
                parse_int=_int,
                parse_float=_float,
            )
        except typed_files.UNREADABLE:
            raise error from None
        if limits.too_deep(content):
            raise error
        return _marked(content)


def _int(digits: str) -> int | Unreadable:
    return int(digits) if len(digits) <= DIGITS else Unreadable.number(digits)


def _float(digits: str) -> float | Unreadable:
    number = float(digits)
    return number if math.isfinite(number) else Unreadable.number(digits)


def _marked(value: Any) -> Any:
    """The value with `Unreadable` for each text that holds half a character. Names of fields are shown at most."""
    if isinstance(value, dict):
        return {key.encode(errors="replace").decode(): _marked(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_marked(inner) for inner in value]
    if isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
        return Unreadable("holds half a character, or bytes that are no UTF-8")
    return value


def _holds_lines(path: Path) -> bool:
    """Whether the first line is a JSON value and there is another one: then the whole is none."""
    first = list(islice(typed_files.lines(path), 2))
    try:
        _decoded(first[0][1] if first else b"")
    except typed_files.UNREADABLE:
        return False
    return len(first) > 1


def _each_own(path: Path, lines: Iterable[tuple[int, bytes]], problems: list[Problem], error: str) -> Iterator[RawUser]:
    """The users of users.jsonl: a broken line is a problem, and a file without any user is no users.jsonl."""
    some = False
    for number, line in lines:
        try:
            row = _decoded(line)
        except typed_files.UNREADABLE as broken:
            problems.append(Problem(str(path), f"line {number}", "", f"not valid JSON: {broken}"))
            continue
        if _is_object(row, path, f"line {number}", problems):
            some = some or "user_id" in row
            yield _own(path, f"line {number}", row)
    if not some:
        raise DataError(f"not valid JSON: {error}", where=path, hint=FORMS)


def _is_object(value: object, path: Path, record: str, problems: list[Problem]) -> TypeGuard[dict[str, Any]]:
    """Whether `value` is a JSON object; a problem where it is not."""
    if isinstance(value, dict):
        return True
    problems.append(Problem(str(path), record, "", "is not an object"))
    return False


def _question(path: Path, record: str, row: dict[str, Any]) -> RawUser:
    """LaMP's user split: each question is a user of its own, unless it names its `user_id`."""
    return RawUser(
        file=str(path),
        record=record,
        user_id=row.get("user_id", row.get("id")),
        history=row.get("profile"),
        history_field="profile",
        queries=[{key: row[key] for key in ("id", "input", "output", "gold") if key in row}],
        queries_field="",
        extra=frozenset(row) - {"id", "input", "output", "gold", "profile", "user_id"},
        joins="user_id" in row,
    )


def _per_pcs(path: Path, record: str, row: dict[str, Any]) -> RawUser:
    return RawUser(
        file=str(path),
        record=record,
        user_id=row.get("user_id"),
        history=row.get("profile"),
        history_field="profile",
        queries=row.get("query", []),
        queries_field="query",
        extra=frozenset(row) - {"user_id", "profile", "query"},
    )


def _own(path: Path, record: str, row: dict[str, Any]) -> RawUser:
    return RawUser(
        file=str(path),
        record=record,
        user_id=row.get("user_id"),
        history=row.get("history", []),
        history_field="history",
        queries=row.get("queries", []),
        queries_field="queries",
        profile=row.get("profile"),
        extra=frozenset(row) - {"user_id", "history", "queries", "profile"},
    )
