"""What a workspace has to report."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from perpcs_cli.artifacts.adapter import WEIGHTS
from perpcs_cli.artifacts.io import hashing, typed_files
from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.metrics import Metrics, Source, objective, read_metrics
from perpcs_cli.artifacts.mia import Leakage, read_leakage
from perpcs_cli.artifacts.packed_recipes import files_in, is_packed
from perpcs_cli.artifacts.pool import open_pool
from perpcs_cli.artifacts.predictions import PredictionsInfo, info_path
from perpcs_cli.artifacts.users import each_user
from perpcs_cli.errors import DataError
from perpcs_cli.experiments.report import answers, leakage, origins, recipes
from perpcs_cli.experiments.report.blocks import Cell, Fact, Figures, Page, Section, Table, counted
from perpcs_cli.experiments.report.evaluations import Evaluation, Score, blocks
from perpcs_cli.experiments.report.wanted import Gathered, Wanted
from perpcs_cli.steps.evaluate.metrics import evaluate_predictions
from perpcs_cli.steps.inspect.outputs import STOPPED, evaluated
from perpcs_cli.steps.inspect.status import status
from perpcs_cli.steps.inspect.step_state import Step
from perpcs_cli.steps.workspace import Who, Workspace


def gather(workspace: Workspace, asked: Wanted) -> Gathered:
    """Everything that a workspace's files say. Raises DataError for a broken one."""
    return _Look(workspace, asked).page()


