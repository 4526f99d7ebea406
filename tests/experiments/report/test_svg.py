"""The parts of plots: axes for any numbers, and words that cannot be tags."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from perpcs_cli.experiments.report.plots import charts, svg
from perpcs_cli.experiments.report.plots.svg import Scale, around, plainly
from perpcs_cli.steps.inspect.layer_map import LayerMap

NASTY = '<script>&"'


def test_ticks_are_round_numbers_between_the_ends() -> None:
    assert Scale(0.0, 1.0, 0, 100).ticks() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert Scale(-0.26, 0.63, 0, 100).ticks() == [-0.25, 0.0, 0.25, 0.5]
    assert Scale(1, 10_000, 0, 100, log=True).ticks() == [1.0, 10.0, 100.0, 1000.0, 10_000.0]


def test_a_scale_goes_from_end_to_end() -> None:
    assert [Scale(0, 2, 10, 30).at(value) for value in (0, 1, 2)] == [10, 20, 30]
    assert Scale(1, 100, 0, 10, log=True).at(10) == pytest.approx(5)


@pytest.mark.parametrize(
    "values", [[0.0], [1e-320, 2e-320], [1e308, -1e308], [0.5] * 3, [1e15, 1e15 + 1e-9], [-3.0, 4e200]]
)
def test_any_numbers_can_be_drawn(values: list[float]) -> None:
    low, high = around(values, zero=True)
    assert low < high
    assert 1 <= len(Scale(low, high, 0, 100).ticks()) < 10
    points = [(float(n), value) for n, value in enumerate(values)]
    ET.fromstring(charts.curves([charts.Series(0, points, name="a")], "x", "y", "label"))
    ET.fromstring(charts.signed_bars({str(n): value for n, value in enumerate(values)}, (low, high), "label", {}))
    ET.fromstring(charts.intervals({"a": charts.Estimate(values[0], *around(values))}, "a", "label"))


@pytest.mark.parametrize(
    "drawn",
    [
        charts.curves([charts.Series(0, [(1, 2)], words=[NASTY], name=NASTY)], NASTY, NASTY, NASTY, names=[NASTY] * 2),
        charts.intervals({NASTY: charts.Estimate(1.0)}, NASTY, NASTY),
        charts.signed_bars({NASTY: -1.0}, (-2, 2), NASTY, {}),
        charts.layer_map(LayerMap(columns=[NASTY], rows=[[{NASTY: 1.0}], [None]]), {NASTY: 0}, NASTY),
    ],
)
def test_words_are_no_tags(drawn: str) -> None:
    tree = ET.fromstring(drawn)
    assert tree.get("aria-label") == NASTY
    assert "script" not in {one.tag for one in tree.iter()}


def test_series_are_told_apart_without_colours() -> None:
    forms = [svg.mark(0, 0, number).split()[0] for number in range(4)]
    first = {svg.path([(0, 0), (1, 1)], number).partition("stroke-dasharray")[2] for number in range(4)}
    assert len({form + svg.mark(0, 0, n) for n, form in enumerate(forms)}) == 4
    assert len(first) == 4


def test_a_cell_of_a_map_is_divided_by_weight() -> None:
    found = LayerMap(columns=["q"], rows=[[{"a": 0.75, "b": -0.25}]])
    boxes = [one for one in ET.fromstring(charts.layer_map(found, {"a": 2}, "map")).iter() if one.tag == "rect"]
    widths = [float(one.get("width", "")) for one in boxes]
    assert widths[0] == pytest.approx(3 * widths[1])
    assert [one.get("class") for one in boxes] == ["bar c2", "bar rest"]
    assert boxes[0].find("title") is not None and "a 0.75, b -0.25" in (boxes[0][0].text or "")


def test_numbers_as_people_write_them() -> None:
    assert [plainly(value) for value in (0.25, 1000, 2.5e6, -0.1, 0)] == ["0.25", "1k", "2.5M", "−0.1", "0"]
