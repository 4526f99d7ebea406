"""`selection.json` and `sharer.txt`."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.selection import Chosen, Selection, Skipped, is_written, read_selection, write_selection
from perpcs_cli.errors import DataError, UsageError

SELECTION = Selection(
    strategy="history-cluster",
    candidates=9,
    chosen=[
        Chosen(user_id="u7", items=30, cluster=0, cluster_size=4, reason="most active of 4 users of cluster 0"),
        Chosen(user_id="u2", items=12, reason="rank 1 of 9 by history items"),
    ],
    skipped=[Skipped(cluster=1, cluster_size=5, user_id="u3", items=4, reason="its most active user has few items")],
    provenance=Provenance(command="select", settings={"clusters": 2}, seed=0),
)


def test_it_is_written_and_read(tmp_path: Path) -> None:
    write_selection(tmp_path, SELECTION)
    assert (tmp_path / "sharer.txt").read_text() == "u7\nu2\n"
    assert '"format": "perpcs.selection/1"' in (tmp_path / "selection.json").read_text()
    assert read_selection(tmp_path / "selection.json") == SELECTION


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"chosen": []}, "selects nobody"),
        ({"chosen": [SELECTION.chosen[0]] * 2}, "selects a user twice"),
        ({"chosen": [Chosen(user_id="../u", items=1, reason="")]}, "cannot name a file"),
        ({"strategy": "guess"}, "Invalid enum value 'guess'"),
    ],
)
def test_broken_selections(changed: dict[str, object], message: str, tmp_path: Path) -> None:
    write_selection(tmp_path, msgspec.structs.replace(SELECTION, **changed))
    with pytest.raises(DataError, match=message):
        read_selection(tmp_path / "selection.json")


def test_whether_it_is_written(tmp_path: Path) -> None:
    assert not is_written(tmp_path, SELECTION)
    write_selection(tmp_path, SELECTION)
    assert is_written(tmp_path, SELECTION)
    (tmp_path / "sharer.txt").unlink()
    assert not is_written(tmp_path, SELECTION)


def test_another_selection_and_another_list_are_not_replaced(tmp_path: Path) -> None:
    write_selection(tmp_path, SELECTION)
    other = Provenance(command="select", settings={"clusters": 3}, seed=0)
    with pytest.raises(DataError, match="clusters 2 -> 3"):
        is_written(tmp_path, msgspec.structs.replace(SELECTION, provenance=other))
    (tmp_path / "sharer.txt").write_text("u7\n")
    with pytest.raises(UsageError, match="already exists"):
        is_written(tmp_path, SELECTION)
    (tmp_path / "selection.json").unlink()
    with pytest.raises(UsageError, match="already exists"):
        is_written(tmp_path, SELECTION)
