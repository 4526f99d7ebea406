"""`published.toml`: the figures that papers report, each with its source."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec

from perpcs_cli.artifacts.io import typed_files
from perpcs_cli.errors import DataError

SHIPPED = Path(__file__).with_name("published.toml")
_FRACTIONS = ("accuracy", "f1", "rouge-1", "rouge-L", "auc")


class PublishedFigure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One cell of a paper's table, its task, metric and system by the names that `perpcs table` uses."""

    task: str
    metric: str
    system: str
    value: float
    """Accuracy, F1, ROUGE and AUC between 0 and 1; MAE and RMSE in rating points."""


class PublishedTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table of a paper."""

    layout: str
    """The name of the layout that follows it, as `per-pcs-1`."""
    source: str
    """The paper."""
    table: str
    """Its number there, as `Table 1`."""
    model: str = ""
    """The base model of the figures."""
    figures: list[PublishedFigure] = []


class Published(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="format", tag="perpcs.published/1"
):
    """A file of tables."""

    table: list[PublishedTable] = []


def read_published(path: Path = SHIPPED) -> dict[str, PublishedTable]:
    """The tables by their layout.

    Raises DataError for broken TOML, another format, wrong or unknown keys, a layout or a figure that stands twice,
    and a value that is no finite number or no fraction where the metric is one.
    """
    content = typed_files.read_toml(path, str(Published.__struct_config__.tag))
    try:
        published = msgspec.convert(content, Published)
    except msgspec.ValidationError as error:
        raise DataError(f"not as expected: {error}", where=path) from None
    tables: dict[str, PublishedTable] = {}
    for table in published.table:
        if table.layout in tables:
            raise DataError(f"the layout {table.layout!r} stands twice", where=path)
        tables[table.layout] = table
        _check(table, path)
    return tables


def _check(table: PublishedTable, path: Path) -> None:
    seen: set[tuple[str, str, str]] = set()
    for figure in table.figures:
        what = f"{table.layout}, {figure.task}, {figure.metric}, {figure.system!r}"
        if (figure.task, figure.metric, figure.system) in seen:
            raise DataError(f"a figure stands twice: {what}", where=path)
        seen.add((figure.task, figure.metric, figure.system))
        if not math.isfinite(figure.value):
            raise DataError(f"{figure.value} is no figure: {what}", where=path)
        if figure.metric in _FRACTIONS and not 0 <= figure.value <= 1:
            hint = "Give fractions: 0.5 instead of 50 %."
            raise DataError(f"{figure.value} is not between 0 and 1: {what}", where=path, hint=hint)
