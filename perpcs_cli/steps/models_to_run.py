"""Which models a step runs: the base, one adapter, each user's own, or recipes over a pool."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perpcs_cli.artifacts.adapter import Adapter, open_adapter
from perpcs_cli.artifacts.io import hashing
from perpcs_cli.artifacts.packed_recipes import find_recipes, is_packed
from perpcs_cli.artifacts.pool import OpenPool, check_base, check_layers
from perpcs_cli.artifacts.recipe import Recipe, of_pool, read_recipe, recipe_bytes, unpack
from perpcs_cli.artifacts.settings import Merge
from perpcs_cli.errors import DataError, UsageError
from perpcs_cli.steps.base import StepModel

if TYPE_CHECKING:
    from perpcs_cli.model.engine.recipe_router import Weights

TOGETHER = 1000
"""Users whose recipes are in memory at a time."""


@dataclass(frozen=True)
class ModelsToRun:
    """Adapters, recipes over them, each user's recipe, and the digests of what they came from."""

    adapters: list[Adapter]
    recipes: Sequence[Weights]
    users: dict[str, int]
    merge: Merge
    digests: dict[str, str]
    pool: OpenPool | None = None

    def swapped(self) -> ModelsToRun:
        """The same with each user's model given to another, the one half of the users further on: a control.

        Raises UsageError where all users have one model.
        """
        names = list(self.users)
        first, *others = dict.fromkeys(self.users.values())
        model = self.recipes[first]
        if all(self.recipes[place] == model for place in others):
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


def base_alone(users: Sequence[str]) -> ModelsToRun:
    """The base model for everyone: no adapters, all weights zero."""
    return ModelsToRun([], [{}], dict.fromkeys(users, 0), "product", {})


def single_adapters(shared: Path | None, own: Path | None, users: Sequence[str]) -> ModelsToRun:
    """One-hot recipes: one adapter for all users, or each user's own."""
    if shared:
        adapters, places = [open_adapter(shared)], dict.fromkeys(users, 0)
    else:
        adapters = [open_adapter((own or Path()) / user) for user in users]
        places = {user: index for index, user in enumerate(users)}
    recipes = [{m: [(index, 1.0)] for m in adapter.modules} for index, adapter in enumerate(adapters)]
    digests = {f"adapter {adapter.path.name}": adapter.digest() for adapter in adapters}
    return ModelsToRun(adapters, recipes, places, "product", digests)


class Recipes(Sequence["Weights"]):
    """The recipes at a place, one for each of the users or one file for all, ready to run. They are read when they are
    asked for, some at a time, and must still be what they were when `each` gave them."""

    def __init__(self, path: Path, pool: OpenPool, users: Sequence[str]) -> None:
        self.path = path
        self.pool = pool
        self.shared = path.is_file() and not is_packed(path)
        self.users = users[:1] if self.shared else users
        self.merges: set[Merge] = set()
        self.used: list[str] = []
        """The sharers that any recipe uses, sorted."""
        self._seen: list[str] = []
        self._read: dict[int, Weights] = {}

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, number: Any) -> Any:
        if not 0 <= number < len(self):
            raise IndexError(number)
        if number not in self._read:
            first = number - number % TOGETHER
            recipes = self._found(first).values()
            if list(map(_digest, recipes)) != self._seen[first : first + TOGETHER]:
                raise DataError(
                    "the recipes have changed while this command ran", where=self.path, hint="Run it again."
                )
            index = {sharer: place for place, sharer in enumerate(self.used)}
            named = map(self._named, recipes)
            ready = [{m: [(index[s], w) for s, w in mix] for m, mix in weights.items()} for weights in named]
            self._read = dict(enumerate(ready, start=first))
        return self._read[number]

    def each(self) -> Iterator[Recipe]:
        """All of them, with checks. Raises DataError where any is missing, broken, or of another pool."""
        missing: list[str] = []
        used: set[str] = set()
        for first in range(0, len(self), TOGETHER):
            found = self._found(first)
            missing += [user for user in self.users[first : first + TOGETHER] if user not in found]
            for user, recipe in found.items() if not missing else ():
                of_pool(recipe, self.pool.digest, where=_at(self.path, user))
                self.merges.add(recipe.merge)
                if len(self.merges) > 1:
                    what = "the recipes differ in their merge, product and factor"
                    raise DataError(what, where=self.path, hint="Predict them apart.")
                used |= {sharer for mix in self._named(recipe).values() for sharer, _ in mix}
                self._seen.append(_digest(recipe))
                yield recipe
        if missing:
            raise DataError(
                f"{len(missing)} of {len(self)} users have no recipe",
                where=_at(self.path, missing[0]),
                hint=f"Make it with `perpcs assemble --user {missing[0]}`, or choose other users with --users.",
            )
        if unknown := sorted(used - self.pool.places.keys()):
            raise DataError(f"the recipe uses {unknown[0]!r}, who is not in the pool", where=self.path)
        self.used = sorted(used)

    def _named(self, recipe: Recipe) -> dict[str, list[tuple[str, float]]]:
        return unpack(recipe, self.pool.modules, where=_at(self.path, recipe.user_id))

    def _found(self, first: int) -> dict[str, Recipe]:
        """Those of the users from number `first` on, in their order."""
        some = self.users[first : first + TOGETHER]
        if self.shared:
            return dict.fromkeys(some, read_recipe(self.path, pool=self.pool.digest))
        found = find_recipes(self.path, some)
        return {user: found[user] for user in some if user in found}


def _digest(recipe: Recipe) -> str:
    return hashing.digest_bytes(recipe_bytes(recipe))[:16]


def recipes_over(path: Path, pool: OpenPool, users: Sequence[str]) -> ModelsToRun:
    """The users' recipes over the adapters that they use."""
    if not path.exists():
        raise DataError("there are no recipes", where=path, hint="Make them with `perpcs assemble`, or use --base.")
    recipes = Recipes(path, pool, users)
    copies = len(users) if recipes.shared else 1
    digest = hashing.digest_values(recipe for recipe in recipes.each() for _ in range(copies))
    places = {user: 0 if recipes.shared else number for number, user in enumerate(users)}
    adapters = [pool.adapter(pool.places[sharer]) for sharer in recipes.used]
    digests = {"pool": pool.digest, "recipes": digest}
    return ModelsToRun(adapters, recipes, places, recipes.merges.pop(), digests, pool)


def _at(path: Path, user_id: str) -> str:
    """Where a user's recipe is, or should be: a file of a directory, or a line of a packed file."""
    return str(path / f"{user_id}.json") if path.is_dir() else f"{path}, {user_id}"


def recipes_name(path: Path) -> str:
    """What a place of recipes is called in tables: `recipes` is Per-PCs', `recipes-prime-1` is `prime-1`."""
    name = path.stem if is_packed(path) else path.name.removesuffix(".json")
    return "per-pcs" if name == "recipes" else name.removeprefix("recipes-")
