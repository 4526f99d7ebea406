"""A sweep's cells as the systems of a table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from perpcs_cli.artifacts.metrics import METRICS
from perpcs_cli.artifacts.published import PublishedRow
from perpcs_cli.artifacts.results import Result, read_results
from perpcs_cli.errors import DataError, UsageError
from perpcs_cli.experiments.tables.paper_layouts import Layout, System, in_words, place_of
from perpcs_cli.tasks.spec import ORDER, Task, kept_task

_USUAL: dict[str, object] = {
    "predict.retrieve": 0,
    "predict.random-history": None,
    "predict.with-profile": False,
    "assemble.aggregate": "attention",
    "assemble.sample": False,
    "assemble.sample-from": 10,
    "assemble.similar": None,
    "assemble.top-p": None,
    "prime.alpha": 0,
    "prime.granularity": "lora",
    "prime.optimizer": "cma",
    "pool.share-ratio": 1.0,
    "select.strategy": "history-cluster",
}
"""What a setting is where a cell does not set it: to set it so is to leave it out."""
_METHOD = ("predict", "assemble", "prime")
"""The steps that are the method: what a sweep sets so for all cells tells what its cells are, and is no set-up."""


class Row(NamedTuple):
    """A result and the directory that its paths start from."""

    result: Result
    root: Path

    @property
    def task(self) -> Task:
        """Its task; the file of an own one stands beside the results. Raises UsageError where it is not known."""
        return kept_task(self.root, self.result.task)

    @property
    def panel(self) -> Panel:
        """What it can be compared within."""
        metrics = next((pair for pair in METRICS if set(pair) == set(self.result.metrics)), tuple(self.result.metrics))
        return Panel(self.result.task, self.result.model, metrics)


class Panel(NamedTuple):
    """What figures can be compared within."""

    task: str
    model: str
    metrics: tuple[str, ...]
    """The task's, by name in their order."""


@dataclass(frozen=True)
class Entry:
    """A system with its cells: for each panel one a seed."""

    name: str
    system: System
    cells: dict[Panel, list[Row]]
    values: Sequence[object] = ()
    """Of the settings in the system's name."""

    def each(self, panel: Panel, metric: str) -> list[float]:
        """The metric of each seed."""
        return [row.result.metrics[metric] for row in self.cells.get(panel, ())]

    def value(self, panel: Panel, metric: str) -> float | None:
        """The mean over the seeds; None where there is no cell."""
        values = self.each(panel, metric)
        return sum(values) / len(values) if values else None

    def error(self, panel: Panel, metric: str) -> float | None:
        """The standard error of the mean over the seeds; None where there are not several."""
        values = self.each(panel, metric)
        return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


def read_rows(path: Path) -> list[Row]:
    """The rows of a results.jsonl. Raises DataError where it is broken, or has other metrics than its tasks."""
    rows = [Row(result, path.parent) for result in read_results(path)]
    for row in rows:
        try:
            known = set(row.task.metrics)
        except UsageError:
            known = set()
        if known != set(row.result.metrics):
            what = f"has {', '.join(row.result.metrics)} for the task {row.result.task!r}"
            raise DataError(what, where=path, hint="Was it written by another version of perpcs?")
    return rows


def plain(settings: Mapping[str, Any]) -> dict[str, object]:
    """A cell's settings under one name each, without those that are as usual: `assemble.top-k`, not
    `settings.assemble.top_k`."""
    return {
        key: value
        for key, value in named(settings).items()
        if value is not None and value is not False and value != _USUAL.get(key)
    }


def settings_of(result: Result) -> dict[str, object]:
    """What tells a cell's system: its own settings, and what its sweep sets otherwise than usual for all cells."""
    common = {
        key: value for key, value in named(result.common).items() if key in _USUAL and key.partition(".")[0] in _METHOD
    }
    return plain({**common, **named(result.settings)})


def named(settings: Mapping[str, Any]) -> dict[str, object]:
    """Settings under one name each; alpha is a list in `perpcs.toml`, and one number in a sweep."""
    named = {key.removeprefix("settings.").replace("_", "-"): value for key, value in settings.items()}
    return {key: value[0] if isinstance(value, list) and len(value) == 1 else value for key, value in named.items()}


def panels(rows: Sequence[Row]) -> list[Panel]:
    """The tasks and models, LaMP's tasks in its order and then own ones."""
    found = dict.fromkeys(row.panel for row in rows)
    return sorted(found, key=lambda panel: ORDER.index(panel.task) if panel.task in ORDER else len(ORDER))


