"""`users.jsonl`: one user a line, with history in time order and queries."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Annotated

import msgspec

from perpcs_cli.artifacts.io import hashing, safe_paths, typed_files
from perpcs_cli.artifacts.io.limits import Count
from perpcs_cli.artifacts.io.typed_files import Span
from perpcs_cli.artifacts.line_index import each_found, find_rows
from perpcs_cli.errors import DataError, UsageError, shortened

Item = dict[str, str | list[str]]
"""A history item: the task's fields by name."""


_name = attrgetter("user_id")

Given = str | int | float
"""Ids and texts as people's files have them."""


def text_of(value: object) -> str | None:
    """Text as it is, and numbers as text (4.0 is "4"); None for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return str(int(value)) if value == int(value) else str(value)


class Query(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One question to answer for a user. `output` is the reference, if known."""

    id: str
    input: str = ""
    """LaMP's own prompt."""
    fields: dict[str, str] = {}
    """The fields of an own task, instead."""
    output: str | None = None


class User(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A user: history items from old to new, queries, and a textual profile if there is one."""

    user_id: str
    history: list[Item] = []
    queries: list[Query] = []
    profile: str | None = None


def read_users(path: Path) -> dict[str, User]:
    """Users by id, in file order. Raises what `each_user` raises."""
    return {user.user_id: user for user in each_user(path)}


def each_user(path: Path) -> Iterator[User]:
    """Users one at a time, in file order. Raises DataError for broken lines, unsafe ids and ids that occur twice,
    of users and of a user's queries."""
    return (user for _, user in _placed(path))


def _placed(path: Path) -> Iterator[tuple[Span, User]]:
    ids: set[str] = set()
    for span, user in typed_files.each_placed(path, User):
        safe_paths.check_id(user.user_id, "user id", where=path)
        if user.user_id in ids:
            raise DataError(f"user {user.user_id!r} occurs twice", where=path)
        asked = [query.id for query in user.queries]
        if len(set(asked)) < len(asked):
            twice = max(asked, key=asked.count)
            raise DataError(f"user {user.user_id!r} has two queries with the id {twice!r}", where=path)
        ids.add(user.user_id)
        yield span, user
    if not ids:
        raise DataError("holds no users", where=path)


class UserFile:
    """A file of users, who come one at a time, as often as they are asked for. Of a pipe, which is read once, all are
    held. Raises what `each_user` raises."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._held = None if path.is_file() else read_users(path)

    def __iter__(self) -> Iterator[User]:
        """Everybody, in file order."""
        return each_user(self.path) if self._held is None else iter(self._held.values())

    def chosen(self, wanted: Sequence[str]) -> Iterator[User]:
        """The users of these ids, in this order, without repeats. In the end raises UsageError where any was not
        there."""
        if self._held is not None:
            yield from choose_users(self._held, wanted, where=self.path)
            return
        left = dict.fromkeys(wanted)
        for user in each_found(self.path, list(left), User, _placed, _name):
            left.pop(user.user_id, None)
            yield user
        if left:
            read_chosen(self.path, list(left))


def write_users(path: Path, users: Iterable[User]) -> None:
    """Write users, one a line, atomically."""
    typed_files.write_jsonl(path, users)


def read_ids(path: Path) -> list[str]:
    """A list of user ids, one a line. Raises DataError where the file is missing or empty."""
    ids = list_ids(path)
    if not ids:
        raise DataError("holds no user ids", where=path)
    return ids


def list_ids(path: Path) -> list[str]:
    """The same of a list that may be empty."""
    return [line.strip() for line in typed_files.read_text(path).split("\n") if line.strip()]


def choose_users(users: dict[str, User], wanted: Sequence[str], *, where: object) -> list[User]:
    """The users named by the ids `wanted`, in the given order, without repeats.

    Raises UsageError for an id that is not among `users`.
    """
    return _chosen(users, wanted, len(users), next(iter(users), ""), where)


def read_chosen(path: Path, wanted: Sequence[str]) -> list[User]:
    """The same of a file. The others are never held, and read and checked once (`line_index`). Raises both errors."""
    count, first = 0, ""

    def counted(path: Path) -> Iterator[tuple[Span, User]]:
        nonlocal count, first
        for count, (span, user) in enumerate(_placed(path), start=1):  # noqa: B007
            first = first or user.user_id
            yield span, user

    found = find_rows(path, wanted, User, counted, _name)
    if not count and not found.keys() >= set(wanted):
        # Looked up, and not there: what it holds instead is told.
        for _ in counted(path):
            pass
    return _chosen(found, wanted, count, first, path)


def _chosen(users: dict[str, User], wanted: Sequence[str], count: int, first: str, where: object) -> list[User]:
    if missing := [i for i in wanted if i not in users]:
        raise UsageError(
            f"no such user: {shortened([repr(i) for i in missing])}",
            where=where,
            hint=f"It holds {count} users, {first!r} for example.",
        )
    return [users[i] for i in dict.fromkeys(wanted)]


def newest(user: User, count: int | None) -> User:
    """The user with only the newest `count` items of the history; None for all."""
    return msgspec.structs.replace(user, history=user.history[-count:]) if count else user


class Division(msgspec.Struct, frozen=True):
    """The settings of a training that say what of the history it saw."""

    hold_out: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    recent: Count | None = None


def held_out(user: User, share: float, seed: int) -> tuple[User, User]:
    """The user with the history to train on, and with the history that training never sees, both in the old order.

    `share` of the items is kept away, drawn by seed and user: at least one item, unless `share` is 0, and never all.
    Raises DataError where the history is too short to be divided.
    """
    if not share:
        return user, msgspec.structs.replace(user, history=[])
    size = len(user.history)
    if size < 2:
        raise DataError(
            f"user {user.user_id!r} has {size} history items, too few to keep one away",
            hint="Choose users with more items, or train without --hold-out.",
        )
    count = min(size - 1, max(1, round(share * size)))
    away = set(random.Random(hashing.derive_seed(seed, "hold-out", user.user_id)).sample(range(size), count))
    parts = [[item for place, item in enumerate(user.history) if (place in away) is side] for side in (False, True)]
    return msgspec.structs.replace(user, history=parts[0]), msgspec.structs.replace(user, history=parts[1])
