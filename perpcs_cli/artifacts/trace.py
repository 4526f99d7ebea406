"""`traces/U.jsonl`: every candidate of a PriME search with its scores, one a line; and the Pareto set of them.

A line lands on the disk before the search goes on, so that a killed run resumes where it was. Neither utility nor
similarity depends on α, the optimizer or the budget: a trace serves searches with any of them. It holds what models
answered to the history's prompts, as token ids, so it stays with the target user.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from perpcs_cli.artifacts.io import hashing, typed_files
from perpcs_cli.artifacts.io.journal import Appender, open_journal, read_journal
from perpcs_cli.artifacts.io.limits import Count, FromZero, Size
from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.metrics import ERROR, SUM, objective
from perpcs_cli.errors import DataError

Tokens = tuple[Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)], ...]


class TraceHeader(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="format", tag="perpcs.trace/2"
):
    """The first line: whose search this is, and everything that utility and similarity depend on."""

    user_id: str
    sharers: tuple[str, ...]
    """In the order of the weights and of the similarities."""
    weights: Size
    """Weights of a candidate: one per sharer, or one per layer and sharer, layer by layer."""
    items: Size
    """History items that candidates are scored on."""
    provenance: Provenance


class Evaluation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One scored candidate. All zeros is the base; all ones of one sharer is that sharer's own LoRA."""

    weights: tuple[float, ...]
    utility: float
    similarity: tuple[float, ...]
    """P(s) for each sharer."""
    metrics: dict[str, FromZero]
    """The task's metrics against the history's answers."""
    call: Count
    of: Size
    """It was decoded in this call, together with so many candidates."""
    outputs: str
    """SHA-256 of its answers."""
    tokens: tuple[Tokens, ...] | None = None
    """The answers' token ids, one per item, where no earlier line has the same `outputs`."""
    items: Size | None = None
    """The first items that it was scored on, where it was stopped in a race; all where it was not."""

    @property
    def stopped(self) -> bool:
        """Whether it was stopped in a race, before it had answered all items."""
        return self.items is not None


class Trace:
    """An opened trace: what has been evaluated, by weights and in order, and the answers by their digest."""

    def __init__(self, path: Path, header: TraceHeader, rows: Sequence[Evaluation]) -> None:
        self.header = header
        self.known: dict[tuple[float, ...], Evaluation] = {}
        self.answers: dict[str, tuple[Tokens, ...]] = {}
        self.calls = 0
        self._journal = Appender(path)
        self._remember(rows)

    def append(self, rows: Sequence[Evaluation]) -> None:
        """Add the evaluations of one call; the tokens of answers that are known already are left out."""
        lines = []
        for row in rows:
            stored = row.outputs in self.answers
            lines.append(msgspec.structs.replace(row, tokens=None) if stored else row)
            self._remember(lines[-1:])
        self._journal.append(lines)

    def _remember(self, rows: Sequence[Evaluation]) -> None:
        for row in rows:
            self.known[row.weights] = row
            self.calls = max(self.calls, row.call + 1)
            if row.tokens is not None:
                self.answers[row.outputs] = row.tokens


def open_trace(path: Path, header: TraceHeader) -> Trace:
    """Open a trace to go on with, or begin one. The candidates of a call that was not written to its end are dropped,
    because they will be decoded again, together.

    Raises DataError where the file is broken, or a trace of something else.
    """
    rows = open_journal(path, header, Evaluation).rows
    _check(path, header, rows)
    if rows and len(last := [row for row in rows if row.call == rows[-1].call]) < rows[-1].of:
        rows = rows[: -len(last)]
        typed_files.write_jsonl(path, [header, *rows])
    return Trace(path, header, rows)


def read_trace(path: Path) -> tuple[TraceHeader, list[Evaluation]]:
    """The header and the lines of a trace; a last line without its end is passed over.

    Raises DataError with the line's number where one is broken or does not fit the header.
    """
    header, rows = read_journal(path, TraceHeader, Evaluation)
    _check(path, header, rows)
    return header, rows


def _check(path: Path, header: TraceHeader, rows: Sequence[Evaluation]) -> None:
    answered: dict[str, int] = {}
    for number, row in enumerate(rows, start=2):
        if row.tokens is not None:
            answered[row.outputs] = len(row.tokens)
        sizes = (len(row.weights), len(row.similarity), answered.get(row.outputs))
        seen = header.items if row.items is None else row.items
        if sizes != (header.weights, len(header.sharers), seen) or (row.stopped and seen >= header.items):
            raise DataError("the candidate does not fit the trace's first line", where=f"{path}, line {number}")
        if row.tokens is not None and row.outputs != hashing.digest_value(row.tokens):
            raise DataError("the answers are not those of their digest", where=f"{path}, line {number}")
        if not _is_consistent(row, header.provenance.settings.get("metric", SUM)):
            raise DataError("the scores do not follow from the metrics", where=f"{path}, line {number}")


def _is_consistent(row: Evaluation, metric: object) -> bool:
    """Whether a candidate's scores can be: metrics in their range, U by them, and each P(s) in U's range."""
    if not isinstance(metric, str) or not row.metrics or (metric != SUM and metric not in row.metrics):
        return False
    chosen = list(row.metrics) if metric == SUM else [metric]
    least = -math.inf if set(chosen) & set(ERROR) else 0.0
    most = float(len(set(chosen) - set(ERROR)))
    return (
        all(value <= 1 for name, value in row.metrics.items() if name not in ERROR)
        and math.isclose(row.utility, objective(row.metrics, metric), rel_tol=1e-9, abs_tol=1e-9)
        and all(least <= one <= most for one in row.similarity)
    )


class Point(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A candidate that no other one beats in both: more utility, less similarity (the mean over sharers)."""

    utility: float
    similarity: float
    weights: tuple[float, ...]


class Front(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One user's non-dominated points, by falling utility, over the sharers that the weights belong to."""

    sharers: tuple[str, ...]
    points: list[Point]


class Pareto(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="format", tag="perpcs.pareto/1"
):
    """The non-dominated candidates of each user's search."""

    users: dict[str, Front]
    provenance: Provenance
