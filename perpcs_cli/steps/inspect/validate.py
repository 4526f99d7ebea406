"""Reading files whole, with all checks: one, or all of a directory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from perpcs_cli.artifacts import adapter
from perpcs_cli.errors import DataError, PerpcsError
from perpcs_cli.steps.inspect.kinds import NOT_OURS, Kind, kind_of
from perpcs_cli.steps.report import SILENT, Report

ENDINGS = (".json", ".jsonl", ".toml", ".safetensors")


@dataclass(frozen=True, kw_only=True)
class Checked:
    """One file, or the directory of an adapter, that was looked at."""

    path: Path
    kind: str
    problems: list[str]


def validate(path: Path, report: Report = SILENT) -> list[Checked]:
    """Read a file, or all files of a directory that are perpcs's, and say what is wrong with each.

    Raises DataError where there is nothing of perpcs's.
    """
    if not path.exists():
        raise DataError("no such file or directory", where=path)
    if not path.is_dir():
        kind = kind_of(path)
        return [_checked(path, kind)]
    places = list(_places(path))
    found = []
    with report.progress("files", len(places)) as bar:
        for place in places:
            if one := _look(place):
                found.append(one)
            bar.advance(text=place.name)
    if not found:
        raise DataError("holds no file of perpcs's", where=path)
    return found


def _places(path: Path) -> Iterator[Path]:
    """Adapters and files below a directory, in order; hidden ones are nobody's yet."""
    if (path / adapter.WEIGHTS).exists() or (path / adapter.CONFIG).exists():
        yield path
    for one in sorted(path.iterdir()):
        if one.name.startswith(".") or one.is_symlink():
            continue
        if one.is_dir():
            yield from _places(one)
        elif one.suffix in ENDINGS and one.name not in (adapter.WEIGHTS, adapter.CONFIG, adapter.CARD):
            yield one


def _look(path: Path) -> Checked | None:
    """One of several: what is none of ours is passed over, and what cannot be told is a problem."""
    try:
        kind = kind_of(path)
    except DataError as error:
        return None if error.what == NOT_OURS else Checked(path=path, kind="", problems=[error.what])
    return _checked(path, kind)


def _checked(path: Path, kind: Kind) -> Checked:
    try:
        problems = kind.check(path, kind.read(path))
    except PerpcsError as error:
        problems = [error.what]
    return Checked(path=path, kind=kind.name, problems=problems)
