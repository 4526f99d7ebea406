"""What the steps that make recipes share: where recipes go, which are finished, and writing new ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from perpcs_cli.artifacts.io import hashing
from perpcs_cli.artifacts.io.atomic import check_kind
from perpcs_cli.artifacts.io.journal import Appender, partial_path
from perpcs_cli.artifacts.io.lock import locked
from perpcs_cli.artifacts.io.provenance import Provenance, check_same
from perpcs_cli.artifacts.packed_recipes import is_packed, made_so_far, pack_recipes
from perpcs_cli.artifacts.pool import OpenPool, refuse_half_revoked
from perpcs_cli.artifacts.recipe import Method, Recipe, of_pool, pack, read_recipe, write_recipe
from perpcs_cli.artifacts.settings import Merge
from perpcs_cli.errors import DataError, UsageError
from perpcs_cli.steps.job import Output, made_from
from perpcs_cli.steps.report import SILENT, Report
from perpcs_cli.steps.shards import Shard


@dataclass(frozen=True)
class RecipePlace:
    """Where the recipes of some users over a pool go: a directory of USER.json, or one packed file, by its name."""

    place: Path
    pool: OpenPool
    users: Collection[str]
    report: Report = SILENT

    def __post_init__(self) -> None:
        """Refuse a place where something else stands."""
        check_kind(self.place, "file" if is_packed(self.place) else "directory")

    def path_of(self, user_id: str) -> Path:
        """The file that holds a user's recipe."""
        return self.place if is_packed(self.place) else self.place / f"{user_id}.json"

    def output(self, user_id: str, provenance: Provenance) -> Output[Recipe]:
        """A user's recipe, to be made from `provenance`."""
        finished = partial(self.finished, user_id, provenance)
        return Output(user_id, self.path_of(user_id), finished, self.end)

    def finished(self, user_id: str, provenance: Provenance) -> Recipe | None:
        """The user's recipe if it is there. Raises DataError where it was made from something else."""
        if not is_packed(self.place):
            path = self.path_of(user_id)
            return made_from(provenance, path, lambda place: read_recipe(place, pool=self.pool.digest))()
        recipe = self._found.get(user_id)
        if recipe is not None:
            of_pool(recipe, self.pool.digest, where=self.place)
            check_same(recipe.provenance, provenance, where=self.place)
        return recipe

    def add(self, recipes: Sequence[Recipe]) -> None:
        """Keep recipes: on the disk before this returns.

        Raises DataError where the pool has changed since it was opened: somebody may have left it.
        """
        with locked(self.pool.path, self.report.note):
            refuse_half_revoked(self.pool.path)
            if hashing.digest_file(self.pool.path) != self.pool.digest:
                hint = "Run the command again; what it has made so far is made anew."
                raise DataError("the pool has changed while this command ran", where=self.pool.path, hint=hint)
            if is_packed(self.place):
                self._unpacked.append(recipes)
                return
            for recipe in recipes:
                write_recipe(self.path_of(recipe.user_id), recipe)

    def end(self) -> None:
        """Put everything that was kept where it belongs."""
        if is_packed(self.place) and partial_path(self.place).exists():
            # Who revokes goes through both files.
            with locked(self.pool.path, self.report.note):
                pack_recipes(self.place)

    @cached_property
    def _found(self) -> dict[str, Recipe]:
        return made_so_far(self.place, self.users)

    @cached_property
    def _unpacked(self) -> Appender:
        return Appender(partial_path(self.place))


def check_shard(place: Path, shard: Shard | None) -> None:
    """Raise UsageError for a shard of a packed file: its recipes would stand between those of others."""
    if shard and is_packed(place):
        hint = "Give a directory."
        raise UsageError("shards write a file a user", where="--out and --shard", hint=hint)


def places_of(out: Path, alphas: Sequence[float]) -> dict[float, Path]:
    """Where each α's recipes go: OUT for a single α, OUT-ALPHA for each of several; OUT may be a packed file."""
    stem, ending = (out.stem, out.suffix) if is_packed(out) else (out.name, "")
    names = {alpha: f"{stem}-{repr(alpha).removesuffix('.0')}{ending}" for alpha in alphas}
    return {alpha: out if len(names) == 1 else out.with_name(names[alpha]) for alpha in names}


def make_recipe(
    user_id: str,
    method: Method,
    merge: Merge,
    pool: OpenPool,
    weights: Mapping[str, Sequence[tuple[str, float]]],
    provenance: Provenance,
) -> Recipe:
    """A recipe over the pool's sharers, from {linear layer: [(sharer, weight)]}."""
    sharers, packed = pack(weights)
    return Recipe(
        user_id=user_id,
        method=method,
        merge=merge,
        pool=pool.digest,
        sharers=sharers,
        weights=packed,
        provenance=provenance,
    )
