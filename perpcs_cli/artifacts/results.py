"""`results.jsonl`: one row for each cell of a sweep, beside the directory of the steps that it came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from perpcs_cli.artifacts.io import safe_paths, typed_files
from perpcs_cli.artifacts.io.journal import Appender
from perpcs_cli.artifacts.io.limits import Count, FromZero, too_deep
from perpcs_cli.errors import DataError

FILE = "results.jsonl"


class Result(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="format", tag="perpcs.result/2"
):
    """One cell: a method with settings, run with a seed and evaluated on the split's targets."""

    experiment: str
    method: str
    task: str
    model: str
    seed: int
    settings: dict[str, Any]
    """What the experiment sets for this cell, as `assemble.top-k`: 2."""
    common: dict[str, Any] = {}
    """What the sweep sets for all cells, by the same names, where it can concern this cell."""
    metrics: dict[str, float]
    count: Count
    """Queries."""
    user_count: Count
    predictions: str
    """Path relative to the directory of `results.jsonl`."""
    users: str
    """`users.jsonl` with the references, relative likewise."""
    digest: str
    """Of the experiment, the method and everything that the predictions depend on."""
    seconds: dict[str, FromZero]
    """Of each step that the cell needs, as measured when it ran, for this cell or another one."""

    def __post_init__(self) -> None:
        """Refuse settings that are nested without end, which a file may have."""
        if too_deep(self.settings) or too_deep(self.common):
            raise ValueError("the settings are nested too deep")


def read_results(path: Path) -> list[Result]:
    """The rows in file order. A last line that was cut off is passed over, as `open_results` will drop it.

    Raises DataError for a broken line, a row that stands twice and a path that leaves the directory.
    """
    rows: list[Result] = []
    seen: set[str] = set()
    for number, line in enumerate(typed_files.read_bytes(path).split(b"\n")[:-1], start=1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            row = msgspec.json.decode(line, type=Result)
        except typed_files.UNREADABLE as error:
            raise DataError(f"not a row of perpcs results: {error}", where=where) from None
        if row.digest in seen:
            raise DataError(f"the cell {row.digest[:12]} is recorded twice", where=where)
        seen.add(row.digest)
        for place in (row.predictions, row.users):
            safe_paths.inside(path.parent, place, where=where)
        rows.append(row)
    return rows


class Results:
    """An opened table: the rows by their digest, to which cells are appended once each."""

    def __init__(self, path: Path, rows: list[Result]) -> None:
        self.rows = {row.digest: row for row in rows}
        self._journal = Appender(path)

    def append(self, row: Result) -> None:
        """Add a row; it is on disk when this returns. A cell that is recorded already is left as it is."""
        if row.digest not in self.rows:
            self._journal.append([row])
            self.rows[row.digest] = row


def open_results(path: Path) -> Results:
    """Open the table to go on with, or begin one. Raises DataError where it is broken."""
    return Results(path, read_results(path) if path.exists() else [])


def verify_results(path: Path) -> list[str]:
    """What is wrong with the files that the rows name: a line each, nothing where all are there."""
    return [
        f"{row.experiment}, {row.method}: no such file: {place}"
        for row in read_results(path)
        for place in (row.predictions, row.users)
        if not (path.parent / place).is_file()
    ]
