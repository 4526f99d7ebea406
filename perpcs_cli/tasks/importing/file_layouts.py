"""The file layouts that hold users: LaMP's official files, the published Per-PCs layout, our own users.jsonl.

A file is recognized by its content:

- LaMP questions: `[{"id", "input", "profile": [item, …], "user_id"?}]`
- labels: `{"task": "LaMP_4", "golds": [{"id", "output"}]}`
- Per-PCs: `[{"user_id", "profile": [item, …], "query": [{"id", "input", "gold"?}]}]`
- users.jsonl: one `{"user_id", "history", "queries", "profile"?}` a line
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeGuard

import msgspec

from perpcs_cli.artifacts.io import typed_files
from perpcs_cli.artifacts.users import text_of
from perpcs_cli.errors import DataError
from perpcs_cli.tasks.importing.json_arrays import is_list, records
from perpcs_cli.tasks.importing.json_values import decoded

FORMS = (
    "Readable are LaMP's questions and outputs, the Per-PCs layout (users.json, users_label.json) and "
    "users.jsonl; a directory may hold any one of them."
)

LINES = "It is a list of objects, or has one object a line; CSV and Parquet are told by the ending."


class Problem(msgspec.Struct, frozen=True):
    """A broken record: where it is, which field, and what is wrong with it."""

    file: str
    record: str
    field: str
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.file, self.record, self.field, self.message) if part)


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

    def place(self, name: str, number: int) -> str:
        """Where the item or query `number` of a list is; a record that is one of them names no list."""
        if name:
            return f"user {text_of(self.user_id)!r}, {name}[{number}]"
        return f"user {text_of(self.user_id)!r}, {'question ' if self.history_field else ''}{self.record}"


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
    if path.is_file() and is_list(path):
        sources.users.append(_each_listed(path, problems))
        return
    if path.is_file() and _holds_lines(path):
        lines = ((f"line {number}", line) for number, line in typed_files.lines(path))
        sources.users.append(_each_own(path, lines, problems, "another value follows the first"))
        return
    data = typed_files.without_mark(typed_files.read_bytes(path))
    try:
        content = decoded(data)
    except typed_files.UNREADABLE as error:
        sources.users.append(_each_own(path, _numbered(data), problems, str(error)))
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
        rows = enumerate(content)
        listed = [(f"[{n}]", row) for n, row in rows if _is_object(row, path, f"[{n}]", problems)]
        sources.users.append([_listed(path, record, row) for record, row in listed])
    else:
        raise DataError("has none of the known layouts", where=path, hint=FORMS)


def _each_listed(path: Path, problems: list[Problem]) -> Iterator[RawUser]:
    """The users of a JSON list, record by record: a broken one is a problem."""
    for record, row in _objects(path, ((f"[{n}]", data) for n, data in enumerate(records(path))), problems):
        yield _listed(path, record, row)


def _listed(path: Path, record: str, row: dict[str, Any]) -> RawUser:
    """A record of a list: a question has an `input`, or at least an `id`; a user has queries."""
    asks = "input" in row or ("id" in row and "query" not in row)
    return (_question if asks else _per_pcs)(path, record, row)


def _holds_lines(path: Path) -> bool:
    """Whether the first line is a JSON value and there is another one: then the whole is none."""
    first = list(islice(typed_files.lines(path), 2))
    try:
        decoded(first[0][1] if first else b"")
    except typed_files.UNREADABLE:
        return False
    return len(first) > 1


def read_records(path: Path, problems: list[Problem]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, object) for each object of a file: a JSON list of them, or one a line, of which none is kept.

    What is none is a problem. Raises DataError for a file that holds no JSON object at all.
    """
    # A pipe can be read but once.
    if path.is_file() and not is_list(path) and _holds_lines(path):
        lines = ((f"line {number}", line) for number, line in typed_files.lines(path))
        yield from _some(_objects(path, lines, problems), path, "another value follows the first")
        return
    data = typed_files.without_mark(typed_files.read_bytes(path))
    try:
        content = decoded(data)
    except typed_files.UNREADABLE as error:
        yield from _some(_objects(path, _numbered(data), problems), path, str(error))
        return
    if not isinstance(content, list | dict):
        raise DataError("holds no JSON object", where=path, hint=LINES)
    rows = [("line 1", content)] if isinstance(content, dict) else [(f"[{n}]", row) for n, row in enumerate(content)]
    yield from ((record, row) for record, row in rows if _is_object(row, path, record, problems))


def _some(rows: Iterable[tuple[str, dict[str, Any]]], path: Path, error: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows. Raises DataError where there is none."""
    number = 0
    for number, row in enumerate(rows, start=1):  # noqa: B007
        yield row
    if not number:
        raise DataError(f"not valid JSON: {error}", where=path, hint=LINES)


def _each_own(path: Path, lines: Iterable[tuple[str, bytes]], problems: list[Problem], error: str) -> Iterator[RawUser]:
    """The users of users.jsonl: a broken line is a problem, and a file without any user is no users.jsonl."""
    some = False
    for record, row in _objects(path, lines, problems):
        some = some or "user_id" in row
        yield _own(path, record, row)
    if not some:
        raise DataError(f"not valid JSON: {error}", where=path, hint=FORMS)


def _objects(
    path: Path, values: Iterable[tuple[str, bytes]], problems: list[Problem]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, object) for each of (where, JSON); what is broken, or another value, is a problem."""
    for record, data in values:
        try:
            row = decoded(data)
        except typed_files.UNREADABLE as broken:
            problems.append(Problem(str(path), record, "", f"not valid JSON: {broken}"))
            continue
        if _is_object(row, path, record, problems):
            yield record, row


def _numbered(data: bytes) -> Iterator[tuple[str, bytes]]:
    """(where, line) for the lines that are not blank."""
    return ((f"line {number}", line) for number, line in enumerate(data.splitlines(), start=1) if line.strip())


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
