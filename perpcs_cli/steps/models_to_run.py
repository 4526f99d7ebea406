"""Which models a step runs: the base, one adapter, each user's own, or recipes over a pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from perpcs_cli.artifacts.adapter import Adapter, open_adapter
from perpcs_cli.artifacts.io import hashing
from perpcs_cli.artifacts.packed_recipes import find_recipes, is_packed
from perpcs_cli.artifacts.pool import OpenPool, check_base, check_layers
from perpcs_cli.artifacts.recipe import of_pool, read_recipe, unpack
from perpcs_cli.artifacts.settings import Merge
from perpcs_cli.artifacts.users import User
from perpcs_cli.errors import DataError, UsageError
from perpcs_cli.steps.base import StepModel


@dataclass(frozen=True)
class ModelsToRun:
    """Adapters, recipes over them, each user's recipe, and the digests of what they came from."""

    adapters: list[Adapter]
    recipes: list[dict[str, list[tuple[int, float]]]]
    users: dict[str, int]
    merge: Merge
    digests: dict[str, str]
    pool: OpenPool | None = None

    def swapped(self) -> ModelsToRun:
        """The same with each user's model given to another, the one half of the users further on: a control.

        Raises UsageError where all users have one model.
        """
        names = list(self.users)
        models = [self.recipes[place] for place in self.users.values()]
        if all(model == models[0] for model in models):
            raise UsageError(
                "there is one model for all users", where="--swap", hint="Give --recipes or --own of each."
            )
        far = len(names) // 2
        moved = {name: self.users[names[(place + far) % len(names)]] for place, name in enumerate(names)}
        return replace(self, users=moved)

    def check_base(self, model: StepModel) -> None:
        """Raise DataError where pool or adapters belong to another base; nothing is loaded."""
        if self.pool:
            check_base(self.pool, model.fingerprint, model.settings.model)
        for one in self.adapters:
            one.check_base(model.fingerprint)

    def check_layers(self, model: StepModel) -> None:
        """Raise DataError where they are for other linear layers than the loaded model's."""
        if self.pool:
            check_layers(self.pool, model.base.shapes)
        for one in self.adapters:
            one.check_layers(model.base.shapes)


def base_alone(users: Sequence[User] = ()) -> ModelsToRun:
    """The base model for everyone: no adapters, all weights zero."""
    return ModelsToRun([], [{}], {user.user_id: 0 for user in users}, "product", {})


def single_adapters(shared: Path | None, own: Path | None, users: Sequence[User]) -> ModelsToRun:
    """One-hot recipes: one adapter for all users, or each user's own."""
    if shared:
        adapters, places = [open_adapter(shared)], {user.user_id: 0 for user in users}
    else:
        adapters = [open_adapter((own or Path()) / user.user_id) for user in users]
        places = {user.user_id: index for index, user in enumerate(users)}
    recipes = [{m: [(index, 1.0)] for m in adapter.modules} for index, adapter in enumerate(adapters)]
    digests = {f"adapter {adapter.path.name}": adapter.digest() for adapter in adapters}
    return ModelsToRun(adapters, recipes, places, "product", digests)


def recipes_over(path: Path, pool: OpenPool, users: Sequence[User]) -> ModelsToRun:
    """The users' recipes over the adapters that they use."""
    if not path.exists():
        raise DataError("there are no recipes", where=path, hint="Make them with `perpcs assemble`, or use --base.")
    if path.is_file() and not is_packed(path):
        shared = read_recipe(path, pool=pool.digest)
        loaded = [shared for _ in users]
    else:
        found = find_recipes(path, [user.user_id for user in users])
        if missing := [user.user_id for user in users if user.user_id not in found]:
            raise DataError(
                f"{len(missing)} of {len(users)} users have no recipe",
                where=_at(path, missing[0]),
                hint=f"Make it with `perpcs assemble --user {missing[0]}`, or choose other users with --users.",
            )
        loaded = [of_pool(found[user.user_id], pool.digest, where=_at(path, user.user_id)) for user in users]
    merges = {recipe.merge for recipe in loaded}
    if len(merges) > 1:
        raise DataError("the recipes differ in their merge, product and factor", where=path, hint="Predict them apart.")
    named = [unpack(recipe, pool.modules, where=_at(path, recipe.user_id)) for recipe in loaded]
    used = sorted({sharer for weights in named for mix in weights.values() for sharer, _ in mix})
    if unknown := [sharer for sharer in used if sharer not in pool.places]:
        raise DataError(f"the recipe uses {unknown[0]!r}, who is not in the pool", where=path)
    index = {sharer: i for i, sharer in enumerate(used)}
    recipes = [{m: [(index[s], w) for s, w in mix] for m, mix in weights.items()} for weights in named]
    digests = {"pool": pool.digest, "recipes": hashing.digest_value(loaded)}
    places = {user.user_id: i for i, user in enumerate(users)}
    return ModelsToRun([pool.adapter(pool.places[s]) for s in used], recipes, places, merges.pop(), digests, pool)


def _at(path: Path, user_id: str) -> str:
    """Where a user's recipe is, or should be: a file of a directory, or a line of a packed file."""
    return str(path / f"{user_id}.json") if path.is_dir() else f"{path}, {user_id}"


def recipes_name(path: Path) -> str:
    """What a place of recipes is called in tables: `recipes` is Per-PCs', `recipes-prime-1` is `prime-1`."""
    name = path.stem if is_packed(path) else path.name.removesuffix(".json")
    return "per-pcs" if name == "recipes" else name.removeprefix("recipes-")
