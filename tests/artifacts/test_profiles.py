"""`profiles.jsonl` and its sidecar, and whose profile wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.profiles import (
    Profile,
    ProfilesInfo,
    read_info,
    read_profiles,
    with_profiles,
    write_info,
    write_profiles,
)
from perpcs_cli.artifacts.users import User
from perpcs_cli.errors import DataError

PROFILES = {name: Profile(user_id=name, profile=f"likes {name}", source="s") for name in ("u2", "u1")}


def test_lines_are_written_in_the_order_of_the_ids(tmp_path: Path) -> None:
    path = tmp_path / "profiles.jsonl"
    write_profiles(path, PROFILES)
    assert path.read_text() == (
        '{"user_id":"u1","profile":"likes u1","source":"s"}\n{"user_id":"u2","profile":"likes u2","source":"s"}\n'
    )
    assert read_profiles(path) == PROFILES
    assert read_profiles(tmp_path / "nothing.jsonl") == {}


def test_a_profile_written_by_hand_needs_no_source(tmp_path: Path) -> None:
    path = tmp_path / "profiles.jsonl"
    path.write_text('{"user_id": "u1", "profile": "née"}')
    assert read_profiles(path)["u1"].profile == "née"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"user_id":"u1","profile":"a"}\n{"user_id":"u1","profile":"b"}\n', "user 'u1' has two profiles"),
        ('{"user_id":"../u","profile":"a"}\n', "cannot name a file"),
        ('{"user_id":"u1"}\n', "line 1: .*missing required field `profile`"),
        ('{"user_id":"u1","pro', "line 1"),
    ],
)
def test_broken_files(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "profiles.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_profiles(path)


def test_the_sidecar(tmp_path: Path) -> None:
    origin = Provenance(command="profile", settings={}, seed=0)
    info = ProfilesInfo(task="citation", sha256="0" * 64, provenance=origin)
    write_info(tmp_path / "profiles.jsonl", info)
    assert '"format": "perpcs.profiles/2"' in (tmp_path / "profiles.meta.json").read_text()
    assert read_info(tmp_path / "profiles.jsonl") == info


def test_the_file_wins_over_the_users_own_profile(tmp_path: Path) -> None:
    write_profiles(tmp_path / "profiles.jsonl", PROFILES)
    users = {name: User(user_id=name, profile="old") for name in ("u1", "u3")}
    found = with_profiles(users, tmp_path / "profiles.jsonl")
    assert {name: user.profile for name, user in found.items()} == {"u1": "likes u1", "u3": "old"}
    assert with_profiles(users, tmp_path / "nothing.jsonl") == users
