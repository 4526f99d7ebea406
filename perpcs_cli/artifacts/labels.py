"""LaMP's own format, of labels and of predictions: `{"task": …, "golds": [{"id": …, "output": …}]}`."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import msgspec

from perpcs_cli.artifacts.io import limits, typed_files
from perpcs_cli.artifacts.users import Given, text_of
from perpcs_cli.errors import DataError


class Gold(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A query's label or predicted answer. LaMP's ids are unique over all users; no user is named."""

    id: str
    output: str


class Labels(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The labels of one task, by LaMP's name for it."""

    task: str
    golds: list[Gold]


class _Gold(msgspec.Struct, forbid_unknown_fields=True):
    """As people's files have it: ids and ratings may be numbers, as `import` takes them."""

    id: Given
    output: Given


class _Labels(msgspec.Struct, forbid_unknown_fields=True):
    task: str
    golds: list[_Gold]


def is_labels(path: Path) -> bool:
    """Whether `path` is in LaMP's format rather than JSONL. Raises DataError where it cannot be read."""
    first = [line for _, line in islice(typed_files.lines(path), 2)]
    try:
        if len(first) == 2 and msgspec.json.decode(first[0]) is not None:
            # A value of its own: JSONL, however long.
            return False
    except typed_files.UNREADABLE:
        pass
    try:
        content = msgspec.json.decode(typed_files.without_mark(typed_files.read_bytes(path)))
    except typed_files.UNREADABLE:
        return False
    return isinstance(content, dict) and "golds" in content


def read_labels(path: Path) -> Labels:
    """Read LaMP's format. Raises DataError for wrong fields, no entries, and ids that occur twice."""
    given = typed_files.read_json(path, _Labels, limits.DATA_BYTES)
    golds = [Gold(id=text_of(gold.id) or "", output=text_of(gold.output) or "") for gold in given.golds]
    labels = Labels(task=given.task, golds=golds)
    if not labels.golds:
        raise DataError("holds no labels", where=path)
    seen: set[str] = set()
    for gold in labels.golds:
        if gold.id in seen:
            raise DataError(f"the id {gold.id!r} occurs twice", where=path)
        seen.add(gold.id)
    return labels
