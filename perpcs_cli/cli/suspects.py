"""Which models are attacked, what they are made of, and whose items they may have seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perpcs_cli.artifacts.adapter import Adapter, open_adapter
from perpcs_cli.artifacts.mia import Kind
from perpcs_cli.artifacts.pool import OpenPool, open_pool
from perpcs_cli.artifacts.users import User
from perpcs_cli.artifacts.workspace import Merge
from perpcs_cli.cli.context import Context, listed_ids
from perpcs_cli.cli.lineup import Lineup, recipe_lineup, recipes_name
from perpcs_cli.cli.pool import sharer_names
from perpcs_cli.errors import UsageError
from perpcs_cli.methods.membership import Suspect

if TYPE_CHECKING:
    from torch import Tensor

    from perpcs_cli.model.base import Base
    from perpcs_cli.model.pieces import Bank

Recipe = dict[str, list[tuple[int, float]]]
EVERYONE = "*"
"""The target of a model that is everyone's."""
ALL = "all"
SHARERS = ("sharers", "sharers-no-gates")
"""What the pool's adapters with their gates, and without, are called."""
PRODUCT: Merge = "product"


@dataclass(frozen=True)
class TargetFlags:
    """Which models are attacked."""

    plain_base: Annotated[
        bool, typer.Option("--base", help="Attack the base, too, which saw nothing, on the first recipes' items.")
    ] = False
    recipes: Annotated[
        list[Path] | None,
        typer.Option("--recipes", help="A directory of recipes; may be repeated. [default: recipes of the workspace]"),
    ] = None
    own: Annotated[
        list[Path] | None, typer.Option("--own", help="A directory of the users' own adapters (OPPU): DIR/USER.")
    ] = None
    target_sharer: Annotated[
        list[str] | None,
        typer.Option("--target-sharer", metavar="<id>", help="Attack a sharer's own adapter; may be repeated."),
    ] = None
    target_sharers: Annotated[
        str | None,
        typer.Option("--target-sharers", metavar="<ids>", help="The same: all, ids separated by commas, or @FILE."),
    ] = None
    no_gates: Annotated[bool, typer.Option("--no-gates", help="Attack the sharers' adapters without their gates.")] = (
        False
    )


@dataclass
class Cast:
    """The models that are run, each once however often it occurs, and the suspects among them. Model 0 is the base."""

    adapters: list[Adapter] = field(default_factory=list)
    gates: dict[int, tuple[OpenPool, int]] = field(default_factory=dict)
    """Index of a gated adapter → the pool and the sharer's index in it."""
    models: list[Recipe] = field(default_factory=lambda: [{}])
    merges: list[Merge | None] = field(default_factory=lambda: [None])
    """How each model is merged; None where it makes no difference."""
    suspects: list[Suspect] = field(default_factory=list)
    owners: dict[str, Adapter] = field(default_factory=dict)
    """User → the adapter that was trained on this user's items."""
    _places: dict[Path, int] = field(default_factory=dict)
    _known: dict[object, int] = field(default_factory=lambda: {(None, ()): 0})

    def add_recipes(self, name: str, lineup: Lineup, pool: OpenPool) -> None:
        """The users' recipes over a pool."""
        singles = self._pool(pool)
        for user_id, number in lineup.users.items():
            recipe = lineup.recipes[number]
            used = {sharer for mix in recipe.values() for sharer, weight in mix if weight}
            names = frozenset(name_of(lineup.adapters[index]) for index in used)
            places = {index: self._adapter(lineup.adapters[index]) for index in used}
            moved = {m: [(places[index], weight) for index, weight in mix if weight] for m, mix in recipe.items()}
            model = self._model(moved, lineup.merge)
            self._suspect(name, "recipes", user_id, model, names, singles)

    def add_own(self, name: str, directory: Path, users: Sequence[User]) -> None:
        """Each user's own adapter from a directory; the others in it are those that did not see the user's items."""
        own = {user_id: open_adapter(directory / user_id) for user_id in sharer_names(directory)}
        if missing := [user.user_id for user in users if user.user_id not in own]:
            open_adapter(directory / missing[0])
        self._own(own)
        singles = {user_id: self._single(adapter, adapter.modules) for user_id, adapter in own.items()}
        for user in users:
            self._suspect(name, "own", user.user_id, singles[user.user_id], frozenset([user.user_id]), singles)

    def add_sharers(self, name: str, pool: OpenPool, wanted: Sequence[str], *, gated: bool) -> None:
        """Sharers' own adapters as the pool gives them, with their gates or without."""
        singles = self._pool(pool)
        for user_id in wanted:
            model = singles[user_id]
            if gated:
                index = pool.ids.index(user_id)
                self.adapters.append(pool.adapter(index))
                place = len(self.adapters) - 1
                self.gates[place] = (pool, index)
                # A gate multiplies what an adapter adds, so the merge matters even for one sharer.
                model = self._model({m: [(place, 1.0)] for m in _shared(pool, index)}, "product")
            self._suspect(name, "sharers", user_id, model, frozenset([user_id]), singles)

    def add_base(self, pool: OpenPool | None) -> None:
        """The base, judged on the same items as the first recipes that leave sharers out, else as the first ones;
        without recipes, on all of the pool's."""
        recipes = [suspect for suspect in self.suspects if suspect.kind == "recipes"]
        if recipes:
            partial = [suspect for suspect in recipes if 0 < len(suspect.trained) < len(suspect.users)]
            first = [suspect for suspect in recipes if suspect.system == (partial or recipes)[0].system]
            self.suspects += [replace(suspect, system="base", kind="base", model=0) for suspect in first]
        elif pool:
            singles = self._pool(pool)
            self._suspect("base", "base", EVERYONE, 0, frozenset(singles), singles)

    def bank(self, base: Base) -> Bank:
        """The pieces and gates, ready to run. Raises DataError where an adapter does not fit the base."""
        from perpcs_cli.model.pieces import Bank

        for adapter in self.adapters:
            adapter.check_fits(base.fingerprint, base.shapes)
        stacks: dict[str, Tensor] = {}

        def gate(module: str, index: int) -> Tensor | None:
            if index not in self.gates:
                return None
            pool, sharer = self.gates[index]
            if module not in stacks:
                stacks[module] = pool.gates().read(module)
            return stacks[module][sharer]

        return Bank(base, lambda index: self.adapters[index], gate)

    def passes(self, rows: Sequence[tuple[int, int]]) -> list[tuple[Merge, list[tuple[int, int]]]]:
        """The (item, model) pairs by the merge that they need; where it makes no difference they go with the first."""
        needed = sorted({merge for _, model in rows if (merge := self.merges[model])}) or [PRODUCT]
        return [(merge, [row for row in rows if (self.merges[row[1]] or needed[0]) == merge]) for merge in needed]

    def _suspect(
        self, system: str, kind: Kind, target: str, model: int, trained: frozenset[str], singles: Mapping[str, int]
    ) -> None:
        self.suspects.append(Suspect(system, kind, target, model, trained, tuple(singles), singles))

    def _pool(self, pool: OpenPool) -> dict[str, int]:
        self._own({user_id: pool.adapter(index) for index, user_id in enumerate(pool.ids)})
        return {
            user_id: self._single(pool.adapter(index), _shared(pool, index)) for index, user_id in enumerate(pool.ids)
        }

    def _own(self, adapters: Mapping[str, Adapter]) -> None:
        for user_id, adapter in adapters.items():
            before = self.owners.setdefault(user_id, adapter)
            if before.path.resolve() != adapter.path.resolve():
                raise UsageError(
                    f"user {user_id!r} has two adapters, {before.path} and {adapter.path}",
                    hint="What is a member for one is none for the other: attack them in two runs.",
                )

    def _single(self, adapter: Adapter, modules: Iterable[str]) -> int:
        place = self._adapter(adapter)
        return self._model({module: [(place, 1.0)] for module in modules}, None)

    def _adapter(self, adapter: Adapter) -> int:
        if adapter.path not in self._places:
            self._places[adapter.path] = len(self.adapters)
            self.adapters.append(adapter)
        return self._places[adapter.path]

    def _model(self, recipe: Recipe, merge: Merge | None) -> int:
        plain = {module: mix for module, mix in recipe.items() if mix}
        single = all(mix[0][1] == 1 and len(mix) == 1 and mix[0][0] not in self.gates for mix in plain.values())
        kept = None if single else merge
        key = (kept, tuple(sorted((module, tuple(mix)) for module, mix in plain.items())))
        if key not in self._known:
            self._known[key] = len(self.models)
            self.models.append(plain)
            self.merges.append(kept)
        return self._known[key]


