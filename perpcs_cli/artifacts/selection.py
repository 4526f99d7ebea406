"""`splits/selection.json`: which candidates are asked to share, and why; `sharer.txt` holds their ids, one a line."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from perpcs_cli.artifacts.io import safe_paths, typed_files
from perpcs_cli.artifacts.io.provenance import Provenance, check_same
from perpcs_cli.artifacts.users import read_ids
from perpcs_cli.errors import DataError, UsageError

FILE = "selection.json"
IDS = "sharer.txt"

Strategy = Literal["history-cluster", "profile-cluster", "most-active", "random"]


class Chosen(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A sharer and the reason for it."""

    user_id: str
    items: int
    """Items of the history."""
    reason: str
    cluster: int | None = None
    """Clusters count from 0; None where the strategy has none."""
    cluster_size: int | None = None


class Skipped(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A cluster that gives no sharer."""

    cluster: int
    cluster_size: int
    user_id: str
    """Its most active user."""
    items: int
    """Items of that user's history."""
    reason: str


class Selection(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="format", tag="perpcs.selection/1"
):
    """The sharers, how they were selected, and the clusters that give none."""

    strategy: Strategy
    candidates: int
    """Users among whom they were selected."""
    chosen: list[Chosen]
    skipped: list[Skipped] = []
    provenance: Provenance


def read_selection(path: Path) -> Selection:
    """Read `selection.json`. Raises DataError where it is broken, empty, or names a user twice or unsafely."""
    selection = typed_files.read_json(path, Selection)
    ids = [safe_paths.check_id(one.user_id, "user id", where=path) for one in selection.chosen]
    if not ids or len(ids) != len(set(ids)):
        raise DataError("selects a user twice" if ids else "selects nobody", where=path)
    return selection


def write_selection(directory: Path, selection: Selection) -> None:
    """Write `sharer.txt` and, last, `selection.json`; each file atomically."""
    typed_files.write_text(directory / IDS, "".join(f"{one.user_id}\n" for one in selection.chosen))
    typed_files.write_json(directory / FILE, selection)


def is_written(directory: Path, selection: Selection) -> bool:
    """Whether `directory` holds this very selection.

    Raises DataError where it holds one that was made otherwise, UsageError where its list is of other users.
    """
    path, ids = directory / FILE, directory / IDS
    if path.exists():
        check_same(read_selection(path).provenance, selection.provenance, where=path)
    # A list of the same sharers without the reasons is what a run leaves that was killed between the two.
    if ids.exists() and read_ids(ids) != [one.user_id for one in selection.chosen]:
        raise UsageError("already exists", where=ids, hint="Use --force to replace it, or --out for another directory.")
    return path.exists() and ids.exists()
