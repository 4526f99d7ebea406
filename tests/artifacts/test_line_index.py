"""One row of a large file is found without reading the others, and an index is never believed against the file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from perpcs_cli.artifacts import caches, line_index, users
from perpcs_cli.artifacts.io import typed_files
from perpcs_cli.artifacts.line_index import each_found, find_rows, recall_index
from perpcs_cli.artifacts.users import User, read_chosen, write_users
from perpcs_cli.errors import DataError, UsageError

USERS = [User(user_id=f"ü{number}", profile="x" * number) for number in range(50)]
Kept = Callable[[], Path]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that counts as large and as settled."""
    monkeypatch.setattr(line_index, "SMALL", 0)
    monkeypatch.setattr(caches, "SETTLED_NS", 0)
    monkeypatch.setattr(line_index, "cache_directory", lambda: tmp_path / "cache")
    write_users(tmp_path / "users.jsonl", USERS)
    return tmp_path / "users.jsonl"


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read whole."""
    seen: list[Path] = []
    each = typed_files.each_placed

    def watched(path: Path, kind: type[User], **more: bool) -> Iterator[tuple[typed_files.Span, User]]:
        seen.append(path)
        return each(path, kind, **more)

    monkeypatch.setattr(typed_files, "each_placed", watched)
    return seen


def test_the_file_is_read_once(path: Path, scans: list[Path]) -> None:
    for wanted in (["ü7"], ["ü49", "ü0", "ü7"], [user.user_id for user in USERS]):
        assert read_chosen(path, wanted) == [user for name in wanted for user in USERS if user.user_id == name]
    assert scans == [path]


def test_somebody_who_is_not_there(path: Path) -> None:
    for _ in range(2):
        with pytest.raises(UsageError, match="no such user: 'nobody'") as error:
            read_chosen(path, ["ü1", "nobody"])
        assert error.value.hint == "It holds 50 users, 'ü0' for example."


@pytest.mark.parametrize("what", ["grown", "touched", "replaced"])
def test_another_state_is_another_file(path: Path, scans: list[Path], what: str) -> None:
    read_chosen(path, ["ü7"])
    if what == "grown":
        path.write_bytes(b"\n" + path.read_bytes())
    elif what == "touched":
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    else:
        write_users(path, USERS[::-1])
    assert read_chosen(path, ["ü7"]) == [USERS[7]]
    assert len(scans) == 2


def test_a_broken_line_elsewhere_is_found_when_it_comes(path: Path) -> None:
    read_chosen(path, ["ü7"])
    path.write_bytes(path.read_bytes() + b"{")
    with pytest.raises(DataError, match="line 51"):
        read_chosen(path, ["ü7"])


def test_where_the_file_lies_about_its_state_the_row_tells(
    path: Path, scans: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_index, "_state", lambda _: "as ever")
    read_chosen(path, ["ü7"])
    write_users(path, USERS[::-1])
    assert read_chosen(path, ["ü7"]) == [USERS[7]]
    assert len(scans) == 2


@pytest.mark.parametrize("at", [0, 5, -1])
def test_a_damaged_index_is_none(path: Path, scans: list[Path], tmp_path: Path, at: int) -> None:
    read_chosen(path, ["ü7"])
    (index,) = (tmp_path / "cache" / "lines").iterdir()
    whole = index.read_bytes()
    assert recall_index(path)
    index.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at:][1:])
    assert recall_index(path) is None
    assert read_chosen(path, ["ü7"]) == [USERS[7]]
    assert len(scans) == 2
    assert index.read_bytes() == whole


def test_ids_with_one_key(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_index, "_key", lambda name: b"\0" * 7 + bytes([len(name)]))
    for _ in range(2):
        assert read_chosen(path, ["ü7", "ü42"]) == [USERS[7], USERS[42]]
        with pytest.raises(UsageError, match="no such user: 'ü8x'"):
            read_chosen(path, ["ü8x"])


def test_what_has_just_changed_or_is_small_is_not_kept(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(caches, "SETTLED_NS", 60 * 10**9)
    read_chosen(path, ["ü7"])
    monkeypatch.setattr(caches, "SETTLED_NS", 0)
    monkeypatch.setattr(line_index, "SMALL", path.stat().st_size)
    read_chosen(path, ["ü7"])
    assert not (tmp_path / "cache").exists()


def test_no_place_for_caches(path: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    assert read_chosen(path, ["ü7"]) == [USERS[7]]


def test_an_index_names_nobody(path: Path, tmp_path: Path) -> None:
    read_chosen(path, ["ü7"])
    (index,) = (tmp_path / "cache" / "lines").iterdir()
    assert not any(user.user_id.encode() in index.read_bytes() for user in USERS)


def test_a_pipe_is_read_as_it_comes(path: Path) -> None:
    read, write = os.pipe()
    with os.fdopen(write, "wb") as end:
        end.write(path.read_bytes())
    assert read_chosen(Path(f"/dev/fd/{read}"), ["ü7"]) == [USERS[7]]
    os.close(read)


def test_mistakes_are_not_kept(path: Path, tmp_path: Path) -> None:
    path.write_bytes(path.read_bytes() + path.read_bytes().splitlines()[0])
    for _ in range(2):
        with pytest.raises(DataError, match="occurs twice"):
            find_rows(path, ["ü7"], User, users._placed, lambda user: user.user_id)
    assert not (tmp_path / "cache").exists()


def test_rows_come_one_at_a_time_in_the_order_that_is_asked_for(
    path: Path, scans: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(wanted: list[str]) -> list[str]:
        return [user.user_id for user in each_found(path, wanted, User, users._placed, lambda user: user.user_id)]

    for wanted in (["ü9", "nobody", "ü1"], ["ü3"], []):
        assert found(wanted) == [name for name in wanted if name != "nobody"]
    assert scans == [path]
    # An index that lies is made anew, in the middle, too.
    monkeypatch.setattr(line_index, "_state", lambda _: "as ever")
    found(["ü7"])
    write_users(path, [USERS[0], *USERS[:0:-1]])
    assert found(["ü0", "ü7", "ü8"]) == ["ü0", "ü7", "ü8"]
