"""A sweep's results as the papers' tables, the published figures beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from perpcs_cli.artifacts.metrics import Interval
from perpcs_cli.artifacts.published import PublishedTable
from perpcs_cli.cli.tables import Cell, Column, Figure, Measure, Table, places
from perpcs_cli.experiments.tables.paper_layouts import AUC, MIRRORED, Layout, better
from perpcs_cli.experiments.tables.significance import LEVELS, Method, Tested, stars
from perpcs_cli.experiments.tables.systems import Entry, Panel
from perpcs_cli.methods.statistics.corrections import NAMES
from perpcs_cli.tasks.metrics import higher_is_better

UTILITY = "utility"
BASELINE = "†"


class Value(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One figure of a table, for --json."""

    task: str
    model: str
    system: str
    metric: str
    value: float | None = None
    """The mean over the seeds."""
    seeds: int = 1
    se: float | None = None
    """The standard error over the seeds."""
    interval: Interval | None = None
    """Over users, where there are several seeds, which are pooled."""
    published: float | None = None
    published_se: float | None = None
    published_from: str = ""
    """The paper's table and model."""
    column: str = ""
    """The paper's own name of the system, where it has another."""
    note: str = ""
    """What a reader of the published figure should know."""
    baseline: str = ""
    """What it was compared with."""
    difference: float | None = None
    p: float | None = None
    """Corrected for the number of comparisons, as the stars are."""
    raw_p: float | None = None
    stars: str = ""
    users: str = ""
    """The group by history length."""


@dataclass(frozen=True)
class Contents:
    """What a table is made of: entries, the panels to compare within, comparisons, leakage and the paper's figures."""

    entries: Sequence[Entry]
    panels: Sequence[Panel]
    tested: Mapping[Panel, Tested]
    auc: Mapping[tuple[str, str], float]
    """(task, system) → AUC of membership inference."""
    published: Mapping[Panel, PublishedTable]
    either_way: bool = False
    """Whether stars also mark what is worse than the baseline."""

    def metrics(self, panel: Panel, layout: Layout | None = None) -> list[str]:
        """The panel's metrics, with utility and AUC where the layout has them."""
        return [*panel.metrics, *([UTILITY, AUC, MIRRORED] if layout and layout.leakage else [])]

    def value(self, entry: Entry, panel: Panel, metric: str) -> float | None:
        """An entry's figure, or None."""
        auc = self.auc.get((panel.task, entry.name))
        if metric == AUC:
            return auc
        if metric == MIRRORED:
            return None if auc is None else 0.5 + abs(auc - 0.5)
        if panel not in entry.cells:
            return None
        if metric == UTILITY:
            values = {name: entry.value(panel, name) or 0.0 for name in panel.metrics}
            return sum(value if higher_is_better(name) else -value for name, value in values.items())
        return entry.value(panel, metric)

    def figures(self, panel: Panel, metric: str) -> dict[str, Figure]:
        """The figures by system, with marks and stars, and over several seeds with standard error and interval."""
        values = {e.name: (e, v) for e in self.entries if (v := self.value(e, panel, metric)) is not None}
        best = self._places({name: value for name, (_, value) in values.items()}, metric)
        tested = self.tested.get(panel)
        figures = {}
        for name, (entry, value) in values.items():
            key = (name, metric)
            difference = tested.differences.get(key) if tested else None
            around = tested.intervals.get(key) if tested else None
            mark = BASELINE if tested and tested.baselines.get(metric) == name else ""
            if tested and difference is not None:
                larger = better(metric) == "higher"
                mark = stars(difference.value, tested.p[key], larger_is_better=larger, either_way=self.either_way)
            figures[name] = Figure(
                value,
                best.get(name, 0),
                mark,
                tested.p.get(key) if tested else None,
                entry.error(panel, metric) if metric in panel.metrics else None,
                around.low if around else None,
                around.high if around else None,
            )
        return figures

    def reported(self, panel: Panel, metric: str) -> dict[str, Figure]:
        """The paper's figures by system."""
        table = self.published.get(panel)
        rows = [row for row in table.rows if row.task == panel.task and metric in row.values] if table else []
        best = self._places({row.system: row.values[metric] for row in rows}, metric)
        return {
            row.system: Figure(row.values[metric], best.get(row.system, 0), se=row.errors.get(metric)) for row in rows
        }

    def _places(self, values: Mapping[str, float], metric: str) -> dict[str, Literal[1, 2]]:
        ranked = {entry.name for entry in self.entries if entry.system.ranked}
        sign = better(metric)
        return places({name: value for name, value in values.items() if name in ranked}, sign) if sign else {}


def layout_table(shown: Contents, layout: Layout, caption: str) -> Table:
    """The table of a layout."""
    return _across(shown, caption) if layout.across else _down(shown, layout, caption)


def _across(shown: Contents, caption: str) -> Table:
    """Systems as columns, a section for each task and model."""
    models = len({panel.model for panel in shown.panels}) > 1
    beside = bool(shown.published)
    head = ["task", *(["model"] if models else []), "metric", *(["figures"] if beside else [])]
    sections = []
    for panel in shown.panels:
        section = []
        for metric in shown.metrics(panel):
            start: list[Cell] = [panel.task, *([panel.model] if models else []), Measure(metric, better(metric))]
            reported = shown.reported(panel, metric)
            both = [("ours", shown.figures(panel, metric)), *([("published", reported)] if reported else [])]
            for whose, figures in both:
                cells: list[Cell] = [figures.get(entry.name) for entry in shown.entries]
                section.append([*start, *([whose] if beside else []), *cells])
        sections.append(section)
    return Table([*map(Column, head), *(Column(entry.name) for entry in shown.entries)], sections, caption)


