"""What the steps that make recipes share: one that is finished, and writing a new one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from perpcs_cli.artifacts.io import hashing
from perpcs_cli.artifacts.io.lock import locked
from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.pool import OpenPool, refuse_half_revoked
from perpcs_cli.artifacts.recipe import Method, Recipe, pack, read_recipe, write_recipe
from perpcs_cli.artifacts.settings import Merge
from perpcs_cli.errors import DataError
from perpcs_cli.steps.job import Output, made_from
from perpcs_cli.steps.report import Report


def recipe_output(path: Path, pool: OpenPool, provenance: Provenance, name: str = "") -> Output[Recipe]:
    """A user's recipe over a pool, to be made from `provenance`. `name`: the file's, without its ending."""
    read: Callable[[Path], Recipe] = lambda place: read_recipe(place, pool=pool.digest)  # noqa: E731
    return Output(name or path.stem, path, made_from(provenance, path, read))


def write(
    path: Path,
    user_id: str,
    method: Method,
    merge: Merge,
    pool: OpenPool,
    weights: Mapping[str, Sequence[tuple[str, float]]],
    provenance: Provenance,
    report: Report,
) -> Recipe:
    """Write a recipe over the pool's sharers, from {linear layer: [(sharer, weight)]}.

    Raises DataError where the pool has changed since it was opened: somebody may have left it.
    """
    sharers, packed = pack(weights)
    recipe = Recipe(
        user_id=user_id,
        method=method,
        merge=merge,
        pool=pool.digest,
        sharers=sharers,
        weights=packed,
        provenance=provenance,
    )
    with locked(pool.path, report.note):
        refuse_half_revoked(pool.path)
        if hashing.digest_file(pool.path) != pool.digest:
            hint = "Run the command again; what it has made so far is made anew."
            raise DataError("the pool has changed while this command ran", where=pool.path, hint=hint)
        write_recipe(path, recipe)
    return recipe
