"""Lists of users that say what their artifacts say, and have nobody in common."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import provenance

from perpcs_cli.artifacts.selection import Chosen, Selection, write_selection
from perpcs_cli.artifacts.split import Parts, Split, read_list, write_split
from perpcs_cli.errors import DataError


@pytest.fixture
def splits(tmp_path: Path) -> Path:
    """A split with a selection of sharers."""
    parts = Parts(base=["a", "b"], target=["t"], candidate=["c", "d"])
    write_split(tmp_path, Split(parts=parts, provenance=provenance()))
    chosen = [Chosen(user_id="d", items=3, reason="drawn")]
    selected = Selection(strategy="random", candidates=2, chosen=chosen, provenance=provenance())
    write_selection(tmp_path, selected)
    return tmp_path


def test_the_lists_are_read(splits: Path) -> None:
    found = {name: read_list(splits, name) for name in ("base", "target", "candidate", "sharer")}
    assert found == {"base": ["a", "b"], "target": ["t"], "candidate": ["c", "d"], "sharer": ["d"]}
    (splits / "sharer.txt").unlink()
    assert read_list(splits, "sharer") is None


@pytest.mark.parametrize("name", ["base", "target", "sharer"])
def test_any_list_shows_that_one_was_changed(splits: Path, name: str) -> None:
    (splits / "base.txt").write_text("a\nt\n")
    with pytest.raises(DataError, match=r"base\.txt: lists other users than split\.json"):
        read_list(splits, name)


def test_another_selection(splits: Path) -> None:
    (splits / "sharer.txt").write_text("c\n")
    with pytest.raises(DataError, match=r"sharer\.txt: lists other users than selection\.json"):
        read_list(splits, "sharer")


@pytest.mark.parametrize(
    ("one", "other"),
    [("base", "target"), ("base", "candidate"), ("target", "candidate"), ("sharer", "target"), ("sharer", "base")],
)
def test_lists_that_a_person_made_have_nobody_in_common(tmp_path: Path, one: str, other: str) -> None:
    (tmp_path / f"{one}.txt").write_text("u\nv\n")
    (tmp_path / f"{other}.txt").write_text("w\nv\n")
    with pytest.raises(DataError, match=f"'v' stands in {one}.txt, too"):
        read_list(tmp_path, other)


def test_sharers_are_candidates(tmp_path: Path) -> None:
    for name in ("candidate", "sharer"):
        (tmp_path / f"{name}.txt").write_text("u\n")
    assert read_list(tmp_path, "sharer") == ["u"]
