"""`recipes/U.json`: which sharers' pieces a target user's model is made of, with their weights. Kilobytes."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from perpcs_cli.artifacts.io import atomic, typed_files
from perpcs_cli.artifacts.io.limits import LAYERS
from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.settings import Merge
from perpcs_cli.errors import DataError

EVERY = "*"
DIGITS = 4
"""Decimal places of a weight. What is stored is what is applied."""

Mix = list[tuple[int, Annotated[float, msgspec.Meta(ge=-1e6, le=1e6)]]]
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

    def __post_init__(self) -> None:
        """Refuse a recipe that uses a sharer that it does not list."""
        if any(not 0 <= one < len(self.sharers) for mixes in self.weights.values() for mix in mixes for one, _ in mix):
            raise ValueError("the recipe uses a sharer that it does not list")


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

    Raises DataError where the recipe names layers that do not exist, or leaves layers out.
    """
    used = set()
    result = {}
    for module in modules:
        pattern, layer = split_layer(module)
        key, at = (EVERY, 0) if EVERY in recipe.weights else (pattern, layer)
        mixes = recipe.weights.get(key, [])
        if at >= len(mixes):
            raise DataError(f"the recipe has no weights for {module!r}", where=where)
        result[module] = [(recipe.sharers[sharer], weight) for sharer, weight in mixes[at]]
        used.add((key, at))
    for key, mixes in recipe.weights.items():
        if any(mix and (key, at) not in used for at, mix in enumerate(mixes)):
            raise DataError(f"the recipe has weights for {key!r}, which the pool does not have", where=where)
    return result


def mean_weights(recipe: Recipe) -> dict[str, float]:
    """What a recipe is made of: each sharer's weight in the mean of the mixes, by size, the largest first."""
    mixes = [mix for mixes in recipe.weights.values() for mix in mixes]
    total = dict.fromkeys(recipe.sharers, 0.0)
    for index, weight in (pair for mix in mixes for pair in mix):
        total[recipe.sharers[index]] += weight / len(mixes)
    return dict(sorted(total.items(), key=lambda pair: -abs(pair[1])))


def mentions(value: object, names: Collection[str]) -> bool:
    """Whether a JSON value has one of `names` as a key or a text, at any depth."""
    if isinstance(value, dict):
        return any(key in names or mentions(inner, names) for key, inner in value.items())
    if isinstance(value, list | tuple):
        return any(mentions(inner, names) for inner in value)
    return isinstance(value, str) and value in names


def without_mentions(value: Any, names: Collection[str]) -> Any:
    """A JSON value without the entries of lists and dicts that are, or are keyed by, one of `names`."""
    if isinstance(value, dict):
        kept = {key: inner for key, inner in value.items() if key not in names}
        return {key: without_mentions(v, names) for key, v in kept.items() if not (isinstance(v, str) and v in names)}
    if isinstance(value, list | tuple):
        return [without_mentions(v, names) for v in value if not (isinstance(v, str) and v in names)]
    return value


def uses(recipe: Recipe, names: Collection[str]) -> bool:
    """Whether a recipe has weights for one of `names`, or its provenance says that it might have had."""
    return mentions([recipe.sharers, recipe.provenance.settings], names)


def without_sharers(recipe: Recipe, names: Collection[str]) -> Recipe:
    """The recipe without some sharers: in each mix the other weights are scaled so that Σ|w| stays what it was.

    Where all weights are positive, as in Per-PCs and in retrieval, Σ|w| is Σw; PriME's keep their signs. A mix
    without other sharers becomes the base model. The provenance says `renormalized`, and no longer who is gone.
    """
    kept = tuple(sharer for sharer in recipe.sharers if sharer not in names)

    def renormalized(mix: Mix) -> Mix:
        rest = [(recipe.sharers[index], weight) for index, weight in mix if recipe.sharers[index] not in names]
        if len(rest) == len(mix) or not any(round(weight, DIGITS) for _, weight in rest):
            return [(kept.index(sharer), weight) for sharer, weight in rest]
        scale = sum(abs(weight) for _, weight in mix) / sum(abs(weight) for _, weight in rest)
        scaled = [(kept.index(sharer), round(weight * scale, DIGITS)) for sharer, weight in rest]
        return [(index, weight) for index, weight in scaled if weight]

    origin = recipe.provenance
    settings = {**without_mentions(origin.settings, names), "renormalized": True}
    return msgspec.structs.replace(
        recipe,
        sharers=kept,
        weights={pattern: [renormalized(mix) for mix in mixes] for pattern, mixes in recipe.weights.items()},
        provenance=msgspec.structs.replace(origin, settings=settings),
    )


def split_layer(module: str) -> tuple[str, int]:
    """(the name with `*` for its layer number, the layer number); 0 where the name has none that can be one."""
    if module == EVERY:
        return EVERY, 0
    match = re.search(r"\.([0-9]+)\.", module)
    # A list of layers is as long as their largest number.
    if not match or len(match[1]) > len(str(LAYERS)):
        return module, 0
    return f"{module[: match.start()]}.*.{module[match.end() :]}", int(match.group(1))


def write_recipe(path: Path, recipe: Recipe) -> None:
    """Write a recipe without spaces: it is what a target user keeps."""
    with atomic.replacing(path) as temporary:
        temporary.write_bytes(recipe_bytes(recipe))


def recipe_bytes(recipe: Recipe) -> bytes:
    """What `write_recipe` writes: a line."""
    return msgspec.json.encode(recipe) + b"\n"


def read_recipe(path: Path, *, pool: str) -> Recipe:
    """Read a recipe and check that it belongs to the pool with this digest."""
    return of_pool(typed_files.read_json(path, Recipe), pool, where=path)


def of_pool(recipe: Recipe, pool: str, *, where: object) -> Recipe:
    """Return the recipe. Raises DataError where it was made with another pool than the one with this digest."""
    if recipe.pool != pool:
        raise DataError(
            "the recipe was made with another pool",
            where=where,
            hint=f"Its pool has the digest {recipe.pool[:12]}…; this one {pool[:12]}…. "
            "Make it again with `perpcs assemble --force`.",
        )
    return recipe
