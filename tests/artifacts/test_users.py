"""Users of a file: all of them, one at a time, or those that are asked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from perpcs_cli.artifacts.users import (
    User,
    UserFile,
    choose_users,
    each_user,
    read_chosen,
    read_users,
    write_users,
)
from perpcs_cli.errors import DataError, PerpcsError, UsageError

USERS = [User(user_id=f"u{number}", history=[{"text": str(number)}]) for number in range(5)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_users(tmp_path / "users.jsonl", USERS)
    return tmp_path / "users.jsonl"


def test_those_who_are_asked_for_in_that_order_and_once(path: Path) -> None:
    assert read_chosen(path, ["u3", "u0", "u3"]) == [USERS[3], USERS[0]]
    assert read_chosen(path, ["u3", "u0", "u3"]) == choose_users(read_users(path), ["u3", "u0", "u3"], where=path)


def test_nobody_is_asked_for_who_is_not_there(path: Path) -> None:
    said = []
    for choose in (lambda ids: read_chosen(path, ids), lambda ids: choose_users(read_users(path), ids, where=path)):
        with pytest.raises(UsageError) as caught:
            choose(["u1", "x", "y"])
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert "'x', 'y'" in said[0]
    assert "holds 5 users, 'u0' for example" in said[0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"user_id": "u0"}', "'u0' occurs twice"),
        ('{"user_id": "../x"}', "cannot name a file"),
        ('{"user_id": "x", "history": 7}', "Expected `array`"),
        ('{"user_id": "x", "colour": "red"}', "unknown field `colour`"),
        ('{"user_id": "x", "queries": [{"id": "q", "input": "a"}, {"id": "q", "input": "b"}]}', "two queries"),
        ("{", "line 6"),
    ],
)
def test_whoever_is_asked_for_everybody_is_checked(path: Path, line: str, message: str) -> None:
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=message):
        read_chosen(path, ["u1"])
    with pytest.raises(DataError, match=message):
        read_users(path)


def test_a_file_without_users(path: Path) -> None:
    path.write_text("\n")
    with pytest.raises(PerpcsError, match="holds no users"):
        read_chosen(path, ["u1"])


def test_they_come_one_at_a_time(path: Path) -> None:
    with path.open("a") as file:
        file.write("{\n")
    users = each_user(path)
    assert [next(users) for _ in USERS] == USERS
    with pytest.raises(DataError, match="line 6"):
        next(users)


@pytest.mark.parametrize("piped", [False, True])
def test_a_file_is_read_as_often_as_it_is_asked_for(path: Path, piped: bool) -> None:
    if piped:
        read, write = os.pipe()
        with os.fdopen(write, "wb") as end:
            end.write(path.read_bytes())
    users = UserFile(Path(f"/dev/fd/{read}") if piped else path)
    for _ in range(2):
        assert list(users) == USERS
        assert list(users.chosen(["u3", "u0", "u3"])) == [USERS[3], USERS[0]]
    chosen = users.chosen(["x", "u1", "y"])
    with pytest.raises(UsageError, match="no such user: 'x', 'y'") as caught:
        list(chosen)
    assert caught.value.hint == "It holds 5 users, 'u0' for example."
    if piped:
        os.close(read)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        UserFile(tmp_path / "nobody.jsonl")
