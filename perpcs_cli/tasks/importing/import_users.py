"""Import of users: every record is checked, every broken one is reported, and nothing is left out in silence.

- All values become text. A history stands in time order by `date` where all its items have a readable one,
  else in the file's order.
- In LaMP's files each question is its own user, named by the question's id. Questions that name the same
  `user_id` are one user, whose history is the union of their profiles by item id.
- Labels are matched to queries by id. An answer in the query itself must agree with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from perpcs_cli.artifacts.io import safe_paths
from perpcs_cli.artifacts.users import Item, Query, User, text_of
from perpcs_cli.errors import DataError, PerpcsError, UsageError
from perpcs_cli.tasks.importing.columns import read_columns
from perpcs_cli.tasks.importing.file_layouts import Problem, RawGold, RawUser, read_sources
from perpcs_cli.tasks.importing.json_values import Unreadable
from perpcs_cli.tasks.importing.time_order import in_time_order
from perpcs_cli.tasks.prompts import query_fields
from perpcs_cli.tasks.spec import Task, named_task

T = TypeVar("T")


class Counts(msgspec.Struct):
    """How much was read."""

    users: int = 0
    items: int = 0
    queries: int = 0
    answered: int = 0

    def add(self, user: User) -> None:
        """Count a user."""
        self.users += 1
        self.items += len(user.history)
        self.queries += len(user.queries)
        self.answered += sum(query.output is not None for query in user.queries)


class ImportResult(msgspec.Struct, Generic[T], frozen=True):
    """The users that were read, what was broken and left out, and what else is worth knowing."""

    users: list[T]
    counts: Counts
    problems: list[Problem]
    notes: list[str]


def load(sources: Sequence[Path], task: Task) -> ImportResult[User]:
    """Read users of `task`, and hold them all. Raises what `read_users` raises."""
    return read_users(sources, task, lambda user: user)


def read_users(sources: Sequence[Path], task: Task, keep: Callable[[User], T]) -> ImportResult[T]:
    """Read users of `task` from files and directories, in any of LaMP's layouts or, of a task whose queries have
    fields, in the columns that its file names.

    Each goes to `keep` when it is whole, and what that returns is held in the order in which users occur; a user is
    held until then only where several records make one. Raises DataError for a file that cannot be read at all and for
    labels of another task.
    """
    found = read_sources(sources) if task.lamp else read_columns(sources, task)
    for file, name in found.tasks.items():
        _check_task(file, name, task)
    importer = _Importer(task, keep)
    for gold in found.golds:
        importer.add_gold(gold)
    for user in chain.from_iterable(found.users):
        importer.add_user(user)
    return importer.result(chain.from_iterable(found.problems.values()))


def _check_task(file: str, name: str, task: Task) -> None:
    # LaMP_2 was news categories before it was movie tags, so it may be either.
    if not name or task.lamp.startswith(name):
        return
    try:
        matches = named_task(name) is task
    except UsageError:
        matches = False
    if not matches:
        raise DataError(
            f"holds labels of {name}, not of {task.name} ({task.lamp})",
            where=file,
            hint="Choose the task with --task.",
        )


@dataclass
class _Collected:
    """A user in the making."""

    joins: bool
    profile: str | None
    items: list[Item] = field(default_factory=list)
    by_id: dict[str, Item] = field(default_factory=dict)
    queries: list[Query] = field(default_factory=list)
    query_ids: set[str] = field(default_factory=set)


@dataclass
class _Importer(Generic[T]):
    task: Task
    keep: Callable[[User], T]
    problems: list[Problem] = field(default_factory=list)
    users: dict[str, _Collected | T] = field(default_factory=dict)
    """By id: what was kept of a user who is whole, and those to whom other records may add."""
    counts: Counts = field(default_factory=Counts)
    unsorted: int = 0
    golds: dict[str, str] = field(default_factory=dict)
    query_ids: set[str] = field(default_factory=set)
    ignored: set[str] = field(default_factory=set)

    def problem(self, file: str, record: str, name: str, message: str) -> None:
        self.problems.append(Problem(file, record, name, message))

    def add_gold(self, gold: RawGold) -> None:
        identifier = text_of(gold.id)
        if identifier is None:
            self.problem(gold.file, gold.record, "id", _flaw(gold.id))
        elif (output := self.answer(gold.output, gold.file, gold.record, "output")) is not None:
            other = self.golds.setdefault(identifier, output)
            if other != output:
                message = f"is {output!r}, but the first label of {identifier!r} is {other!r}"
                self.problem(gold.file, gold.record, "output", message)

    def answer(self, value: object, file: str, record: str, name: str) -> str | None:
        """The text of `value` if it can answer a query; else None, and a problem."""
        labels, output = self.task.labels, text_of(value)
        if not output:
            self.problem(file, record, name, _flaw(value, "is missing, empty or not text"))
        elif labels and output not in labels:
            self.problem(file, record, name, f"{output!r} is none of the labels {', '.join(labels)}")
        else:
            return output
        return None

    def add_user(self, raw: RawUser) -> None:
        self.ignored |= raw.extra
        user_id = text_of(raw.user_id)
        if user_id is None:
            self.problem(raw.file, raw.record, "user_id", _flaw(raw.user_id))
            return
        try:
            safe_paths.check_id(user_id, "user id")
        except PerpcsError as error:
            self.problem(raw.file, raw.record, "user_id", error.what)
            return
        profile = raw.profile if isinstance(raw.profile, str) else None
        if raw.profile is not None and profile is None:
            self.problem(raw.file, raw.record, "profile", _flaw(raw.profile, "is not text"))
        user = self.users[user_id] if user_id in self.users else _Collected(joins=raw.joins, profile=profile)
        if not isinstance(user, _Collected) or (user_id in self.users and not raw.joins):
            self.problem(raw.file, raw.record, "user_id", f"user {user_id!r} occurs twice")
            return
        for place, item in enumerate(self.rows(raw, raw.history, raw.history_field)):
            self.add_item(user, raw.file, raw.place(raw.history_field, place), place, item)
        for place, query in enumerate(self.rows(raw, raw.queries, raw.queries_field)):
            self.add_query(user, raw.file, raw.place(raw.queries_field, place), query)
        self.users[user_id] = user if raw.joins else self.whole(user_id, user)

    def whole(self, user_id: str, collected: _Collected) -> T:
        """What is kept of a user to whom nothing more can come."""
        history = in_time_order(collected.items)
        if history is None:
            self.unsorted += 1
            history = collected.items
        user = User(user_id=user_id, history=history, queries=collected.queries, profile=collected.profile)
        self.counts.add(user)
        return self.keep(user)

    def rows(self, raw: RawUser, value: object, name: str) -> list[object]:
        if isinstance(value, list):
            return value
        self.problem(raw.file, raw.record, name, "is missing" if value is None else _flaw(value, "is not a list"))
        return []

    def add_item(self, user: _Collected, file: str, record: str, place: int, raw: object) -> None:
        if not isinstance(raw, dict):
            self.problem(file, record, "", _flaw(raw, "is not an object"))
            return
        item = self.read_item(file, record, place, raw)
        if item is None:
            return
        if user.joins:
            key = str(item["id"])
            known = user.by_id.setdefault(key, item)
            if known is not item:
                if known != item:
                    self.problem(file, record, "id", f"another item with the id {key!r} has other content")
                return
        user.items.append(item)

    def read_item(self, file: str, record: str, place: int, raw: dict[str, object]) -> Item | None:
        """The item with the fields that the task knows; None, and problems, where it is broken."""
        task = self.task
        names = ("id", *task.required, *task.optional, "date")
        self.ignored |= set(raw) - set(names)
        item: Item = {"id": str(place)}
        good = True
        for name in names:
            value = raw.get(name)
            text = _titles(value) if name == "citation" else text_of(value)
            if text is not None:
                item[name] = text
            elif value is not None or name in task.required:
                self.problem(file, record, name, "is missing" if value is None else _flaw(value, "is not text"))
                good = False
        answer = item.get(task.output_field)
        # LaMP-1's items need no answer, and theirs is not of its queries' labels.
        if good and task.output_field in task.required:
            good = self.answer(answer, file, record, task.output_field) is not None
        return item if good else None

    def add_query(self, user: _Collected, file: str, record: str, raw: object) -> None:
        if not isinstance(raw, dict):
            self.problem(file, record, "", _flaw(raw, "is not an object"))
            return
        self.ignored |= set(raw) - {"id", "input", "fields", "output", "gold"}
        query = self.read_query(file, record, raw)
        if query is None:
            return
        identifier = query.id
        # LaMP's labels name queries by their ids alone.
        ids = self.query_ids if self.task.lamp else user.query_ids
        if identifier in ids:
            self.problem(file, record, "id", f"the query id {identifier!r} occurs twice")
            return
        ids.add(identifier)
        answer = self.golds.get(identifier)
        for name in ("gold", "output"):
            if raw.get(name) is None:
                continue
            output = self.answer(raw[name], file, record, name)
            if output is None:
                return
            if answer not in (None, output):
                self.problem(file, record, name, f"is {output!r}, but another answer is {answer!r}")
                return
            answer = output
        user.queries.append(msgspec.structs.replace(query, output=answer))

    def read_query(self, file: str, record: str, raw: dict[str, Any]) -> Query | None:
        """The query without its answer; None, and problems, where it is broken."""
        given = {"id": raw.get("id"), **({"input": raw.get("input")} if self.task.lamp else raw["fields"])}
        found = {name: text for name, value in given.items() if (text := text_of(value)) is not None}
        for name in given:
            if name not in found:
                self.problem(file, record, name, _flaw(given[name]))
        if len(found) < len(given):
            return None
        identifier = found.pop("id")
        query = Query(id=identifier, input=found["input"]) if self.task.lamp else Query(id=identifier, fields=found)
        try:
            query_fields(self.task, query)
        except DataError as error:
            self.problem(file, record, "input", f"{error.what}. {error.hint}")
            return None
        return query

    def result(self, unread: Iterable[Problem]) -> ImportResult[T]:
        """What was found; `unread`: the problems of what could not be read at all, which come first."""
        users = [self.whole(name, one) if isinstance(one, _Collected) else one for name, one in self.users.items()]
        return ImportResult(users, self.counts, [*unread, *self.problems], self.notes())

    def notes(self) -> list[str]:
        notes = []
        if self.ignored:
            names = sorted(self.ignored)
            shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
            notes.append(f"fields left out, not used by {self.task.name} ({len(names)}): {shown}")
        if self.unsorted:
            notes.append(f"histories left in the file's order, for want of readable dates: {self.unsorted}")
        unmatched = len(self.golds.keys() - self.query_ids)
        if unmatched:
            notes.append(f"labels left out, belonging to no query: {unmatched}")
        return notes


def _flaw(value: object, otherwise: str = "is missing or not text") -> str:
    """What is wrong with a value that cannot be taken."""
    return value.why if isinstance(value, Unreadable) else otherwise


def _titles(value: object) -> str | list[str] | None:
    """LaMP-1's citations: one title, or a list of titles."""
    if isinstance(value, list):
        return value if all(isinstance(title, str) for title in value) else None
    return value if isinstance(value, str) else None
