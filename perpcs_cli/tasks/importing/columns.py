"""The data of tasks whose queries have fields: JSON, CSV or Parquet, in the columns that the task's file names.

A record is a user with lists of items, or one item of a user. Where a column is not there, the field's own name is
looked for, so that the users.jsonl that `perpcs import` writes is read as well.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

from perpcs_cli.artifacts.io import limits, typed_files
from perpcs_cli.artifacts.io.reading import opened
from perpcs_cli.artifacts.users import text_of
from perpcs_cli.errors import DataError, UsageError
from perpcs_cli.tasks.importing.file_layouts import Problem, RawUser, Sources, read_records
from perpcs_cli.tasks.spec import Task

ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
"""Of the files that are taken from a directory, unless it has a users.jsonl."""
ROWS = 10_000
"""Read at once of a Parquet file."""


def read_columns(paths: Sequence[Path], task: Task) -> Sources:
    """Read files and directories. Raises DataError for a file that is missing or has no such form, when its users are
    asked for."""
    reader = _Reader(task)
    for file in dict.fromkeys(file for path in paths for file in _files(path)):
        problems = reader.sources.problems[file] = []
        reader.sources.users.append(reader.users(file, problems))
    return reader.sources


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    if (path / "users.jsonl").is_file():
        return [path / "users.jsonl"]
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in ENDINGS and file.is_file())
    if not files:
        raise DataError(f"holds no file that ends in {', '.join(ENDINGS)}", where=path)
    return files


def _records(path: Path, problems: list[Problem]) -> Iterator[tuple[str, dict[str, Any]]]:
    ending = path.suffix.lower()
    if ending in (".csv", ".tsv"):
        yield from _delimited(path, "," if ending == ".csv" else "\t", problems)
    elif ending == ".parquet":
        yield from _parquet(path)
    else:
        yield from read_records(path, problems)


def _delimited(path: Path, separator: str, problems: list[Problem]) -> Iterator[tuple[str, dict[str, Any]]]:
    rows = csv.reader(io.StringIO(typed_files.read_text(path), newline=""), delimiter=separator, strict=True)
    names: list[str] | None = None
    try:
        for row in rows:
            if not row:
                continue
            if names is None:
                names = row
                if twice := [name for name, count in Counter(names).items() if count > 1]:
                    raise DataError(f"has two columns {twice[0]!r:.60}", where=path)
            elif len(row) == len(names):
                yield f"line {rows.line_num}", dict(zip(names, row, strict=True))
            else:
                message = f"has {len(row)} values, and the first line names {len(names)} columns"
                problems.append(Problem(str(path), f"line {rows.line_num}", "", message))
    except csv.Error as error:
        raise DataError(f"not valid CSV: {error}", where=f"{path}, line {rows.line_num}") from None
    if names is None:
        raise DataError("is empty", where=path, hint="The first line names the columns.")


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        hint = "Install it with: pip install 'perpcs[parquet]'; or give the data as CSV or JSON lines."
        raise UsageError("Parquet files are read with pyarrow, which is not installed", where=path, hint=hint) from None
    number = 0
    with opened(path) as file:
        try:
            table = parquet.ParquetFile(file)
            groups = [table.metadata.row_group(place) for place in range(table.metadata.num_row_groups)]
            if sum(max(group.total_byte_size, 0) for group in groups) > limits.DATA_BYTES:
                raise DataError(f"is larger than {limits.DATA_BYTES >> 20} MiB, the most that is read", where=path)
            for batch in table.iter_batches(batch_size=ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", {name: _plain(value) for name, value in row.items()}
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise DataError(f"not a valid Parquet file: {error}", where=path) from None


def _plain(value: Any) -> Any:
    """A value of Parquet as JSON has it."""
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return {name: _plain(inner) for name, inner in value.items()} if isinstance(value, dict) else value


def _each(rows: object, convert: Callable[[str, dict[str, Any]], dict[str, Any]], prefix: str = "") -> object:
    """The rows of a list converted, with names for those without an id; the importer refuses what is none."""
    if not isinstance(rows, list):
        return rows
    return [convert(f"{prefix}{place}", row) if isinstance(row, dict) else row for place, row in enumerate(rows)]


@dataclass
class _Reader:
    """Turns records into users as the importer knows them."""

    task: Task
    sources: Sources = field(default_factory=Sources)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By user and kind: the rows without an id so far."""

    def users(self, file: Path, problems: list[Problem]) -> Iterator[RawUser]:
        """What the records of a file say, each read when it is asked for."""
        return (self.user(file, record, row) for record, row in _records(file, problems))

    def user(self, file: Path, record: str, row: dict[str, Any]) -> RawUser:
        """What a record says: a user, or one item of one."""
        columns = self.task.columns
        user_id, profile = row.get(columns.user_id), row.get(columns.profile)
        if columns.history in row or columns.queries in row:
            return RawUser(
                file=str(file),
                record=record,
                user_id=user_id,
                history=_each(row.get(columns.history, []), self.item),
                history_field=columns.history,
                queries=_each(row.get(columns.queries, []), self.query, "q"),
                queries_field=columns.queries,
                profile=profile,
                extra=frozenset(row) - {columns.user_id, columns.history, columns.queries, columns.profile},
            )
        asked = text_of(row.get(columns.part)) in columns.query_parts
        kind = "q" if asked else ""
        name = f"{kind}{self.counts[str(user_id), kind]}"
        self.counts[str(user_id), kind] += 1
        one = self.query(name, row) if asked else self.item(name, row)
        return RawUser(
            file=str(file),
            record=record,
            user_id=user_id,
            history=[] if asked else [one],
            history_field="",
            queries=[one] if asked else [],
            queries_field="",
            profile=profile,
            extra=self.unknown(row) - {columns.user_id, columns.profile, columns.part},
            joins=True,
        )

    def item(self, name: str, row: dict[str, Any]) -> dict[str, Any]:
        """A history item by the task's fields; `name` is its id where it has none."""
        found = self.common(name, row)
        for one in (*self.task.required, *self.task.optional):
            if (value := self.value(row, one)) is not None:
                found[one] = self.answer(value) if one == self.task.output_field else value
        return found

    def query(self, name: str, row: dict[str, Any]) -> dict[str, Any]:
        """A query as users.jsonl has it."""
        row = {**row, **(row["fields"] if isinstance(row.get("fields"), dict) else {})}
        same = self.task.output_field == self.task.input_field
        output = None if same else self.value(row, self.task.output_field)
        output = row.get("output") if output is None else output
        found = {"id": self.common(name, row)["id"]}
        found["fields"] = {one: self.value(row, one) for one in self.task.query_fields}
        return found if output in (None, "") else {**found, "output": self.answer(output)}

    def common(self, name: str, row: dict[str, Any]) -> dict[str, Any]:
        """Id and date."""
        columns = self.task.columns
        date = row.get(columns.date)
        given = row.get(columns.id)
        return {"id": name if given in (None, "") else given, **({} if date in (None, "") else {"date": date})}

    def value(self, row: dict[str, Any], name: str) -> Any:
        """A field's value, in its column or under its own name."""
        column = self.task.columns.fields.get(name, name)
        return row[column] if column in row else row.get(name)

    def answer(self, value: object) -> object:
        """The answer that a value stands for."""
        return self.task.columns.answers.get(text_of(value) or "", value)

    def unknown(self, row: dict[str, Any]) -> frozenset[str]:
        """The columns of an item that the task has no use for."""
        columns, task = self.task.columns, self.task
        names = {*task.required, *task.optional, *task.query_fields}
        return frozenset(row) - names - {*columns.fields.values(), columns.id, columns.date}
