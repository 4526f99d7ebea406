"""The layouts: names that hold values, and a place for every published figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import pytest

from perpcs_cli.artifacts.published import PublishedRow, PublishedTable, read_published
from perpcs_cli.cli.experiments.table import Like
from perpcs_cli.errors import DataError
from perpcs_cli.experiments.tables.paper_layouts import LAYOUTS, System, better, check_published, place_of

ALPHA = System("PriME, α = {prime.alpha=0}", "prime")
PAG = System("PAG, k = {predict.retrieve=0}", "adapted", {"predict.with-profile": True})


def test_the_command_knows_all_layouts() -> None:
    assert get_args(Like) == tuple(LAYOUTS)


def test_every_shipped_figure_has_a_place_and_no_two_have_one() -> None:
    for name, tables in read_published().items():
        for table in tables:
            check_published(LAYOUTS[name], table, "published.toml")
            systems = {row.system for row in table.rows}
            assert len({str(place_of(LAYOUTS[name], system)) for system in systems}) == len(systems)


@pytest.mark.parametrize(
    ("system", "settings", "values", "name"),
    [
        (ALPHA, {}, ["0"], "PriME, α = 0"),
        (ALPHA, {"prime.alpha": 0.2}, [0.2], "PriME, α = 0.2"),
        (ALPHA, {"prime.alpha": 1.0}, [1.0], "PriME, α = 1"),
        (ALPHA, {"prime.budget": 9}, None, ""),
        (PAG, {}, None, ""),
        (PAG, {"predict.with-profile": True}, ["0"], "PAG, k = 0"),
        (PAG, {"predict.with-profile": True, "predict.retrieve": 4}, [4], "PAG, k = 4"),
        (System("RAG, k = {predict.retrieve}", "adapted"), {}, None, ""),
    ],
)
def test_the_values_in_a_name(system: System, settings: Mapping[str, object], values, name) -> None:
    assert system.values(system.method, settings) == values
    assert system.values("oppu", settings) is None
    if values is not None:
        assert system.named(values) == name
        assert system.read(name) == [name.rpartition("= ")[2]]


def test_an_exact_name_goes_before_a_pattern() -> None:
    layout = LAYOUTS["prime-10"]
    assert place_of(layout, "PAG rephrased by GPT, k = 0") == (1, [])
    assert place_of(layout, "PAG, k = 1") == (0, ["1"])
    assert place_of(layout, "PAG, k = 1, twice") is None


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"task": "tweets"}, "no such task: 'tweets'"),
        ({"values": {"f1": 0.5}}, "prime-2 has no metric 'f1' for product_rating\n  It has mae, rmse, auc."),
        ({"system": "GPT"}, "prime-2 has no system 'GPT'"),
        ({"system": "PriME, α = 1, β = 2"}, "prime-2 has no system"),
    ],
)
def test_a_row_that_the_layout_does_not_have(row, message) -> None:
    whole = {"task": "product_rating", "system": "Per-PCs", "values": {"mae": 0.5}, **row}
    table = PublishedTable(layout="prime-2", source="S", table="T", rows=[PublishedRow(**whole)])
    with pytest.raises(DataError) as error:
        check_published(LAYOUTS["prime-2"], table, "own.toml")
    assert message in str(error.value)


def test_what_is_better() -> None:
    metrics = ("accuracy", "mae", "utility", "auc", "mirrored auc")
    assert [better(metric) for metric in metrics] == ["higher", "lower", "higher", None, "lower"]
