"""Plots: the same bytes each time, text that stays text, and errors before any work."""

from __future__ import annotations

import sys

import pytest

from perpcs_cli.cli.plots import check_plot, curve_plot
from perpcs_cli.errors import UsageError

SERIES = {"PriME": [(0.6, 0.9), (0.55, 0.8)], "Per-PCs": [(0.7, 0.85)]}
START = {".svg": b"<?xml", ".png": b"\x89PNG", ".pdf": b"%PDF"}


@pytest.mark.parametrize("kind", START)
def test_the_same_points_give_the_same_bytes(tmp_path, kind) -> None:
    first, second = tmp_path / f"a{kind}", tmp_path / f"b{kind}"
    curve_plot(first, SERIES, "AUC", "utility", labels={"PriME": ["α = 0", "α = 1"]})
    curve_plot(second, SERIES, "AUC", "utility", labels={"PriME": ["α = 0", "α = 1"]})
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes().startswith(START[kind])


def test_an_svg_has_the_words_and_no_date(tmp_path) -> None:
    path = tmp_path / "deep" / "roc.svg"
    curve_plot(path, SERIES, "false positives", "true positives", log=True, diagonal=True, labels={"PriME": ["α = 0"]})
    text = path.read_text()
    for word in ("false positives", "true positives", "PriME", "Per-PCs", "α = 0"):
        assert f">{word}</text>" in text
    assert "<dc:date>" not in text
    assert [file.name for file in path.parent.iterdir()] == ["roc.svg"]


def test_another_ending_and_a_missing_matplotlib_are_said(tmp_path, monkeypatch) -> None:
    with pytest.raises(UsageError, match=r"x.jpg: not a kind of plot\n  Its name ends in .svg, .png, .pdf."):
        check_plot(tmp_path / "x.jpg")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"plots need matplotlib\n  pip install 'perpcs\[plot\]'"):
        check_plot(tmp_path / "x.svg")
