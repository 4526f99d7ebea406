"""What the commands that make recipes share: leaving finished ones alone, and writing new ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from perpcs_cli.artifacts.pool import OpenPool
from perpcs_cli.artifacts.provenance import Provenance, check_same
from perpcs_cli.artifacts.recipe import Method, Recipe, pack, read_recipe, write_recipe
from perpcs_cli.artifacts.workspace import Merge


def finished(path: Path, pool: OpenPool, provenance: Provenance, *, force: bool) -> Recipe | None:
    """The recipe that was made from this pool with these settings, or None where there is none.

    Raises DataError where it was made with others.
    """
    if force or not path.exists():
        return None
    recipe = read_recipe(path, pool=pool.digest)
    check_same(recipe.provenance, provenance, where=path)
    return recipe


def write(
    path: Path,
    user_id: str,
    method: Method,
    merge: Merge,
    pool: OpenPool,
    weights: Mapping[str, Sequence[tuple[str, float]]],
    provenance: Provenance,
) -> Recipe:
    """Write a recipe over the pool's sharers, from {linear layer: [(sharer, weight)]}."""
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
    write_recipe(path, recipe)
    return recipe
