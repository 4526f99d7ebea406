"""What commands show of the outputs of a step: a row each, the same everywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from perpcs_cli.cli.console import Console
from perpcs_cli.cli.process import visible
from perpcs_cli.steps.job import Outcome

T = TypeVar("T")
Columns = Callable[[Outcome[T]], Sequence[object]]
Details = Callable[[Outcome[T]], dict[str, object]]


def show_outcomes(
    console: Console, outcomes: Sequence[Outcome[T]], columns: Columns[T], details: Details[T] | None = None
) -> None:
    """Print a line for each output: its name, its place, and `columns`, or that it is still to do.

    With --json a list of objects: `user_id`, `path`, `state`, and `details` or the fields of what was written.
    """
    more: Details[T] = details or (lambda one: fields_of(one.value))
    values = [{"user_id": one.name, "path": str(one.path), "state": one.state, **more(one)} for one in outcomes]
    lines = [_line(one.name, one.path, *(["to do"] if one.value is None else columns(one))) for one in outcomes]
    console.result(values, "\n".join(lines))


def show_outcome(
    console: Console, outcome: Outcome[T], columns: Sequence[object], more: dict[str, object] | None = None
) -> None:
    """The same for a step with a single output: a line, or one object."""
    value = {"path": str(outcome.path), "state": outcome.state, **(more or fields_of(outcome.value))}
    shown = ["to do"] if outcome.value is None else columns
    console.result(value, _line(outcome.path, *shown))


def _line(*cells: object) -> str:
    return "\t".join(visible(str(cell)) for cell in cells)


def fields_of(value: object) -> dict[str, object]:
    """The fields of a typed file, without what it was made from."""
    plain = msgspec.to_builtins(value) if isinstance(value, msgspec.Struct) else {}
    return {key: one for key, one in plain.items() if key not in ("format", "provenance", "user_id")}