@dataclass(frozen=True)
class _Look:
    workspace: Workspace
    asked: Wanted

    @cached_property
    def predictions(self) -> dict[str, Path]:
        """Prediction files by name, those of the first evaluation in its order, then the others."""
        paths = sorted(self.workspace.predictions.glob("*.jsonl"))
        files = {path.stem: path for path in paths if not path.name.endswith(STOPPED)}
        compared = next(iter(self.metrics.values())).systems if self.metrics else ()
        return {name: files[name] for name in [*(one for one in compared if one in files), *files]}

    @cached_property
    def infos(self) -> dict[str, PredictionsInfo]:
        """What those that are ours say of themselves."""
        return {
            name: typed_files.read_json(info_path(path), PredictionsInfo)
            for name, path in self.predictions.items()
            if info_path(path).exists()
        }

    @cached_property
    def metrics(self) -> dict[str, Metrics]:
        """Evaluations by name; the one of the most systems first."""
        found = {path.stem: read_metrics(path) for path in sorted((self.workspace.root / "metrics").glob("*.json"))}
        return dict(sorted(found.items(), key=lambda one: -len(one[1].systems)))

    @cached_property
    def summaries(self) -> list[Path]:
        """Of attacks."""
        return self.asked.summaries(self.workspace.root)

    @cached_property
    def recipes(self) -> dict[str, Path]:
        """Directories and packed files of recipes by method."""
        there = {path.stem if is_packed(path) else path.name: path for path in self.workspace.recipe_places}
        return {name.removeprefix("recipes").removeprefix("-") or "per-pcs": path for name, path in there.items()}

    @cached_property
    def traces(self) -> list[Path]:
        """Searches."""
        return sorted(self.workspace.traces.glob("*.jsonl"))

    @cached_property
    def faulty(self) -> list[Step]:
        """What is not of what stands there now, or not whole."""
        return [one for one in status(self.workspace).steps if one.state in ("stale", "partial", "broken")]

    def page(self) -> Gathered:
        """The whole."""
        places, ids = self.workspace, self.asked.who.ids
        predict = "`perpcs predict` answers the users' queries."
        sections = [
            self._systems(predict),
            self._results(),
            leakage.section(self.summaries, self._known, "`perpcs mia` attacks the recipes."),
            recipes.search_section(self.traces, ids, "`perpcs prime` searches, and keeps every candidate in traces/."),
            recipes.pieces_section(self.recipes, ids, "`perpcs assemble` makes recipes from the pool."),
            self._storage(),
            self._answers(predict),
            self._provenance(),
        ]
        settings = places.settings
        task = places.task
        title = f"{task.title} with {Path(settings.model).name}"
        files = [
            *(path for path in (places.settings_file, self.asked.who.path(places), places.pool) if path.exists()),
            *self.predictions.values(),
            *(places.root / "metrics").glob("*.json"),
            *self.traces,
            *(path for place in self.recipes.values() for path in files_in(place)),
        ]
        holds = bool(self.predictions) and self.asked.answers > 0
        return Gathered(Page(title, "a workspace", self._facts(), sections, holds), files)

    def _answers(self, missing: str) -> Section:
        files = self.predictions
        if files and not self.asked.who.path(self.workspace).exists():
            files, missing = {}, "`perpcs report --users-file FILE` says where the users are."
        return answers.section(files, self.workspace, self.asked.who, self.asked.answers, missing)

    def _facts(self) -> list[Fact]:
        places, settings = self.workspace, self.workspace.settings
        facts = [
            Fact("Task", f"{places.task.title} ({places.task.name})"),
            Fact("Base model", Path(settings.model).name),
        ]
        facts.append(Fact("Task adapter", "yes" if places.task_adapter.exists() else "none"))
        if (path := self.asked.who.path(places)).exists():
            users = [(len(user.history), len(user.queries)) for user in each_user(path)]
            items, queries = sum(a for a, _ in users), sum(b for _, b in users)
            asked = counted(queries, "query", "queries")
            facts.append(Fact("Users", f"{counted(len(users), 'user')}, {counted(items, 'history item')}, {asked}"))
        parts = {"base users": "base", "targets": "target", "candidates": "candidate", "sharers": "sharer"}
        sizes = {name: len(ids) for name, part in parts.items() if (ids := places.split(part))}
        if sizes:
            facts.append(Fact("Split", ", ".join(f"{size} {name}" for name, size in sizes.items())))
        if places.pool.exists():
            pool = open_pool(places.pool).manifest
            what = f"{counted(len(pool.sharers), 'sharer')}, rank {pool.rank}, {len(pool.modules)} linear layers"
            facts.append(Fact("Pool", what + (", pseudonyms" if pool.pseudonyms else "")))
        facts.append(Fact("Settings", f"paper {settings.paper}, preset {settings.preset}, seed {settings.seed}"))
        if self.faulty:
            facts.append(Fact("Not up to date", f"{counted(len(self.faulty), 'step')}: see Provenance"))
        return facts

    def _systems(self, missing: str) -> Section:
        """What was compared, and in what the systems differ."""
        differ = origins.told_apart({name: info.provenance for name, info in self.infos.items()})
        rows = [
            [
                Cell(name),
                Cell(self._label(name)),
                Cell(str(self.infos[name].count) if name in self.infos else "", number=True),
                Cell(", ".join(filter(None, (differ.get(name), self._priced(name))))),
            ]
            for name in self.predictions
        ]
        if not rows:
            return Section("systems", "Systems", missing=missing)
        table = Table(["predictions", "model", "answers", "in what they differ"], rows).without_empty()
        return Section("systems", "Systems", "The prediction files that there are.", [table])

    def _label(self, name: str) -> str:
        """What a prediction file calls its model, where that is not the file's own name."""
        if name not in self.infos:
            return "from elsewhere"
        label = self.infos[name].model_label
        return "" if label == name else label

    def _priced(self, name: str) -> str:
        alpha = self._alpha(name)
        return "" if alpha is None else f"α {alpha:g}"

    def _alpha(self, name: str) -> float | None:
        """PriME's α of the recipes of that name."""
        for recipe in recipes.first_recipes(self.recipes[name], (), 1) if name in self.recipes else ():
            stated = recipe.provenance.settings.get("alpha")
            return float(stated) if recipe.method == "prime" and isinstance(stated, int | float) else None
        return None

    def _results(self) -> Section:
        parts: list[Table | Figures] = []
        drawn: set[str] = set()
        for name, found in self.metrics.items():
            parts += blocks(self._evaluation(name, found), drawn)
            drawn |= set(found.systems)
        if not parts:
            missing = "`perpcs eval predictions/*.jsonl --out metrics/eval.json` compares the systems."
            return Section("results", "Results", missing=missing)
        return Section("results", "Results", "The best value of each metric is bold.", parts)

    def _evaluation(self, name: str, found: Metrics) -> Evaluation:
        about = f"{name}: {counted(found.count, 'query', 'queries')}"
        about += f" of {counted(found.user_count, 'user')}" if found.user_count else ""
        if found.resampling:
            about += f"; 95 % intervals from {found.resampling.resamples} resamples of {found.resampling.unit}"
        if len(found.systems) > 1:
            about += f"; Δ and p against {found.baseline}, two-sided, not corrected for several comparisons"
        scores = {
            system: {
                metric: Score(one.values[metric], one.intervals.get(metric), gap, gap.p if gap else None)
                for metric in found.metrics
                for gap in [one.differences.get(metric)]
            }
            for system, one in found.systems.items()
        }
        baseline = found.baseline if len(scores) > 1 else ""
        return Evaluation(
            about, found.metrics, baseline, dict.fromkeys(scores, found.count), scores, self._users(name, found)
        )

    def _users(self, name: str, found: Metrics) -> dict[str, dict[str, float]]:
        """The first metric by system and user: as the evaluation says, or from the files that it is of."""
        if not found.user_count or not found.metrics:
            return {}
        if not all(one.users for one in found.systems.values()):
            path = self.workspace.root / "metrics" / f"{name}.json"
            sources = {system: one.predictions for system, one in found.systems.items()}
            there = {system: file for system, source in sources.items() if (file := self._source(path, source))}
            users = self.asked.who.path(self.workspace)
            if len(there) < len(sources) or not users.exists() or hashing.digest_file(users) != found.references.sha256:
                return {}
            own = evaluate_predictions(
                there,
                self.workspace,
                Who(file=self.asked.who.file),
                baseline=found.baseline,
                resamples=0,
                per_user=True,
                partial=True,
            )
            if own.count != found.count:
                # It was of some users alone.
                return {}
            found = own
        metric, ids = found.metrics[0], self.asked.who.ids
        return {
            system: {user: one.values[metric] for user, one in values.users.items() if not ids or user in ids}
            for system, values in found.systems.items()
        }

    def _source(self, metrics: Path, source: Source) -> Path | None:
        """The file that an evaluation was of, where it is here and has not changed."""
        named = (evaluated(self.workspace, metrics, source), self.workspace.predictions / Path(source.file).name)
        files = (path for path in named if path is not None and path.is_file())
        return next((path for path in files if hashing.digest_file(path) == source.sha256), None)

    def _known(self, _leakage: Leakage, name: str) -> leakage.Known:
        """The utility of an attacked system by its predictions, and its α by its recipes."""
        utility = None
        if (path := self.predictions.get(name)) is not None and self.asked.who.path(self.workspace).exists():
            try:
                own = evaluate_predictions(
                    {name: path}, self.workspace, Who(file=self.asked.who.file), resamples=0, partial=True
                )
                utility = objective(own.systems[name].values)
            except DataError:
                # Its queries have no references.
                utility = None
        alpha = self._alpha(name)
        return leakage.Known(utility, alpha, "PriME" if alpha is not None else "")

    def _storage(self) -> Section:
        users = {one.user_id for place in self.recipes.values() for one in recipes.first_recipes(place, ())}
        homes = sorted(
            path for path in self.workspace.root.iterdir() if path.is_dir() and path != self.workspace.sharers
        )
        own = next((path for path in homes if users & {one.parent.name for one in path.glob(f"*/{WEIGHTS}")}), None)
        missing = (
            "A pool and recipes are weighed here, once there are some: `perpcs pool build`, `perpcs assemble`.",
            "Files have no times, so that runs can be compared: `perpcs sweep` measures each step.",
        )
        return recipes.storage_section(self.recipes, own, self.workspace.pool, (), missing)

    def _provenance(self) -> Section:
        root = self.workspace.root
        made: dict[str, Provenance] = {}
        made |= {f"predictions/{name}.jsonl": info.provenance for name, info in self.infos.items()}
        made |= {f"metrics/{name}.json": found.provenance for name, found in self.metrics.items()}
        made |= {origins.below(root, path): read_leakage(path).provenance for path in self.summaries}
        for place in self.recipes.values():
            for one in recipes.first_recipes(place, (), 1):
                name = place if is_packed(place) else place / f"{one.user_id}.json"
                made[str(name.relative_to(root))] = one.provenance
        if self.workspace.pool.exists():
            made["pool.json"] = open_pool(self.workspace.pool).manifest.provenance
        return origins.section(dict(sorted(made.items())), self.faulty)
