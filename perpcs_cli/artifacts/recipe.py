"""`recipes/U.json`: which sharers' pieces a target user's model is made of, with their weights. Kilobytes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from perpcs_cli.artifacts import store
from perpcs_cli.artifacts.provenance import Provenance
from perpcs_cli.artifacts.workspace import Merge
from perpcs_cli.errors import DataError

EVERY = "*"
DIGITS = 4
"""Decimal places of a weight. What is stored is what is applied."""

Mix = list[tuple[int, float]]
"""[(index into the recipe's sharers, weight)]."""
Method = Literal["per-pcs", "prime", "retrieve", "uniform", "single"]


class Recipe(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="format", tag="perpcs.recipe/1"
):
    """A weight for each (linear layer, sharer), for one pool.

    `weights` is keyed by a linear layer's name with `*` for its layer number, as in
    `model.layers.*.self_attn.q_proj`, and lists one mix per layer. The key `*` has one mix, for every linear layer.
    """

    user_id: str
    method: Method
    merge: Merge
    pool: str
    """SHA-256 of the pool's manifest."""
    sharers: tuple[str, ...]
    weights: dict[str, list[Mix]]
    provenance: Provenance


def pack(weights: Mapping[str, Sequence[tuple[str, float]]]) -> tuple[tuple[str, ...], dict[str, list[Mix]]]:
    """(sharers, weights) of a recipe from {linear layer: [(sharer, weight)]}; weights are rounded, zeros left out."""
    rounded = {
        module: [(sharer, round(weight, DIGITS)) for sharer, weight in mix if round(weight, DIGITS)]
        for module, mix in weights.items()
    }
    sharers = tuple(sorted({sharer for mix in rounded.values() for sharer, _ in mix}))
    index = {sharer: i for i, sharer in enumerate(sharers)}
    packed: dict[str, list[Mix]] = {}
    for module, mix in rounded.items():
        pattern, layer = split_layer(module)
        layers = packed.setdefault(pattern, [])
        layers.extend([] for _ in range(layer + 1 - len(layers)))
        layers[layer] = sorted((index[sharer], weight) for sharer, weight in mix)
    return sharers, packed


def unpack(recipe: Recipe, modules: Sequence[str], *, where: object) -> dict[str, list[tuple[str, float]]]:
    """{linear layer: [(sharer, weight)]} for every one of `modules`.

    Raises DataError where the recipe names layers or sharers that do not exist, or leaves layers out.
    """
    used = set()
    result = {}
    for module in modules:
        pattern, layer = split_layer(module)
        key, at = (EVERY, 0) if EVERY in recipe.weights else (pattern, layer)
        mixes = recipe.weights.get(key, [])
        if at >= len(mixes):
            raise DataError(f"the recipe has no weights for {module!r}", where=where)
        if any(not 0 <= sharer < len(recipe.sharers) for sharer, _ in mixes[at]):
            raise DataError(f"the recipe uses a sharer that it does not list, in {module!r}", where=where)
        result[module] = [(recipe.sharers[sharer], weight) for sharer, weight in mixes[at]]
        used.add((key, at))
    for key, mixes in recipe.weights.items():
        if any(mix and (key, at) not in used for at, mix in enumerate(mixes)):
            raise DataError(f"the recipe has weights for {key!r}, which the pool does not have", where=where)
    return result


def split_layer(module: str) -> tuple[str, int]:
    """(the name with `*` for its layer number, the layer number); 0 where the name has none."""
    if module == EVERY:
        return EVERY, 0
    match = re.search(r"\.(\d+)\.", module)
    if not match:
        return module, 0
    return f"{module[: match.start()]}.*.{module[match.end() :]}", int(match.group(1))


def write_recipe(path: Path, recipe: Recipe) -> None:
    """Write a recipe without spaces: it is what a target user keeps."""
    store.write_text(path, msgspec.json.encode(recipe).decode() + "\n")


def read_recipe(path: Path, *, pool: str) -> Recipe:
    """Read a recipe and check that it belongs to the pool with this digest."""
    recipe = store.read_json(path, Recipe)
    if recipe.pool != pool:
        raise DataError(
            "the recipe was made with another pool",
            where=path,
            hint=f"Its pool has the digest {recipe.pool[:12]}…; this one {pool[:12]}…. "
            "Make it again with `perpcs assemble --force`.",
        )
    return recipe
