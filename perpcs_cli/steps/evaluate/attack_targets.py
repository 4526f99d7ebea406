"""Which models are attacked, what they are made of, and whose items they may have seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from perpcs_cli.artifacts.adapter import Adapter, open_adapter
from perpcs_cli.artifacts.mia import Kind
from perpcs_cli.artifacts.pool import OpenPool, open_pool
from perpcs_cli.artifacts.settings import Merge
from perpcs_cli.errors import UsageError
from perpcs_cli.methods.membership.protocols import Suspect
from perpcs_cli.steps.models_to_run import ModelsToRun, recipes_name, recipes_over
from perpcs_cli.steps.share.gate import sharer_names
from perpcs_cli.steps.workspace import Workspace

if TYPE_CHECKING:
    from torch import Tensor

    from perpcs_cli.model.engine.piece_cache import PieceCache
    from perpcs_cli.model.loading.base import Base

Recipe = dict[str, list[tuple[int, float]]]
EVERYONE = "*"
"""The target of a model that is everyone's."""
SHARERS = ("sharers", "sharers-no-gates")
"""What the pool's adapters with their gates, and without, are called."""
PRODUCT: Merge = "product"


@dataclass(frozen=True)
class Attacked:
    """Which models are to be attacked; the recipes of the workspace where nothing is said."""

    base: bool = False
    """The base, too, which saw nothing, on the first recipes' items."""
    recipes: Sequence[Path] = ()
    own: Sequence[Path] = ()
    """Directories of the users' own adapters."""
    sharers: Sequence[str] | None = None
    """Sharers of the pool, by their own adapters; None for none, and empty for all of them."""
    gates: bool = True
    """Whether the sharers' adapters run with their gates, where the pool has them."""


@dataclass
class AttackedModels:
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

    def add_recipes(self, name: str, over: ModelsToRun, pool: OpenPool) -> None:
        """The users' recipes over a pool."""
        singles = self._pool(pool)
        for user_id, number in over.users.items():
            recipe = over.recipes[number]
            used = {sharer for mix in recipe.values() for sharer, weight in mix if weight}
            names = frozenset(over.adapters[index].user_id for index in used)
            places = {index: self._adapter(over.adapters[index]) for index in used}
            moved = {m: [(places[index], weight) for index, weight in mix if weight] for m, mix in recipe.items()}
            model = self._model(moved, over.merge)
            self._suspect(name, "recipes", user_id, model, names, singles)

    def add_own(self, name: str, directory: Path, users: Sequence[str]) -> None:
        """Each user's own adapter from a directory; the others in it are those that did not see the user's items."""
        own = {user_id: open_adapter(directory / user_id) for user_id in sharer_names(directory)}
        if missing := [user for user in users if user not in own]:
            open_adapter(directory / missing[0])
        self._own(own)
        singles = {user_id: self._single(adapter, adapter.modules) for user_id, adapter in own.items()}
        for user in users:
            self._suspect(name, "own", user, singles[user], frozenset([user]), singles)

    def add_sharers(self, name: str, pool: OpenPool, wanted: Sequence[str], *, gated: bool) -> None:
        """Sharers' own adapters as the pool gives them, with their gates or without."""
        singles = self._pool(pool)
        for user_id in wanted:
            model = singles[user_id]
            if gated:
                index = pool.places[user_id]
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

    def pieces(self, base: Base) -> PieceCache:
        """The pieces and gates, ready to run. Raises DataError where an adapter does not fit the base."""
        from perpcs_cli.model.engine.piece_cache import PieceCache

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

        return PieceCache(base, lambda index: self.adapters[index], gate)

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


def find_models(
    workspace: Workspace, what: Attacked, pool: Path | None, targets: Sequence[str]
) -> tuple[AttackedModels, OpenPool | None, dict[str, str]]:
    """(the models that were asked for, the pool if one is needed, digests of everything that is attacked)."""
    models = AttackedModels()
    digests: dict[str, str] = {}
    places = list(what.recipes)
    if not (places or what.own or what.sharers is not None or what.base):
        places = [workspace.recipes]
    names = [*map(recipes_name, places), *(place.resolve().name for place in what.own)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"two directories are called {twice[0]!r}", where="--recipes and --own", hint="Rename one.")
    kept = {*(SHARERS if what.sharers is not None else ()), *(["base"] if what.base else [])}
    if taken := sorted(kept & set(names)):
        raise UsageError(
            f"a directory is called {taken[0]!r}, as other models of this run are",
            where="--recipes and --own",
            hint="Rename it, or attack them in two runs.",
        )
    opened = None
    if places or what.sharers is not None or what.base:
        opened = open_pool(pool or workspace.pool)
        digests["pool"] = opened.digest
        for place in places:
            over = recipes_over(place, opened, targets)
            models.add_recipes(recipes_name(place), over, opened)
            digests[f"recipes {recipes_name(place)}"] = over.digests["recipes"]
        if what.sharers is not None:
            wanted = list(dict.fromkeys(what.sharers or opened.ids))
            if missing := [sharer for sharer in wanted if sharer not in opened.places]:
                raise UsageError(f"no such sharer in the pool: {missing[0]!r}", where=opened.path)
            gated = bool(opened.manifest.gates) and what.gates
            models.add_sharers(SHARERS[not gated], opened, wanted, gated=gated)
        if what.base:
            models.add_base(opened)
    for place in what.own:
        models.add_own(place.resolve().name, place, targets)
        digests |= {f"{place.resolve().name} {name}": models.owners[name].digest() for name in sharer_names(place)}
    return models, opened, digests
