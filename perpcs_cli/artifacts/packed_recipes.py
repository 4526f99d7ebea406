"""`recipes.jsonl`: the recipes of many users in one file, a recipe a line by user id; beside a directory of `U.json`.

A place of recipes is one or the other, told by its name. A packed file is written whole; what a run has made and not
yet put into it stands in `recipes.partial.jsonl`, where of two lines of a user the later one counts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from heapq import merge
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO

import msgspec

from perpcs_cli.artifacts.io import safe_paths, typed_files
from perpcs_cli.artifacts.io.journal import partial_path
from perpcs_cli.artifacts.io.reading import opened
from perpcs_cli.artifacts.io.typed_files import Span
from perpcs_cli.artifacts.line_index import find_rows
from perpcs_cli.artifacts.recipe import Recipe, write_recipe
from perpcs_cli.errors import DataError, UsageError

PACKED = ".jsonl"
UNPACKED = ".partial.jsonl"
"""The ending of what a run has made so far."""
_user = attrgetter("user_id")


def is_packed(place: Path) -> bool:
    """Whether a place of recipes is one file, by its name."""
    return place.suffix == PACKED


def packed_path(file: Path) -> Path:
    """The packed file that a file of many recipes is, or is to become."""
    return file.with_name(file.name.removesuffix(UNPACKED) + PACKED) if file.name.endswith(UNPACKED) else file


def check_places(places: Iterable[Path], flag: str) -> None:
    """Raise UsageError where one is neither a directory nor a packed file: nothing would be found, without a word."""
    for place in places:
        if not (files_in(place) if is_packed(place) else place.is_dir()):
            raise UsageError(f"no such {'file' if is_packed(place) else 'directory'}: {place}", where=flag)


def place_of(directory: Path) -> Path:
    """A directory of recipes, or the packed file of the same name where it stands there alone."""
    packed = directory.with_name(directory.name + PACKED)
    return packed if packed.is_file() and not directory.exists() else directory


def places_in(directory: Path) -> list[Path]:
    """The places of recipes in a workspace: directories and packed files, those that a run has begun included."""
    found = {packed_path(path) for path in directory.glob("recipes*")}
    return sorted(place for place in found if files_in(place) or place.is_dir())


def files_in(place: Path) -> list[Path]:
    """The files of a place of recipes."""
    if not is_packed(place):
        return sorted(place.glob("*.json"))
    return [path for path in dict.fromkeys([place, partial_path(place)]) if path.exists()]


def each_recipe(file: Path) -> Iterator[Recipe]:
    """The recipes of one file, packed or not, one at a time.

    Raises DataError where one is broken, and where a user has two in a file that is written whole.
    """
    if is_packed(file):
        return (recipe for _, recipe in _placed(file))
    return iter([typed_files.read_json(file, Recipe)])


def find_recipes(place: Path, users: Collection[str]) -> dict[str, Recipe]:
    """The recipes of those of `users` who have one at a place. Raises DataError where one is broken or another's."""
    if is_packed(place):
        return find_rows(place, users, Recipe, _placed, _user) if place.exists() else {}
    found = {}
    for user in users:
        if (path := place / f"{user}.json").exists():
            found[user] = typed_files.read_json(path, Recipe)
            if found[user].user_id != user:
                raise DataError(
                    f"is the recipe of {found[user].user_id!r}, and not of {user!r}",
                    where=path,
                    hint="To answer with one recipe for all, give its file to --recipes.",
                )
    return found


def made_so_far(place: Path, users: Collection[str]) -> dict[str, Recipe]:
    """The same of a packed file and of what a run that was stopped has made since, which counts more."""
    unpacked = partial_path(place)
    later = {recipe.user_id: recipe for recipe in each_recipe(unpacked)} if unpacked.exists() else {}
    return {**find_recipes(place, users), **{user: recipe for user, recipe in later.items() if user in users}}


def pack_recipes(place: Path) -> None:
    """Put what was appended into the packed file, over what it has of the same users; it changes at once."""
    unpacked = partial_path(place)
    if not unpacked.exists():
        return
    made = {recipe.user_id: span for span, recipe in _placed(unpacked)}
    if made:
        with opened(unpacked) as file:
            others = (r for r in each_recipe(place) if r.user_id not in made) if place.exists() else iter(())
            write_packed(place, others, (_read_at(file, made[user]) for user in sorted(made)))
    unpacked.unlink()


def write_packed(place: Path, *parts: Iterable[Recipe]) -> None:
    """Write a packed file, atomically, from parts that are in the order of their users; no part is held."""
    typed_files.write_jsonl(place, merge(*parts, key=_user))


def change_recipes(file: Path, change: Callable[[Recipe], Recipe | None]) -> None:
    """Change the recipes of one file, and delete those of which `change` gives None; a packed file changes at once."""
    if is_packed(file):
        if any(change(one) is not one for one in each_recipe(file)):
            typed_files.write_jsonl(file, (after for one in each_recipe(file) if (after := change(one)) is not None))
        return
    before = typed_files.read_json(file, Recipe)
    after = change(before)
    if after is None:
        file.unlink()
    elif after is not before:
        write_recipe(file, after)


def _placed(file: Path) -> Iterator[tuple[Span, Recipe]]:
    """The recipes of a packed file with their places; of what is not finished, a last line without its end is none."""
    unpacked = file.name.endswith(UNPACKED)
    seen: set[str] = set()
    for span, recipe in typed_files.each_placed(file, Recipe, cut=unpacked):
        safe_paths.check_id(recipe.user_id, "user id", where=file)
        if recipe.user_id in seen and not unpacked:
            raise DataError(f"user {recipe.user_id!r} has two recipes", where=file)
        seen.add(recipe.user_id)
        yield span, recipe


def _read_at(file: BinaryIO, span: Span) -> Recipe:
    file.seek(span[0])
    return msgspec.json.decode(file.read(span[1]), type=Recipe)