def _shared(pool: OpenPool, index: int) -> list[str]:
    """The linear layers whose pieces a sharer gives, in the model's order."""
    given = pool.shares(index)
    return [module for module in pool.modules if module in given]


def name_of(adapter: Adapter) -> str:
    """The user whose adapter it is."""
    return adapter.card.user_id if adapter.card else adapter.path.name


def assemble_cast(
    context: Context, what: TargetFlags, pool: Path | None, targets: Sequence[User]
) -> tuple[Cast, OpenPool | None, dict[str, str]]:
    """(the suspects that were asked for, the pool if one is needed, digests of everything that is attacked)."""
    cast = Cast()
    digests: dict[str, str] = {}
    sharers = list(what.target_sharer or [])
    if what.target_sharers is not None and what.target_sharers != ALL:
        sharers += listed_ids(what.target_sharers, "--target-sharers")
    places = what.recipes or []
    if not (places or what.own or sharers or what.target_sharers or what.plain_base):
        places = [context.recipes]
    own = what.own or []
    names = [*map(recipes_name, places), *(place.resolve().name for place in own)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"two directories are called {twice[0]!r}", where="--recipes and --own", hint="Rename one.")
    kept = {*(SHARERS if sharers or what.target_sharers else ()), *(["base"] if what.plain_base else [])}
    if taken := sorted(kept & set(names)):
        raise UsageError(
            f"a directory is called {taken[0]!r}, as other models of this run are",
            where="--recipes and --own",
            hint="Rename it, or attack them in two runs.",
        )
    opened = None
    if places or sharers or what.target_sharers or what.plain_base:
        opened = open_pool(pool or context.pool)
        digests["pool"] = opened.digest
        for place in places:
            lineup = recipe_lineup(place, opened, list(targets))
            cast.add_recipes(recipes_name(place), lineup, opened)
            digests[f"recipes {recipes_name(place)}"] = lineup.digests["recipes"]
        if sharers or what.target_sharers:
            wanted = list(dict.fromkeys(opened.ids if what.target_sharers == ALL else sharers))
            if missing := [sharer for sharer in wanted if sharer not in opened.ids]:
                raise UsageError(f"no such sharer in the pool: {missing[0]!r}", where=opened.path)
            gated = bool(opened.manifest.gates) and not what.no_gates
            cast.add_sharers(SHARERS[not gated], opened, wanted, gated=gated)
        if what.plain_base:
            cast.add_base(opened)
    for place in own:
        cast.add_own(place.resolve().name, place, targets)
        digests |= {f"{place.resolve().name} {name}": cast.owners[name].digest() for name in sharer_names(place)}
    return cast, opened, digests
