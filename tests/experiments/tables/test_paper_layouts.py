"""The layouts: names that hold values, and a place for every published figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import pytest

from perpcs_cli.artifacts.published import PublishedRow, PublishedTable, read_published
from perpcs_cli.artifacts.results import Result
from perpcs_cli.artifacts.sweep import read_sweep
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.experiments.table import Like
from perpcs_cli.cli.inprocess import Shell
from perpcs_cli.errors import DataError
from perpcs_cli.experiments.sweeps.grid import cells, check_flags
from perpcs_cli.experiments.tables.paper_layouts import LAYOUTS, System, better, check_published, place_of
from perpcs_cli.experiments.tables.systems import Row, arrange

CONFIGS = Path(__file__).parents[3] / "examples" / "configs"
ONLY_PUBLISHED = {
    "top-p = not stated",
    "sampling one of the top k",
    "PAG rephrased by GPT, k = 0",
    "PAG rephrased by GPT, k = 1",
}
"""Systems that no cell can be."""
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


@pytest.mark.parametrize("config", ["reproduce", "reproduce-small"])
def test_the_shipped_grids_run_every_system_that_is_published(config: str) -> None:
    sweep = read_sweep(CONFIGS / f"{config}.toml")
    check_flags(sweep, Shell(Console(quiet=True)).flags(), config)
    rows = [
        Row(
            Result(
                experiment=cell.experiment,
                method=cell.method,
                task=sweep.task,
                model=sweep.model,
                seed=cell.seed,
                settings=dict(cell.settings),
                metrics={},
                count=1,
                user_count=1,
                predictions="p",
                users="u",
                digest="",
                seconds={},
            ),
            Path(),
        )
        for cell in cells(sweep)
    ]
    laid_out = {name: {entry.name for entry in arrange(layout, rows)[0]} for name, layout in LAYOUTS.items()}
    for name, tables in read_published().items():
        published = {row.system for table in tables for row in table.rows} - ONLY_PUBLISHED
        assert published <= laid_out[name], name
    # And no cell is of no table, but for the base without its task adapter.
    places = [{id(row) for row in arrange(layout, rows)[1]} for layout in LAYOUTS.values()]
    assert {row.result.method for row in rows if all(id(row) in left for left in places)} == {"base"}


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
