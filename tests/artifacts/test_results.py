"""`results.jsonl`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from perpcs_cli.artifacts.results import FILE, Result, open_results, read_results, verify_results
from perpcs_cli.errors import DataError


def row(digest: str, **changes: Any) -> Result:
    base = Result(
        experiment="main",
        method="base",
        task="movie_tagging",
        model="m",
        seed=0,
        settings={"predict.retrieve": 1},
        metrics={"accuracy": 0.5},
        count=4,
        user_count=2,
        predictions="steps/p/base.jsonl",
        users="steps/i/users.jsonl",
        digest=digest,
        seconds={"predict": 1.5},
    )
    return msgspec.structs.replace(base, **changes)


def test_rows_are_appended_once_each(tmp_path: Path) -> None:
    path = tmp_path / FILE
    results = open_results(path)
    results.append(row("a"))
    results.append(row("b", seed=1))
    results.append(row("a", count=9))
    assert read_results(path) == [row("a"), row("b", seed=1)]
    again = open_results(path)
    again.append(row("b"))
    again.append(row("c"))
    assert [one.digest for one in read_results(path)] == ["a", "b", "c"]


def test_a_row_that_was_cut_off_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / FILE
    open_results(path).append(row("a"))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:40])
    assert read_results(path) == [row("a")]
    open_results(path).append(row("b"))
    assert read_results(path) == [row("a"), row("b")]


WRONG = {
    "no JSON": (b"{\n", "line 1: not a row of perpcs results"),
    "another format": (b'{"format": "perpcs.recipe/1"}\n', "line 1: not a row of perpcs results"),
    "not UTF-8": (b"\xff\n", "line 1: not a row of perpcs results"),
    "twice": (2 * (msgspec.json.encode(row("a")) + b"\n"), "line 2: the cell a is recorded twice"),
    "outside": (msgspec.json.encode(row("a", users="../u")) + b"\n", "the path '../u' leaves its directory"),
}


@pytest.mark.parametrize("case", WRONG)
def test_broken_rows_are_named(case: str, tmp_path: Path) -> None:
    content, message = WRONG[case]
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_results(tmp_path / FILE)
    assert message in str(caught.value)


def test_missing_files_are_found(tmp_path: Path) -> None:
    path = tmp_path / FILE
    open_results(path).append(row("a"))
    (tmp_path / "steps/p").mkdir(parents=True)
    (tmp_path / "steps/p/base.jsonl").touch()
    assert verify_results(path) == ["main, base: no such file: steps/i/users.jsonl"]
