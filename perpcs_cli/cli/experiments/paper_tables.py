"""A sweep's results as tables: like a paper's, one row a result, or by the users' activity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from perpcs_cli.artifacts.published import PublishedTable
from perpcs_cli.cli.tables import Cell, Column, Figure, Measure, Table, places
from perpcs_cli.experiments.tables.paper_layouts import AUC, Layout, better, in_words
from perpcs_cli.experiments.tables.significance import LEVELS, Reader, Scored, Tested, by_activity, stars
from perpcs_cli.experiments.tables.systems import Entry, Panel, plain, varying
from perpcs_cli.tasks.metrics import higher_is_better
from perpcs_cli.tasks.spec import get_task

UTILITY = "utility"
BASELINE = "†"


class Value(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One figure of a table, for --json."""

    task: str
    model: str
    system: str
    metric: str
    value: float | None = None
    published: float | None = None
    baseline: str = ""
    """What it was compared with."""
    difference: float | None = None
    p: float | None = None
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
    published: PublishedTable | None
    either_way: bool = False
    """Whether stars also mark what is worse than the baseline."""

    def metrics(self, panel: Panel, layout: Layout | None = None) -> list[str]:
        """The panel's metrics, with utility and AUC where the layout has them."""
        return [*get_task(panel.task).metrics, *([UTILITY, AUC] if layout and layout.leakage else [])]

    def value(self, entry: Entry, panel: Panel, metric: str) -> float | None:
        """An entry's figure, or None."""
        if metric == AUC:
            return self.auc.get((panel.task, entry.name))
        if panel not in entry.cells:
            return None
        if metric == UTILITY:
            values = {name: entry.value(panel, name) or 0.0 for name in get_task(panel.task).metrics}
            return sum(value if higher_is_better(name) else -value for name, value in values.items())
        return entry.value(panel, metric)

    def figures(self, panel: Panel, metric: str) -> dict[str, Figure]:
        """The figures by system, with marks and stars."""
        values = {e.name: v for e in self.entries if (v := self.value(e, panel, metric)) is not None}
        best = places({e.name: values[e.name] for e in self.entries if self._ranked(e, values)}, better(metric))
        tested = self.tested.get(panel)
        figures = {}
        for name, value in values.items():
            difference = tested.differences.get((name, metric)) if tested else None
            mark = BASELINE if tested and tested.baselines.get(metric) == name else ""
            if difference is not None:
                larger = better(metric) == "higher"
                mark = stars(difference, larger_is_better=larger, either_way=self.either_way)
            figures[name] = Figure(value, best.get(name, 0), mark, difference.p if difference else None)
        return figures

    def reported(self, panel: Panel, metric: str) -> dict[str, Figure]:
        """The paper's figures by system."""
        found = self.published.figures if self.published else []
        values = {f.system: f.value for f in found if (f.task, f.metric) == (panel.task, metric)}
        best = places({e.name: values[e.name] for e in self.entries if self._ranked(e, values)}, better(metric))
        return {name: Figure(value, best.get(name, 0)) for name, value in values.items()}

    @staticmethod
    def _ranked(entry: Entry, values: Mapping[str, float]) -> bool:
        return entry.system.ranked and entry.name in values


def layout_table(shown: Contents, layout: Layout, caption: str) -> Table:
    """The table of a layout."""
    return _across(shown, caption) if layout.across else _down(shown, layout, caption)


def _across(shown: Contents, caption: str) -> Table:
    """Systems as columns, a section for each task and model."""
    models = len({panel.model for panel in shown.panels}) > 1
    beside = bool(shown.published and shown.published.figures)
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
            if metric == AUC and not ours and not reported:
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


def generic_table(shown: Contents, caption: str) -> Table:
    """A row for each result with the settings that vary, a section for each task and model."""
    results = [(entry, panel, row.result) for entry in shown.entries for panel, (row,) in entry.cells.items()]
    facts = {
        name: [getattr(result, name) for _, _, result in results] for name in ("task", "model", "experiment", "seed")
    }
    told = [name for name, values in facts.items() if len(set(values)) > 1]
    settings = varying([plain(result.settings) for _, _, result in results])
    metrics = list(dict.fromkeys(metric for panel in shown.panels for metric in shown.metrics(panel)))
    columns = [
        *(Column(name) for name in told if name != "seed"),
        Column("method"),
        *(Column(key) for key in settings),
        *(Column(name) for name in told if name == "seed"),
        Column("n"),
        *(Column(metric, better=better(metric)) for metric in metrics),
    ]
    sections = []
    for panel in shown.panels:
        figures = {metric: shown.figures(panel, metric) for metric in shown.metrics(panel)}
        section: list[list[Cell]] = []
        for entry, own, result in results:
            if own == panel:
                values = plain(result.settings)
                section.append(
                    [
                        *(getattr(result, name) for name in told if name != "seed"),
                        result.method,
                        *(_setting(values.get(key)) for key in settings),
                        *(getattr(result, name) for name in told if name == "seed"),
                        result.count,
                        *(figures[metric].get(entry.name) if metric in figures else None for metric in metrics),
                    ]
                )
        sections.append(section)
    return Table(columns, sections, caption)


