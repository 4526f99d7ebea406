"""`profiles.jsonl`: one user's textual profile a line, with `profiles.meta.json` beside it for where they come from.

A profile tells of the user's history: the file stays with the user's data and never enters a pool.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from perpcs_cli.artifacts.io import safe_paths, typed_files
from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.io.typed_files import Span
from perpcs_cli.artifacts.line_index import find_rows
from perpcs_cli.artifacts.predictions import info_path
from perpcs_cli.artifacts.users import User
from perpcs_cli.errors import DataError


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a model says of a user, from the user's history."""

    user_id: str
    profile: str
    source: str = ""
    """SHA-256 of the prompt that asked for it; empty for a profile from elsewhere."""


class ProfilesInfo(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="format", tag="perpcs.profiles/2"
):
    """What the lines of a profiles file are."""

    task: str
    sha256: str
    """Of the file."""
    provenance: Provenance


def read_profiles(path: Path) -> dict[str, Profile]:
    """Profiles by user id, in file order; none where there is no file. Raises what `each_profile` raises."""
    return {row.user_id: row for row in each_profile(path)}


def each_profile(path: Path) -> Iterator[Profile]:
    """The same one at a time. Raises DataError for broken lines, unsafe ids and a user who occurs twice."""
    return (row for _, row in _placed(path))


def _placed(path: Path) -> Iterator[tuple[Span, Profile]]:
    ids: set[str] = set()
    for span, row in typed_files.each_placed(path, Profile) if path.exists() else ():
        safe_paths.check_id(row.user_id, "user id", where=path)
        if row.user_id in ids:
            raise DataError(f"user {row.user_id!r} has two profiles", where=path)
        ids.add(row.user_id)
        yield span, row


def write_profiles(path: Path, profiles: dict[str, Profile]) -> None:
    """Write profiles in the order of the ids, atomically: the same profiles always give the same bytes."""
    typed_files.write_jsonl(path, [profiles[user_id] for user_id in sorted(profiles)])


def read_info(path: Path) -> ProfilesInfo:
    """The sidecar of the profiles at `path`. Raises DataError where it is missing or broken."""
    return typed_files.read_json(info_path(path), ProfilesInfo)


def write_info(path: Path, info: ProfilesInfo) -> None:
    """Write the sidecar of the profiles at `path`, atomically."""
    typed_files.write_json(info_path(path), info)


def with_profiles(users: dict[str, User], path: Path) -> dict[str, User]:
    """The users with their profiles of the file at `path`; who has none there keeps the one of users.jsonl."""
    profiles = find_rows(path, users, Profile, _placed, lambda row: row.user_id)
    return {
        user_id: msgspec.structs.replace(user, profile=profiles[user_id].profile) if user_id in profiles else user
        for user_id, user in users.items()
    }
