"""Values put aside: read in any order, and gone without a trace."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from perpcs_cli.errors import PerpcsError
from perpcs_cli.steps.data import spool as module
from perpcs_cli.steps.data.spool import spooled

VALUES = [{"n": "x" * (number % 7), "é": number} for number in range(3000)]


@pytest.mark.parametrize("beside", [True, False])
def test_values_are_read_in_any_order(tmp_path: Path, beside: bool) -> None:
    with spooled(tmp_path / "new", beside=beside) as spool:
        places = [spool.add(value) for value in VALUES]
        lines = list(spool.lines(places))
        assert lines[5] == '{"n":"xxxxx","é":5}\n'.encode()
        for _ in range(2):
            assert list(spool.lines(places[::-1])) == lines[::-1]
        assert list(spool.lines([places[7], places[2], places[3]])) == [lines[7], lines[2], lines[3]]
        assert list(tmp_path.iterdir()) == []


def test_where_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    honest = tempfile.TemporaryFile
    monkeypatch.setattr(module.tempfile, "TemporaryFile", lambda **how: asked.append(how.get("dir")) or honest(**how))
    for place, beside in ((tmp_path, True), (tmp_path, False), (tmp_path / "not there", True)):
        with spooled(place / "new", beside=beside) as spool:
            assert list(spool.lines([spool.add(1)])) == [b"1\n"]
    assert asked == [tmp_path, None, tmp_path / "not there", None]


@pytest.mark.parametrize("values", [VALUES * 50, VALUES[:3]])
def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: list[object]) -> None:
    """When values are put aside, or at the latest when they are read."""
    full = Path("/dev/full")
    monkeypatch.setattr(module.tempfile, "TemporaryFile", lambda **_: full.open("w+b"))
    with (
        pytest.raises(PerpcsError, match="new: cannot be written: No space left"),
        spooled(tmp_path / "new", beside=True) as spool,
    ):
        list(spool.lines([spool.add(value) for value in values]))