def arrange(layout: Layout, rows: Sequence[Row], *, setup: bool = False) -> tuple[list[Entry], list[Row]]:
    """The layout's entries that have a cell, in its order, and the rows that belong to none.

    A cell belongs to a system where it sets what the system asks for and nothing else. With `setup` it may also set
    what no other cell of its experiment and method sets otherwise, unless that is a system's own setting or a
    prompt's. Raises UsageError for two different cells of one system.
    """
    own = {key for system in layout.systems for key in (*system.settings, *system.varying)}
    shared = _constant(rows) if setup else {}
    found: dict[tuple[int, str], Entry] = {}
    left_out = []
    for row in rows:
        settings = settings_of(row.result)
        for key in shared.get((row.result.experiment, row.result.method), ()):
            if key not in own and not key.startswith("predict."):
                settings.pop(key, None)
        found_in = [
            (n, values)
            for n, system in enumerate(layout.systems)
            if (values := system.values(row.result.method, settings)) is not None
        ]
        if not found_in:
            left_out.append(row)
            continue
        place, values = found_in[0]
        system = layout.systems[place]
        name = system.named(values)
        _add(found.setdefault((place, name), Entry(name, system, {}, values)), row)
    return sorted(found.values(), key=lambda entry: _order(layout, entry)), left_out


def each(rows: Sequence[Row]) -> list[Entry]:
    """An entry for each result, named by its method and what else tells it from the others of its task."""
    entries = []
    for panel in panels(rows):
        here = [row for row in rows if row.panel == panel]
        for row, name in zip(here, _labels(here), strict=True):
            entries.append(Entry(name, System(name, row.result.method), {panel: [row]}))
    return entries


def _labels(rows: Sequence[Row]) -> list[str]:
    cells = [plain(row.result.settings) for row in rows]
    keys = varying(cells)
    told = [[f"{key.partition('.')[2]}={in_words(cell[key])}" for key in keys if key in cell] for cell in cells]
    labels = [" ".join([row.result.method, *words]) for row, words in zip(rows, told, strict=True)]
    more = (
        lambda row: f"({row.result.experiment})",
        lambda row: f"seed {row.result.seed}",
        lambda row: str(row.root),
        # What is left is a config that was changed between them.
        lambda row: row.result.digest[:8],
    )
    for tell in more:
        labels = [
            f"{label} {tell(row)}" if labels.count(label) > 1 and len({tell(one) for one in rows}) > 1 else label
            for label, row in zip(labels, rows, strict=True)
        ]
    return labels


def varying(cells: Sequence[Mapping[str, object]]) -> list[str]:
    """The settings that not all cells set alike, in the order in which they occur."""
    keys = dict.fromkeys(key for cell in cells for key in cell)
    return [key for key in keys if len({str(cell.get(key)) for cell in cells}) > 1]


def called(entry: Entry, name: str) -> bool:
    """Whether `name` is the entry's own, or that of the directory of its recipes or predictions: `prime-0.2`."""
    known = {"adapted": {"base", "adapted"}, "retrieval": {"retrieval", "retrieve"}}
    system = entry.system
    if name == entry.name:
        return True
    if not entry.cells or system.settings or any(key.startswith("predict.") for key in system.varying):
        return False
    usual = all(in_words(value) == told for value, told in zip(entry.values, system.varying.values(), strict=True))
    words = [[in_words(value) for value in entry.values], *([[]] if usual else [])]
    return name in {"-".join([first, *some]) for first in known.get(system.method, {system.method}) for some in words}


def _constant(rows: Sequence[Row]) -> dict[tuple[str, str], set[str]]:
    """(experiment, method) → the settings that all of its cells set alike."""
    groups: dict[tuple[str, str], list[dict[str, object]]] = {}
    for row in rows:
        groups.setdefault((row.result.experiment, row.result.method), []).append(settings_of(row.result))
    return {
        group: {key for key in cells[0] if all(key in cell and cell[key] == cells[0][key] for cell in cells)}
        for group, cells in groups.items()
    }


def _add(entry: Entry, row: Row) -> None:
    cells = entry.cells.setdefault(row.panel, [])
    for other in cells:
        if other.result.seed != row.result.seed:
            continue
        if (other.result.metrics, other.result.count) == (row.result.metrics, row.result.count):
            # The same cell, which two experiments have.
            return
        first, second = (f"{one.root}, experiment {one.result.experiment!r}" for one in (other, row))
        hint = "Choose with --experiment."
        if first == second:
            hint = "The config was changed between them: remove the older line of results.jsonl, or use another --out."
        raise UsageError(f"two results are {entry.name!r} of {row.result.task}: {first}, and {second}", hint=hint)
    cells.append(row)


def _order(layout: Layout, entry: Entry) -> tuple[int, list[tuple[bool, float, str]]]:
    """By the layout's order, then by the values in the name."""
    return layout.systems.index(entry.system), [_sortable(in_words(value)) for value in entry.values]


def _sortable(word: str) -> tuple[bool, float, str]:
    try:
        return (False, float(word), word)
    except ValueError:
        return (True, 0.0, word)


def with_published(layout: Layout, entries: Sequence[Entry], rows: Sequence[PublishedRow]) -> list[Entry]:
    """The entries, and one without cells for each system that only the paper has, in the layout's order."""
    more = {}
    for name in dict.fromkeys(row.system for row in rows) - dict.fromkeys(entry.name for entry in entries).keys():
        if found := place_of(layout, name):
            place, values = found
            more[name] = Entry(name, layout.systems[place], {}, values)
    return sorted([*entries, *more.values()], key=lambda entry: _order(layout, entry))
