"""What a sweep has to report: its cells side by side, and what each setting does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from perpcs_cli.artifacts.io import safe_paths, typed_files
from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.metrics import objective
from perpcs_cli.artifacts.mia import Leakage, read_leakage
from perpcs_cli.artifacts.packed_recipes import files_in
from perpcs_cli.artifacts.pool import gates_path
from perpcs_cli.artifacts.predictions import PredictionsInfo, info_path
from perpcs_cli.artifacts.results import verify_results
from perpcs_cli.errors import DataError
from perpcs_cli.experiments.report import answers, leakage, origins, recipes, setting_curves
from perpcs_cli.experiments.report.blocks import NOTHING, Cell, Fact, Figures, Page, Section, Table, counted
from perpcs_cli.experiments.report.evaluations import Evaluation, Score, blocks
from perpcs_cli.experiments.report.wanted import Gathered, Wanted
from perpcs_cli.experiments.sweeps.runner import Done
from perpcs_cli.experiments.tables.significance import Method, Reader, Tested, test
from perpcs_cli.experiments.tables.systems import Entry, Panel, Row, called, each, panels, plain, read_rows
from perpcs_cli.methods.statistics.corrections import NAMES
from perpcs_cli.steps.workspace import Places, Who
from perpcs_cli.tasks.metrics import higher_is_better

HOW = Method(resamples=10_000, seed=0)
"""How cells are compared, as in `perpcs table`."""


def gather(path: Path, asked: Wanted) -> Gathered:
    """Everything that the rows of a results.jsonl say, and the steps beside it."""
    rows = read_rows(path)
    if not rows:
        raise DataError("holds no results yet", where=path, hint="`perpcs sweep` writes them.")
    return _Look(path, rows, asked, Reader()).page()


@dataclass(frozen=True)
class _Look:
    path: Path
    rows: Sequence[Row]
    asked: Wanted
    reader: Reader

    @cached_property
    def gone(self) -> list[str]:
        """Files that rows name and that are not there."""
        return verify_results(self.path)

    @cached_property
    def panels(self) -> list[Panel]:
        """Tasks and models."""
        return panels(self.rows)

    @cached_property
    def entries(self) -> list[Entry]:
        """The cells, seeds together, each once however many experiments have it."""
        groups: dict[str, list[Row]] = {}
        for row in self.rows:
            same = f"{row.panel} {row.result.method} {sorted(plain(row.result.settings).items())}"
            group = groups.setdefault(same, [])
            if row.result.seed not in {one.result.seed for one in group}:
                group.append(row)
        first = {id(group[0].result): group for group in groups.values()}
        named = each([group[0] for group in groups.values()])
        found = []
        for entry in named:
            ((panel, (row,)),) = entry.cells.items()
            found.append(replace(entry, cells={panel: first[id(row.result)]}))
        return found

    def of(self, panel: Panel) -> list[Entry]:
        """A panel's entries."""
        return [entry for entry in self.entries if panel in entry.cells]

    def baseline(self, panel: Panel) -> str:
        """The adapted base, or the base, with nothing set; else the first cell."""
        some = self.of(panel)
        for method in ("adapted", "base"):
            for entry in some:
                result = entry.cells[panel][0].result
                if result.method == method and not plain(result.settings):
                    return entry.name
        return some[0].name

    def best(self, panel: Panel) -> dict[str, Entry]:
        """The best cell of each method in the first metric, by the name of the entry; the baseline first."""
        metric = panel.metrics[0]
        sign = 1 if higher_is_better(metric) else -1
        chosen = {self.baseline(panel): next(e for e in self.of(panel) if e.name == self.baseline(panel))}
        for method in dict.fromkeys(entry.system.method for entry in self.of(panel)):
            some = [entry for entry in self.of(panel) if entry.system.method == method]
            top = max(some, key=lambda entry: sign * (entry.value(panel, metric) or 0.0))
            chosen[top.name] = top
        return chosen

    def page(self) -> Gathered:
        """The whole."""
        sweep = "`perpcs sweep` makes them again where their lines are removed."
        shown = self.panels[0]
        bests = self.best(shown)
        rows = {name: entry.cells[shown][0] for name, entry in bests.items()}
        there = {name: row for name, row in rows.items() if (row.root / row.result.predictions).is_file()}
        users = self.asked.who.file or self.path.parent / next(iter(rows.values())).result.users
        who = Who(self.asked.who.ids, users)
        made = {name: found for name, row in rows.items() if (found := self._given(row, "--recipes"))}
        files = {name: row.root / row.result.predictions for name, row in there.items()} if users.is_file() else {}
        searched = [place.parent / "traces" for name, place in made.items() if bests[name].system.method == "prime"]
        traces = sorted(path for place in searched for path in place.glob("*.jsonl"))
        summaries = self.asked.summaries(self.path.parent)
        sections = [
            self._cells(),
            self._results(),
            setting_curves.section(self.rows, self.panels),
            self._activity(),
            leakage.section(
                summaries,
                self._known,
                "`perpcs mia` attacks a cell's recipes; `perpcs report --mia` takes its summaries.",
            ),
            recipes.search_section(traces, who.ids, "No cell here searches: the method prime does."),
            recipes.pieces_section(made, who.ids, "No cell here has recipes: per-pcs, prime and retrieval make them."),
            self._storage(made, rows),
            answers.section(files, Places(self.path.parent), who, self.asked.answers, sweep),
            self._provenance(summaries),
        ]
        holds = bool(files) and self.asked.answers > 0
        facts, title = self._facts(), f"{shown.task.replace('_', ' ').capitalize()} with {Path(shown.model).name}"
        named = [
            self.path,
            *(row.root / place for row in self.rows for place in (row.result.predictions, row.result.users)),
        ]
        named += [*traces, *(path for place in made.values() for path in files_in(place))]
        return Gathered(Page(title, "a sweep", facts, sections, holds), named)

    def _facts(self) -> list[Fact]:
        results = [row.result for row in self.rows]

        def all_of(name: str) -> str:
            return ", ".join(dict.fromkeys(str(getattr(one, name)) for one in results))

        experiments, systems = len({one.experiment for one in results}), counted(len(self.entries), "system")
        return [
            Fact("Task", all_of("task")),
            Fact("Base model", ", ".join(dict.fromkeys(Path(one.model).name for one in results))),
            Fact("Methods", all_of("method")),
            Fact("Cells", f"{counted(len(results), 'cell')} of {counted(experiments, 'experiment')}, {systems}"),
            Fact("Seeds", all_of("seed")),
            Fact("Queries", ", ".join(dict.fromkeys(f"{one.count} of {one.user_count} users" for one in results))),
        ]

    def _cells(self) -> Section:
        """Experiments and what they vary."""
        rows = []
        for name in dict.fromkeys(row.result.experiment for row in self.rows):
            own = [row.result for row in self.rows if row.result.experiment == name]
            keys = dict.fromkeys(key for one in own for key in plain(one.settings))
            values = {
                key: ", ".join(dict.fromkeys(origins.told(plain(one.settings).get(key, NOTHING)) for one in own))
                for key in keys
            }
            rows.append(
                [
                    Cell(name),
                    Cell(", ".join(dict.fromkeys(one.method for one in own))),
                    Cell(str(len(own)), number=True),
                    Cell("; ".join(f"{key}: {some}" for key, some in values.items())),
                ]
            )
        table = Table(
            ["experiment", "methods", "cells", "settings"], rows, f"{NOTHING} is a cell that does not set it."
        )
        common = {key: value for row in self.rows for key, value in plain(row.result.common).items()}
        every = [[Cell(key), Cell(origins.told(value))] for key, value in common.items()]
        fixed = Table(["setting", "value"], every, folded="What the sweep sets for all cells")
        return Section("systems", "Experiments", "What the sweep varies.", [table, *([fixed] if every else [])])

    def _tested(self, panel: Panel) -> Tested:
        if self.gone:
            return Tested({}, {}, {}, {}, [])
        return test(self.of(panel), panel, self.reader, HOW, self.baseline(panel))

    def _results(self) -> Section:
        parts: list[Table | Figures] = []
        for panel in self.panels:
            parts += blocks(self._evaluation(panel, self._tested(panel)))
        lead = "The best value of each metric is bold; a system with several seeds has its mean."
        return Section("results", "Results", lead, parts, f"Not compared: {self.gone[0]}." if self.gone else "")

    def _evaluation(self, panel: Panel, tested: Tested) -> Evaluation:
        some = self.of(panel)
        scores = {
            entry.name: {
                metric: Score(
                    entry.value(panel, metric) or 0.0,
                    tested.intervals.get((entry.name, metric)),
                    tested.differences.get((entry.name, metric)),
                    tested.p.get((entry.name, metric)),
                )
                for metric in panel.metrics
            }
            for entry in some
        }
        name = self.baseline(panel)
        about = f"{panel.task}, {Path(panel.model).name}"
        if tested.differences:
            about += (
                f"; Δ and p against {name}, two-sided paired bootstrap over users, {HOW.resamples} resamples, "
                f"corrected by {NAMES[HOW.correction]} within each metric"
            )
        users = {} if self.gone else {system: self._users(entry, panel) for system, entry in self.best(panel).items()}
        counts = {entry.name: entry.cells[panel][0].result.count for entry in some}
        return Evaluation(about, panel.metrics, name if len(some) > 1 else "", counts, scores, users)

    def _users(self, entry: Entry, panel: Panel) -> dict[str, float]:
        scored = self.reader.scored(entry.cells[panel])
        ids = self.asked.who.ids
        known = [user for user in dict.fromkeys(scored.users) if not ids or user in ids]
        return {user: scored.of({user}).metrics()[panel.metrics[0]] for user in known}

    def _activity(self) -> Section:
        if self.gone:
            return Section("activity", "Activity", missing="It needs the files that are missing.")
        return setting_curves.activity(self.panels, self.best, self.reader)

    def _known(self, found: Leakage, name: str) -> leakage.Known:
        """The utility and α of the cell that an attacked system is called like."""
        for entry in self.entries:
            ((panel, cells),) = entry.cells.items()
            settings = plain(cells[0].result.settings)
            alpha = settings.pop("prime.alpha", 0)
            if panel.task != found.task or not isinstance(alpha, int | float):
                continue
            # With nothing but an α it is called as in `perpcs table`: prime-0.6.
            plainly = not settings and (name == f"prime-{alpha:g}" if alpha else called(entry, name))
            if name == entry.name or plainly:
                is_prime = entry.system.method == "prime"
                utility = objective({metric: entry.value(panel, metric) or 0.0 for metric in panel.metrics})
                return leakage.Known(utility, float(alpha) if is_prime else None, "PriME" if is_prime else "")
        return leakage.Known()

    def _given(self, row: Row, flag: str) -> Path | None:
        """What the command line of a cell's predictions gives `flag`, where it lies in this sweep."""
        marker = next(iter(sorted((row.root / row.result.predictions).parent.glob("step-predict-*.json"))), None)
        if marker is None:
            return None
        line = typed_files.read_json(marker, Done).command
        given = next((value for name, value in pairwise(line) if name == flag), "")
        below = given.rpartition("/steps/")[2]
        place = safe_paths.inside(row.root, f"steps/{below}", where=marker) if below != given else None
        return place if place and place.exists() else None

    def _storage(self, made: Mapping[str, Path], rows: Mapping[str, Row]) -> Section:
        found = [place for row in rows.values() if (place := self._given(row, "--own"))]
        pools = [place for name in made if (place := self._given(rows[name], "--pool"))]
        pools = sorted(pools, key=lambda path: not gates_path(path).exists())
        return recipes.storage_section(
            made,
            found[0] if found else None,
            pools[0] if pools else None,
            recipes.timed([row.result for row in self.rows]),
            ("Recipes and a pool are weighed here, where cells have them.", "No cell here has been timed."),
        )

    def _provenance(self, summaries: Sequence[Path]) -> Section:
        cells = [
            [
                Cell(row.result.experiment),
                Cell(row.result.method),
                Cell(str(row.result.seed), number=True),
                Cell(", ".join(f"{key} {origins.told(value)}" for key, value in row.result.settings.items())),
                Cell(row.result.predictions),
                Cell(row.result.digest[:12]),
            ]
            for row in self.rows
        ]
        made: dict[str, Provenance] = {
            origins.below(self.path.parent, path): read_leakage(path).provenance for path in summaries
        }
        for row in self.rows:
            beside = info_path(row.root / row.result.predictions)
            if beside.is_file():
                made[row.result.predictions] = typed_files.read_json(beside, PredictionsInfo).provenance
        table = Table(
            ["experiment", "method", "seed", "settings", "predictions", "digest"],
            cells,
            folded="Cells of results.jsonl",
        )
        return origins.section(dict(sorted(made.items())), [], [table])
