"""`splits/`: who adapts the base (base), who is personalized (target), and who may share (candidate).

`split.json` says all of it; `base.txt`, `target.txt` and `candidate.txt` hold the same ids, one a line.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

import msgspec

from perpcs_cli.artifacts.io import typed_files
from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.selection import FILE as SELECTION
from perpcs_cli.artifacts.selection import IDS, read_selection
from perpcs_cli.artifacts.users import User, list_ids
from perpcs_cli.errors import DataError, UsageError

FILE = "split.json"
PARTS = ("base", "target", "candidate")
SHARER = IDS.removesuffix(".txt")
APART = (("base", "target"), ("base", "candidate"), ("target", "candidate"), (SHARER, "target"), (SHARER, "base"))
"""Lists that have no user in common: who is personalized must be new to the base and to the pool."""


class Parts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """User ids by part, each part sorted; `left_out` have too short a history for their part."""

    base: list[str]
    target: list[str]
    candidate: list[str]
    left_out: list[str] = []


class Split(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="format",
    tag="perpcs.split/1",
):
    """A split and how it was drawn."""

    parts: Parts
    provenance: Provenance


def draw_parts(
    users: Iterable[User], *, base: float = 0.25, targets: int = 100, min_history: int = 1, seed: int = 0
) -> Parts:
    """Draw a share `base` of the users as base users, then `targets` targets; the rest are candidates.

    Targets have queries, and are at most half of the users that are left, so that candidates remain. Targets
    and candidates have at least `min_history` items. The same users and seed always give the same parts.
    Both papers take 25 % base users and 100 targets. Raises UsageError where `base` is no share, and
    DataError where no target or no candidate is left.
    """
    if not 0 <= base <= 1:
        raise UsageError(f"the share of base users is between 0 and 1, not {base}")
    asked = {user.user_id: (len(user.history), bool(user.queries)) for user in users}
    ids = sorted(asked)
    random.Random(seed).shuffle(ids)
    count = round(base * len(ids))
    rest = [name for name in ids[count:] if asked[name][0] >= min_history]
    able = [name for name in rest if asked[name][1]]
    chosen = set(able[: min(targets, len(rest) // 2)])
    candidates = [name for name in rest if name not in chosen]
    if not chosen or not candidates:
        raise DataError(
            f"{len(ids)} users are too few to split: {count} base users leave {len(rest)} with at least "
            f"{min_history} history items, {len(able)} of them with queries",
            hint="There must be a target, who has queries, and a candidate. Lower the share of base users or "
            "the fewest history items, or import more users.",
        )
    return Parts(
        base=sorted(ids[:count]),
        target=sorted(chosen),
        candidate=sorted(candidates),
        left_out=sorted(set(ids[count:]) - set(rest)),
    )


def read_split(path: Path) -> Split:
    """Read `split.json`. Raises DataError where it is broken, a user stands in two parts, or a list says otherwise."""
    split = typed_files.read_json(path, Split)
    parts = split.parts
    ids = [*parts.base, *parts.target, *parts.candidate, *parts.left_out]
    if len(ids) != len(set(ids)):
        raise DataError("a user is in more than one part", where=path)
    for name in PARTS:
        listed = path.with_name(f"{name}.txt")
        if typed_files.read_text(listed) != list_of(parts, name):
            raise DataError(f"lists other users than {path.name}", where=listed, hint="Split again with --force.")
    return split


def read_list(directory: Path, name: str) -> list[str] | None:
    """The ids of `NAME.txt`, or None where there is no such list.

    Raises DataError where a list is not what `split.json` or `selection.json` says, or has users of another list.
    """
    lists = {one: directory / f"{one}.txt" for one in (*PARTS, SHARER)}
    if not lists[name].exists():
        return None
    if (directory / FILE).exists():
        read_split(directory / FILE)
    ids = {one: list_ids(path) for one, path in lists.items() if path.exists()}
    if (directory / SELECTION).exists() and SHARER in ids:
        selected = [one.user_id for one in read_selection(directory / SELECTION).chosen]
        if selected != ids[SHARER]:
            hint = "Select again with --force."
            raise DataError(f"lists other users than {SELECTION}", where=lists[SHARER], hint=hint)
    for one, other in APART:
        if both := sorted(set(ids.get(one, ())) & set(ids.get(other, ()))):
            raise DataError(
                f"{both[0]!r} stands in {one}.txt, too",
                where=lists[other],
                hint="Take the user out of one of them, or draw the lists anew with --force.",
            )
    return ids[name]


def list_of(parts: Parts, name: str) -> str:
    """The content of a part's list: its ids, one a line."""
    ids: list[str] = getattr(parts, name)
    return "".join(f"{one}\n" for one in ids)


def write_split(directory: Path, split: Split) -> None:
    """Write the lists of ids and, last, `split.json`; each file atomically."""
    for name in PARTS:
        typed_files.write_text(directory / f"{name}.txt", list_of(split.parts, name))
    typed_files.write_json(directory / FILE, split)
