"""Every command that shows a table shows it whole in 60 columns: no line is longer, and no number is cut."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
from shell import Shell, named

from perpcs_cli.cli import tables
from perpcs_cli.cli.terminal import window
from perpcs_cli.cli.terminal.answers import compared_text
from perpcs_cli.cli.terminal.grids import grid
from perpcs_cli.cli.workspace import maps

COMMANDS = [
    "status",
    "eval predictions/base.jsonl predictions/per-pcs.jsonl predictions/oppu.jsonl --resamples 20",
    "show pool.json",
    "show recipes/TARGET.json",
    "show sharers/SHARER",
    "show sharers/SHARER/gate.safetensors",
    "show predictions/base.jsonl",
    "show metrics/eval.json",
    "show users.jsonl",
    "pool list",
    "audit",
    "model list",
    "task list",
    "doctor --no-self-test",
]


@pytest.mark.parametrize("line", COMMANDS)
@pytest.mark.parametrize("columns", [60, 44])
def test_a_table_fits(line: str, columns: int, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[list[str], list[str]]] = []

    def watched(*given: Sequence[Any], **more: Any) -> list[str]:
        lines = grid(*given, **more)  # type: ignore[arg-type]
        seen.append((lines, grid(*given, styled=False)))  # type: ignore[arg-type]
        return lines

    monkeypatch.setattr(window, "width", lambda: columns)
    for room in (tables, maps):
        monkeypatch.setattr(room, "grid", watched)
    done = shell(named(shell, line))
    assert done.exit_code == 0, done.stderr
    assert seen
    for lines, whole in seen:
        assert max(map(len, lines)) <= columns
        assert set(numbers(whole)) <= set(numbers(lines))


def numbers(lines: list[str]) -> list[str]:
    """The numbers among the words; a long name may be folded, and its digits with it."""
    return re.findall(r"(?<!\S)[\[+-]?\d[\d.]*[\],]?(?!\S)", "\n".join(lines))


def test_answers_stand_side_by_side_where_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"base": "one two three four five six seven", "per-pcs": "ONE\nTWO"}
    assert compared_text(texts) == "base\tone two three four five six seven\nper-pcs\tONE TWO\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "53")
    assert compared_text(texts) == (
        "base                       per-pcs\none two three four five    ONE\nsix seven                  TWO\n"
    )
    monkeypatch.setenv("COLUMNS", "40")
    assert compared_text(texts) == "base\n  one two three four five six seven\nper-pcs\n  ONE\n  TWO\n"


def test_styles_need_a_terminal_that_shows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert window.width() is None and not window.coloured()
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    assert window.width() == 60 and window.coloured()
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as some:
            some.setenv(name, value)
            assert not window.coloured()
    monkeypatch.setenv("NO_COLOR", "")
    assert window.coloured(), "empty is not set: no-color.org"
    monkeypatch.setenv("COLUMNS", "3")
    assert window.width() == window.LEAST
