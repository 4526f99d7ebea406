"""`published.toml`: the figures that papers report, each with its source."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import msgspec

from perpcs_cli.artifacts.io import typed_files
from perpcs_cli.errors import DataError

SHIPPED = Path(__file__).with_name("published.toml")
_FRACTIONS = ("accuracy", "f1", "rouge-1", "rouge-L", "auc")


class PublishedRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a paper's table says of one system on one task, system and task by the names that `perpcs table` uses."""

    system: str
    task: str
    values: dict[str, float]
    """By metric: accuracy, F1, ROUGE and AUC between 0 and 1, MAE and RMSE in rating points."""
    errors: dict[str, float] = {}
    """Standard errors by metric, where the paper has them."""
    column: str = ""
    """What the paper calls the system, where that differs."""
    note: str = ""
    """What a reader of these figures should know."""


class PublishedTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table of a paper, or the part of it for one model."""

    layout: str
    """The name of the layout that follows it, as `per-pcs-1`."""
    source: str
    """The paper."""
    table: str
    """Its number there, as `Table 1`."""
    model: str = ""
    """The base model of the figures."""
    note: str = ""
    """What a reader of the whole table should know."""
    rows: list[PublishedRow] = []

    def row(self, task: str, system: str) -> PublishedRow | None:
        """The figures of a system on a task, or None."""
        return next((row for row in self.rows if (row.task, row.system) == (task, system)), None)


class Published(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="format", tag="perpcs.published/2"
):
    """A file of tables."""

    table: list[PublishedTable] = []


def read_published(path: Path = SHIPPED) -> dict[str, list[PublishedTable]]:
    """The tables by their layout, one for each model, in file order.

    Raises DataError for broken TOML, another format, wrong or unknown keys, two tables of a layout for one model, a
    row that stands twice, an error without its value, and a value that is no finite number or no fraction where the
    metric is one.
    """
    content = typed_files.read_toml(path, str(Published.__struct_config__.tag))
    try:
        published = msgspec.convert(content, Published)
    except msgspec.ValidationError as error:
        raise DataError(f"not as expected: {error}", where=path) from None
    tables: dict[str, list[PublishedTable]] = {}
    for table in published.table:
        beside = tables.setdefault(table.layout, [])
        if any(same_model(other.model, table.model) for other in beside):
            of = f" of {table.model}" if table.model else ""
            raise DataError(f"the layout {table.layout!r}{of} stands twice", where=path)
        beside.append(table)
        _check(table, path)
    return tables


def same_model(one: str, other: str) -> bool:
    """Whether two names are of one model: `meta-llama/Llama-3.1-8B` and `llama3.1-8b` are."""
    first, second = (
        "".join(letter for letter in name.lower().removesuffix("-hf").rpartition("/")[2] if letter.isalnum())
        for name in (one, other)
    )
    return first == second


def of_model(tables: Sequence[PublishedTable], model: str) -> PublishedTable:
    """The table of a model, or else the first, which is the paper's main one."""
    return next((table for table in tables if same_model(table.model, model)), tables[0])


def _check(table: PublishedTable, path: Path) -> None:
    seen: set[tuple[str, str]] = set()
    for row in table.rows:
        what = f"{table.layout}, {row.task}, {row.system!r}"
        if (row.task, row.system) in seen:
            raise DataError(f"a row stands twice: {what}", where=path)
        seen.add((row.task, row.system))
        if alone := row.errors.keys() - row.values.keys():
            raise DataError(f"a standard error without its value: {what}, {min(alone)}", where=path)
        for metric, value in row.values.items():
            error = row.errors.get(metric, 0.0)
            if not (math.isfinite(value) and math.isfinite(error) and error >= 0):
                raise DataError(f"{value} ± {error} is no figure: {what}, {metric}", where=path)
            if metric in _FRACTIONS and not 0 <= value <= 1:
                hint = "Give fractions: 0.5 instead of 50 %."
                raise DataError(f"{value} is not between 0 and 1: {what}, {metric}", where=path, hint=hint)
