"""What was made for target users, and whether it is still of what stands there: recipes, predictions, summaries."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from perpcs_cli.artifacts.io import hashing, typed_files
from perpcs_cli.artifacts.io.journal import partial_path
from perpcs_cli.artifacts.metrics import Source, read_metrics
from perpcs_cli.artifacts.mia import read_leakage
from perpcs_cli.artifacts.packed_recipes import each_recipe, files_in, is_packed
from perpcs_cli.artifacts.predictions import PredictionsInfo, info_path
from perpcs_cli.errors import shortened
from perpcs_cli.steps.inspect.step_state import Found, Step, looked
from perpcs_cli.steps.shards import journals, without_shard
from perpcs_cli.steps.workspace import Places

STOPPED = ".partial.jsonl"


@dataclass(frozen=True)
class Outputs:
    """What was made for target users in a workspace whose pool has a digest."""

    places: Places
    pool: str
    targets: Collection[str]
    """Those of the split; empty where there is none."""

    def recipes(self) -> list[Step]:
        """One step for each place of recipes; at least that of `perpcs assemble`."""
        known = {self.places.recipes: "assemble"}
        known |= {self.places.recipes_of(method): method for method in ("retrieve", "prime")}
        found = self.places.recipe_places
        steps = []
        for path in [self.places.recipes] * (not found) + found:
            method = known.get(path, path.name)
            command = f"perpcs {method}" if path in known else f"perpcs assemble --out {path.name}"
            optional = path != self.places.recipes and bool(found)
            there, look = bool(files_in(path)), partial(self._recipe_files, path)
            steps.append(self._one(method, path, command, look, optional=optional, there=there))
        return steps

    def _recipe_files(self, path: Path) -> Found:
        if is_packed(path):
            pools = {recipe.user_id: recipe.pool for file in files_in(path) for recipe in each_recipe(file)}
        else:
            pools = {file.stem: typed_files.read_json(file, _Bound).pool for file in files_in(path)}
        stale = [user for user, pool in pools.items() if pool != self.pool]
        wanted = self.targets or list(pools)
        missing = [name for name in wanted if name not in pools]
        what = f"{len(pools)} recipes" if not missing else f"{len(wanted) - len(missing)} of {len(wanted)} targets"
        if stale:
            return "stale", what, f"of another pool: {shortened(stale)}"
        if missing:
            return ("partial" if pools else "missing"), what, f"no recipe: {shortened(missing)}"
        if is_packed(path) and partial_path(path).exists():
            return "partial", what, "it was stopped; the same command goes on"
        return ("done" if pools else "missing"), what, ""

    def predictions(self) -> list[Step]:
        """One step for each file of predictions, those that were stopped before there was one included."""
        directory = self.places.predictions
        stopped = {without_shard(path.name.removesuffix(STOPPED)) for path in directory.glob(f"*{STOPPED}")}
        names = {path.stem for path in directory.glob("*.jsonl") if not path.name.endswith(STOPPED)} | stopped
        if not names:
            return [self._one("predict", directory, "perpcs predict", _nothing)]
        steps = []
        for name in sorted(names):
            path = directory / f"{name}.jsonl"
            look = partial(self._prediction, path)
            steps.append(self._one(f"predict {name}", path, _predicted(name), look, there=True))
        return steps

    def _prediction(self, path: Path) -> Found:
        if partial_path(path).exists():
            return "partial", "", "it was stopped; the same command goes on"
        if shards := journals(path):
            return "partial", f"{len(shards)} shards", "the command without --shard puts them together"
        if not info_path(path).exists():
            return "done", f"{sum(1 for _ in typed_files.lines(path))} answers", ""
        info = typed_files.read_json(info_path(path), PredictionsInfo)
        what = f"{info.count} answers"
        if hashing.digest_file(path) != info.sha256:
            return "stale", what, "the file was changed by hand"
        if (pool := info.provenance.inputs.get("pool")) and pool != self.pool:
            return "stale", what, "the pool has changed since"
        return "done", what, ""

    def metrics(self) -> list[Step]:
        """One step for each summary of `perpcs eval` in the folder metrics."""
        return self._files("eval", self.places.root / "metrics", self._metrics, optional=False)

    def leakage(self) -> list[Step]:
        """One step for each summary of `perpcs mia`."""
        return self._files("mia", self.places.mia, self._leakage, optional=True)

    def _files(self, name: str, directory: Path, look: Callable[[Path], Found], *, optional: bool) -> list[Step]:
        files = sorted(directory.glob("*.json"))
        if not files:
            return [self._one(name, directory, f"perpcs {name}", _nothing, optional=optional)]
        return [
            self._one(f"{name} {path.stem}", path, f"perpcs {name}", partial(look, path), optional=optional)
            for path in files
        ]

    @property
    def _one(self) -> Callable[..., Step]:
        return partial(looked, self.places.root)

    def _metrics(self, path: Path) -> Found:
        found = read_metrics(path)
        named = {name: system.predictions for name, system in found.systems.items()}
        what = f"{len(named)} systems, {found.count} queries"
        return self._same(path, {**named, "the references": found.references}, what)

    def _leakage(self, path: Path) -> Found:
        found = read_leakage(path)
        what = f"{len(found.systems)} systems"
        pool = found.provenance.inputs.get("pool")
        return ("stale", what, "the pool has changed since") if pool and pool != self.pool else ("done", what, "")

    def _same(self, path: Path, sources: Mapping[str, Source], what: str) -> Found:
        """Stale where a file that a summary is of has changed."""
        changed = []
        for name, source in sources.items():
            there = evaluated(self.places, path, source)
            if there is not None and hashing.digest_file(there) != source.sha256:
                changed.append(name)
        return ("stale", what, f"changed since: {shortened(changed)}") if changed else ("done", what, "")


def evaluated(places: Places, metrics: Path, source: Source) -> Path | None:
    """A file that the summary `metrics` of `perpcs eval` is of, or None; it is named as it was given, from wherever."""
    folders = (places.root, places.predictions, metrics.parent)
    return next((folder / source.file for folder in folders if (folder / source.file).exists()), None)


class _Bound(msgspec.Struct, frozen=True):
    """Which pool a recipe is of; nothing else of it is read."""

    pool: str


def _nothing() -> Found:
    return "missing", "", ""


def _predicted(name: str) -> str:
    """The command that most likely made predictions of that name."""
    if name in ("base", "adapted"):
        return f"perpcs predict --base --name {name}"
    return f"perpcs predict --recipes recipes-{name}" if name in ("prime", "retrieve") else "perpcs predict"
