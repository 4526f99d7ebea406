"""Which cells of a sweep are which system of a layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from perpcs_cli.artifacts.metrics import ACCURACY, ERROR
from perpcs_cli.artifacts.published import PublishedRow
from perpcs_cli.artifacts.results import Result
from perpcs_cli.errors import UsageError
from perpcs_cli.experiments.tables.paper_layouts import LAYOUTS
from perpcs_cli.experiments.tables.systems import Panel, Row, arrange, called, each, panels, plain, with_published

PANEL = Panel("product_rating", "tiny", ERROR)


def row(method: str, mae: float = 1.0, **more: Any) -> Row:
    values: dict[str, Any] = {
        "experiment": "main",
        "method": method,
        "task": PANEL.task,
        "model": PANEL.model,
        "seed": 0,
        "settings": {},
        "metrics": {"mae": mae, "rmse": mae},
        "count": 4,
        "user_count": 2,
        "predictions": "p.jsonl",
        "users": "users.jsonl",
        "digest": "",
        "seconds": {},
        **more,
    }
    return Row(Result(**values), Path("runs"))


def names(layout: str, *rows: Row, **more: Any) -> list[str]:
    return [entry.name for entry in arrange(LAYOUTS[layout], rows, **more)[0]]


def test_settings_have_one_name_and_usual_ones_are_left_out() -> None:
    given = {"settings.assemble.top_k": 2, "assemble.aggregate": "attention", "assemble.sample": False, "x.y": None}
    assert plain(given) == {"assemble.top-k": 2}


def test_what_a_sweep_sets_for_all_cells_tells_what_they_are() -> None:
    common = {"settings.prime.alpha": [0.2], "settings.max_length": 512, "select.strategy": "random"}
    rows = [row("prime", common=common), row("prime", common=common, settings={"prime.alpha": 0.0})]
    assert names("prime-2", *rows) == ["PriME, α = 0", "PriME, α = 0.2"]
    assert names("prime-1", row("prime", common=common)) == ["PriME, α = 0.2"]
    asked = {"predict.retrieve": 1, "predict.with-profile": True}
    assert names("per-pcs-1", row("adapted", common=asked), row("per-pcs", common={"select.clusters": 9})) == [
        "PAG, k = 1",
        "Per-PCs",
    ]


def test_a_layouts_order_and_a_column_for_each_value() -> None:
    rows = [
        row("oppu"),
        row("prime", settings={"prime.alpha": 1.0}),
        row("prime", settings={"prime.alpha": 0.2}),
        row("per-pcs", settings={"predict.retrieve": 2}),
        row("per-pcs", settings={"predict.retrieve": 0}),
        row("adapted", settings={"predict.retrieve": 4}),
        row("adapted", settings={"predict.retrieve": 1}),
        row("adapted", settings={"predict.retrieve": 1, "predict.with-profile": True}),
        row("adapted"),
    ]
    assert names("prime-1", *rows) == [
        "Non-personalized",
        "RAG, k = 1",
        "RAG, k = 4",
        "PAG, k = 1",
        "Per-PCs",
        "Per-PCs + RAG, k = 2",
        "PriME, α = 0.2",
        "PriME, α = 1",
        "OPPU",
    ]


def test_what_no_system_asks_for_is_left_out() -> None:
    rows = [row("base"), row("adapted"), row("adapted", settings={"predict.plain": True})]
    entries, left_out = arrange(LAYOUTS["per-pcs-1"], rows)
    assert [entry.name for entry in entries] == ["Non-personalized"]
    assert left_out == [rows[0], rows[2]]


def test_a_constant_setting_is_the_set_up_only_of_a_chosen_experiment() -> None:
    rows = [row("per-pcs", settings={"train-sharer.recent": 8, "predict.retrieve": k}) for k in (0, 1)]
    assert names("per-pcs-1", *rows) == []
    assert names("per-pcs-1", *rows, setup=True) == ["Per-PCs", "Per-PCs + RAG, k = 1"]
    varied = [*rows, row("per-pcs", settings={"train-sharer.recent": 16})]
    assert names("per-pcs-1", *varied, setup=True) == []
    layered = row("prime", common={"settings.prime.granularity": "layer"})
    assert [names("prime-1", layered, setup=setup) for setup in (False, True)] == [[], ["PriME"]]
    assert names("ablations-prime", layered, setup=True) == ["weights per layer"]
    # What a layout tells systems apart by is never set-up, nor is what a prompt shows.
    assert names("per-pcs-2", row("per-pcs", settings={"assemble.aggregate": "uniform"}), setup=True) == [
        "without attention"
    ]
    assert names("per-pcs-1", row("adapted", settings={"predict.plain": True}), setup=True) == []


def test_seeds_are_averaged() -> None:
    (entry,), _ = arrange(LAYOUTS["per-pcs-1"], [row("per-pcs", 1.0), row("per-pcs", 2.0, seed=1)])
    assert entry.value(PANEL, "mae") == 1.5
    # The deviation of 1 and 2 is 0.5 ** 0.5, and of their mean that by 2 ** 0.5.
    assert entry.error(PANEL, "mae") == pytest.approx(0.5)
    (alone,), _ = arrange(LAYOUTS["per-pcs-1"], [row("per-pcs", 1.0)])
    assert alone.error(PANEL, "mae") is None
    assert entry.value(Panel("citation", "tiny", ACCURACY), "accuracy") is None


def test_a_cell_of_two_experiments_counts_once_and_two_different_ones_are_refused() -> None:
    first, again = row("per-pcs"), row("per-pcs", experiment="again", settings={"assemble.aggregate": "attention"})
    (entry,), left_out = arrange(LAYOUTS["per-pcs-2"], [first, again])
    assert (entry.cells, left_out) == ({PANEL: [first]}, [])
    with pytest.raises(UsageError, match=r"two results are 'Per-PCs' of product_rating: .*'main'.*'other'"):
        arrange(LAYOUTS["per-pcs-2"], [first, row("per-pcs", 0.5, experiment="other")])


def test_results_of_a_changed_config_are_told_apart() -> None:
    before, after = row("per-pcs", 0.5, digest="a" * 64), row("per-pcs", 0.9, digest="b" * 64)
    assert [entry.name for entry in each([before, after])] == ["per-pcs aaaaaaaa", "per-pcs bbbbbbbb"]
    with pytest.raises(UsageError, match=r"The config was changed between them"):
        arrange(LAYOUTS["per-pcs-2"], [before, after])


def test_each_result_has_a_name_of_its_own() -> None:
    rows = [
        row("base"),
        row("per-pcs", settings={"assemble.top-k": 1}),
        row("per-pcs", settings={"assemble.top-k": 2}),
        row("prime"),
        row("prime", experiment="other"),
        row("prime", experiment="other", seed=1),
    ]
    assert [entry.name for entry in each(rows)] == [
        "base",
        "per-pcs top-k=1",
        "per-pcs top-k=2",
        "prime (main)",
        "prime (other) seed 0",
        "prime (other) seed 1",
    ]


def test_panels_are_in_lamps_order() -> None:
    labels = {"accuracy": 0.5, "f1": 0.5}
    rows = [row("base"), row("base", task="citation", metrics=labels), row("base", model="big")]
    assert panels(rows) == [Panel("citation", "tiny", ACCURACY), PANEL, Panel("product_rating", "big", ERROR)]


@pytest.mark.parametrize(
    ("method", "settings", "known"),
    [
        ("prime", {"prime.alpha": 0.2}, {"prime-0.2", "PriME, α = 0.2"}),
        ("prime", {"prime.alpha": 1.0}, {"prime-1"}),
        ("prime", {}, {"prime", "prime-0", "PriME, α = 0"}),
        ("per-pcs", {"assemble.similar": 3}, {"per-pcs-3"}),
        ("per-pcs", {}, {"per-pcs", "Per-PCs"}),
        ("adapted", {}, {"base", "adapted", "Non-personalized"}),
        ("retrieval", {}, {"retrieve", "retrieval"}),
    ],
)
def test_what_an_attacked_system_may_be_called(method, settings, known) -> None:
    (entry,), _ = arrange(LAYOUTS["prime-2"], [row(method, settings=settings)])
    everything = {"prime", "prime-0", "prime-0.2", "prime-1", "per-pcs", "per-pcs-3", "base", "adapted"}
    everything |= {"retrieve", "retrieval"}
    assert {name for name in everything | known if called(entry, name)} == known


def test_a_system_that_only_the_paper_has_gets_its_place() -> None:
    entries, _ = arrange(LAYOUTS["per-pcs-1"], [row("adapted"), row("oppu")])
    names = ("OPPU", "Per-PCs", "RAG, k = 10", "RAG, k = 4", "a stranger")
    rows = [PublishedRow(task="citation", system=name, values={"f1": 0.5}) for name in names]
    found = with_published(LAYOUTS["per-pcs-1"], entries, rows)
    assert [(entry.name, bool(entry.cells)) for entry in found] == [
        ("Non-personalized", True),
        ("RAG, k = 4", False),
        ("RAG, k = 10", False),
        ("Per-PCs", False),
        ("OPPU", True),
    ]
