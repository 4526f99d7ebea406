"""A sweep's results in no paper's layout: one row a result, or by the users' activity."""

from __future__ import annotations

from collections.abc import Sequence

from perpcs_cli.cli.experiments.paper_tables import Contents, Value
from perpcs_cli.cli.tables import Cell, Column, Table
from perpcs_cli.experiments.tables.paper_layouts import better, in_words
from perpcs_cli.experiments.tables.significance import Reader, Scored, by_activity
from perpcs_cli.experiments.tables.systems import plain, varying


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