def _down(shown: Contents, layout: Layout, caption: str) -> Table:
    """Systems as rows, columns for each task's metrics."""
    columns = [Column("system")]
    figures = []
    for panel in shown.panels:
        for metric in shown.metrics(panel, layout):
            ours, reported = shown.figures(panel, metric), shown.reported(panel, metric)
            if metric in (AUC, MIRRORED) and not ours and not reported:
                continue
            name = _panel_name(panel, shown.panels, metric)
            columns.append(Column(name, better=better(metric)))
            figures.append(ours)
            if reported:
                columns.append(Column(f"{name}, published", better=better(metric)))
                figures.append(reported)
    rows: list[list[Cell]] = [[e.name, *(column.get(e.name) for column in figures)] for e in shown.entries]
    return Table(columns, [rows], caption)


def _panel_name(panel: Panel, panels: Sequence[Panel], metric: str) -> str:
    words = [metric]
    if len({other.task for other in panels}) > 1:
        words.insert(0, panel.task)
    if len({other.model for other in panels}) > 1:
        words.insert(0, panel.model)
    return " ".join(words)


def records(shown: Contents, layout: Layout | None) -> list[Value]:
    """Every figure of a table."""
    found = []
    for panel in shown.panels:
        tested, table = shown.tested.get(panel), shown.published.get(panel)
        for metric in shown.metrics(panel, layout):
            ours, reported = shown.figures(panel, metric), shown.reported(panel, metric)
            for entry in shown.entries:
                mine, theirs = ours.get(entry.name), reported.get(entry.name)
                if not (mine or theirs):
                    continue
                key = (entry.name, metric)
                difference = tested.differences.get(key) if tested else None
                row = table.row(panel.task, entry.name) if table and theirs else None
                found.append(
                    Value(
                        task=panel.task,
                        model=panel.model,
                        system=entry.name,
                        metric=metric,
                        value=mine.value if mine else None,
                        seeds=len(entry.each(panel, metric)) if mine and mine.se is not None else 1,
                        se=mine.se if mine else None,
                        interval=tested.intervals.get(key) if tested else None,
                        published=theirs.value if theirs else None,
                        published_se=theirs.se if theirs else None,
                        published_from=_table_and_model(table) if table and theirs else "",
                        column=row.column if row else "",
                        note=row.note if row else "",
                        baseline=tested.baselines[metric] if tested and difference else "",
                        difference=difference.value if difference else None,
                        p=mine.p if mine else None,
                        raw_p=difference.p if difference else None,
                        stars=mine.stars.strip(BASELINE) if mine else "",
                    )
                )
    return found


def caption_of(shown: Contents, layout: Layout | None, method: Method, attack: str = "") -> str:
    """What a table shows: its layout, models, seeds, the test behind its stars, and the published figures' source."""
    rows = [row for entry in shown.entries for cells in entry.cells.values() for row in cells]
    parts = [f"{layout.name}: {layout.title}"] if layout else []
    models = list(dict.fromkeys(panel.model for panel in shown.panels))
    if len(models) == 1:
        parts.append(f"model {models[0]}")
    seeds = {row.result.seed for row in rows}
    if layout and len(seeds) > 1:
        intervals = any(tested.intervals for tested in shown.tested.values())
        pooled = ", in brackets the 95 % interval over users, seeds pooled" if intervals else ""
        parts.append(f"mean ± standard error over up to {len(seeds)} seeds{pooled}")
    parts += _test_caption(shown, method)
    if attack:
        parts.append(attack)
    return "; ".join([*parts, *_published_caption(shown)])


def _table_and_model(table: PublishedTable) -> str:
    return f"{table.table}, {table.model}" if table.model else table.table


def _published_caption(shown: Contents) -> list[str]:
    """The sources of the published figures with what is to be known of them."""
    notes: dict[str, dict[str, None]] = {}
    for panel, table in shown.published.items():
        told = notes.setdefault(f"published: {table.source}, {_table_and_model(table)}", {})
        told |= dict.fromkeys([table.note] if table.note else [])
        told |= {f"{row.system}: {row.note}": None for row in table.rows if row.note and row.task == panel.task}
    return [source + "".join(f" ({note})" for note in told) for source, told in notes.items()]


def _test_caption(shown: Contents, method: Method) -> list[str]:
    named = {name for tested in shown.tested.values() for name in tested.baselines.values()}
    if not named:
        return []
    what: Literal["different from", "better than"] = "different from" if shown.either_way else "better than"
    levels = ", ".join(f"{sign} p < {level}" for level, sign in sorted(LEVELS.items(), reverse=True))
    whom = f"{next(iter(named))} ({BASELINE})" if len(named) == 1 else f"the best baseline of each metric ({BASELINE})"
    largest = max(size for tested in shown.tested.values() for size in tested.families or [0])
    corrected = f"corrected by {NAMES[method.correction]} within each task's metric, up to {largest} at once"
    return [
        f"{levels}: {what} {whom}, two-sided paired bootstrap over users, {method.resamples} resamples, "
        f"seed {method.seed}, {'not corrected' if method.correction == 'none' else corrected}"
    ]