def _setting(value: object) -> Cell:
    """A setting as a cell: text, so that no number is rounded."""
    if value is None:
        return None
    return "yes" if value is True else in_words(value)


def activity_table(shown: Contents, reader: Reader, bins: Sequence[int] | None) -> tuple[Table, list[Value]]:
    """The metrics of users with few and with many history items, a section for each task and group."""
    metrics = list(dict.fromkeys(metric for panel in shown.panels for metric in shown.metrics(panel)))
    several = {"task": len({p.task for p in shown.panels}) > 1, "model": len({p.model for p in shown.panels}) > 1}
    facts = [name for name, wanted in several.items() if wanted]
    columns = [
        *map(Column, facts),
        *map(Column, ("history", "system", "users", "n")),
        *(Column(metric, better=better(metric)) for metric in metrics),
    ]
    sections: list[list[list[Cell]]] = []
    records = []
    for panel in shown.panels:
        scored = {e.name: reader.scored(e.cells[panel]) for e in shown.entries if panel in e.cells}
        rows = [row for entry in shown.entries for row in entry.cells.get(panel, ())]
        everyone = {user: value for row in rows for user, value in reader.users(row).items()}
        answered = {user for one in scored.values() for user in one.users}
        lengths = {user: len(value.history) for user, value in everyone.items() if user in answered}
        for group, users in by_activity(lengths, bins).items():
            section: list[list[Cell]] = []
            for name, one in scored.items():
                part = one.of(users)
                start: list[Cell] = [*(getattr(panel, fact) for fact in facts), group, name]
                section.append([*start, *_activity_cells(part, metrics)])
                if part.keys:
                    records += [
                        Value(task=panel.task, model=panel.model, system=name, metric=m, value=v, users=group)
                        for m, v in part.metrics().items()
                    ]
            sections.append(section)
    caption = "users by the number of their history items" + (", in quartiles" if bins is None else "")
    return Table(columns, sections, caption), records


def _activity_cells(part: Scored, metrics: Sequence[str]) -> list[Cell]:
    values = part.metrics() if part.keys else {}
    return [len(set(part.users)), len(part.keys), *(values.get(metric) for metric in metrics)]


def records(shown: Contents, layout: Layout | None) -> list[Value]:
    """Every figure of a table."""
    found = []
    for panel in shown.panels:
        tested = shown.tested.get(panel)
        for metric in shown.metrics(panel, layout):
            ours, reported = shown.figures(panel, metric), shown.reported(panel, metric)
            for entry in shown.entries:
                mine, theirs = ours.get(entry.name), reported.get(entry.name)
                difference = tested.differences.get((entry.name, metric)) if tested else None
                if mine or theirs:
                    found.append(
                        Value(
                            task=panel.task,
                            model=panel.model,
                            system=entry.name,
                            metric=metric,
                            value=mine.value if mine else None,
                            published=theirs.value if theirs else None,
                            baseline=tested.baselines[metric] if tested and difference else "",
                            difference=difference.value if difference else None,
                            p=difference.p if difference else None,
                            stars=mine.stars.strip(BASELINE) if mine else "",
                        )
                    )
    return found


def caption_of(shown: Contents, layout: Layout | None, resamples: int, seed: int, attack: str = "") -> str:
    """What a table shows: its paper, models, seeds, the test behind its stars, and where published figures are from."""
    rows = [row for entry in shown.entries for cells in entry.cells.values() for row in cells]
    parts = []
    if layout and shown.published:
        parts.append(f"{layout.name}: {layout.title}, after {shown.published.source}")
    models = list(dict.fromkeys(panel.model for panel in shown.panels))
    if len(models) == 1:
        parts.append(f"model {models[0]}")
    seeds = {row.result.seed for row in rows}
    if layout and len(seeds) > 1:
        parts.append(f"means over up to {len(seeds)} seeds, which a test pools")
    parts += _test_caption(shown, resamples, seed)
    if attack:
        parts.append(attack)
    if layout and shown.published:
        figures = bool(shown.published.figures)
        model = f" with {shown.published.model}" if shown.published.model else ""
        parts.append(
            f"published figures from {shown.published.source}, {shown.published.table}{model}"
            if figures
            else "the published figures are not included"
        )
    return "; ".join(parts)


def _test_caption(shown: Contents, resamples: int, seed: int) -> list[str]:
    named = {name for tested in shown.tested.values() for name in tested.baselines.values()}
    if not named:
        return []
    what: Literal["different from", "better than"] = "different from" if shown.either_way else "better than"
    levels = ", ".join(f"{sign} p < {level}" for level, sign in sorted(LEVELS.items(), reverse=True))
    whom = f"{next(iter(named))} ({BASELINE})" if len(named) == 1 else f"the best baseline of each metric ({BASELINE})"
    return [
        f"{levels}: {what} {whom}, two-sided paired bootstrap over users, {resamples} resamples, seed {seed}, "
        "not corrected for several comparisons"
    ]
