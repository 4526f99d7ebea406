"""The papers' tables as data: which systems a table compares, and which cells of a sweep these are.

Per-PCs: Tan et al. (2024), arXiv:2406.10471. PriME: Kim et al. (2025), arXiv:2503.18008. The systems are those of
the papers' experiments and ablations; which of them a table shows, their names and their order are ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from perpcs_cli.artifacts.published import PublishedFigure, PublishedTable
from perpcs_cli.errors import DataError
from perpcs_cli.tasks.metrics import higher_is_better
from perpcs_cli.tasks.spec import TASKS

AUC = "auc"
"""Of membership inference, from `perpcs mia`: not among a task's metrics."""


def in_words(value: object) -> str:
    """A setting's value: 1.0 is 1."""
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class System:
    """A row or column of a table. `{assemble.top-k}` in its name makes one for each value of that setting."""

    name: str
    method: str
    settings: Mapping[str, object] = field(default_factory=dict)
    """What a cell must set, besides the settings in the name, to be this system."""
    baseline: bool = False
    """Whether it may be what the others are compared with."""
    ranked: bool = True
    """Whether it may be the best or second best; else it is there for reference."""

    @property
    def varying(self) -> list[str]:
        """The settings in the name."""
        return re.findall(r"\{(.+?)\}", self.name)

    def named(self, settings: Mapping[str, object]) -> str:
        """The name with the values of `settings`."""
        return re.sub(r"\{(.+?)\}", lambda found: in_words(settings[found[1]]), self.name)


@dataclass(frozen=True)
class Layout:
    """A table: its systems, as columns or as rows, with tasks and metrics the other way."""

    name: str
    title: str
    systems: Sequence[System]
    across: bool
    """Systems are columns, and each task's metric is a row."""
    stars: Literal["better", "different"] = "better"
    """What stars say of a system: that it beats the baseline, or that it is not the same."""
    leakage: bool = False
    """Whether there is a column for the AUC of membership inference."""


def _contexts(system: System) -> list[System]:
    """The system with the plain prompt and with k retrieved items."""
    more = System(
        f"{system.name} + RAG, k = {{predict.retrieve}}",
        system.method,
        system.settings,
        baseline=system.baseline,
        ranked=system.ranked,
    )
    return [system, more]


_PROMPTED = [
    System("Non-personalized", "adapted", baseline=True),
    System("RAG, k = {predict.retrieve}", "adapted", baseline=True),
    *_contexts(System("PAG", "adapted", {"predict.with-profile": True}, baseline=True)),
    *_contexts(System("PEFT retrieval", "retrieval", baseline=True)),
]
_OPPU = _contexts(System("OPPU", "oppu", ranked=False))
_UNIFORM = {"assemble.aggregate": "uniform"}

LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(
            "per-pcs-1",
            "main results",
            [*_PROMPTED, *_contexts(System("Per-PCs", "per-pcs")), *_OPPU],
            across=True,
        ),
        Layout(
            "per-pcs-2",
            "ablations of Per-PCs",
            [
                System("Per-PCs", "per-pcs", baseline=True),
                System("without attention", "per-pcs", _UNIFORM),
                System("without attention, top-k = {assemble.top-k}", "per-pcs", _UNIFORM),
                System("top-k = {assemble.top-k}", "per-pcs"),
                System("top-p = {assemble.top-p}", "per-pcs"),
                System("sampling", "per-pcs", {"assemble.sample": True}),
                System("sampling, top-k = {assemble.top-k}", "per-pcs", {"assemble.sample": True}),
                System("{select.clusters} sharers", "per-pcs"),
                System("selection: {select.strategy}", "per-pcs"),
                System("selection: {select.strategy}, {select.clusters} sharers", "per-pcs"),
                System("selection: {select.strategy}, {select.count} sharers", "per-pcs"),
                System("share ratio = {pool.share-ratio}", "per-pcs"),
            ],
            across=False,
            stars="different",
        ),
        Layout(
            "prime-1",
            "main results",
            [
                *_PROMPTED,
                *_contexts(System("Per-PCs", "per-pcs", baseline=True)),
                *_contexts(System("PriME", "prime")),
                *_contexts(System("PriME, α = {prime.alpha}", "prime")),
                *_OPPU,
            ],
            across=True,
        ),
        Layout(
            "prime-2",
            "ablations of PriME",
            [
                System("PriME", "prime", baseline=True),
                System("LoRAs: {prime.similar}", "prime"),
                System("weights per {prime.granularity}", "prime"),
                System("optimizer: {prime.optimizer}", "prime"),
                System("data fraction = {prime.data-fraction}", "prime"),
                System("budget = {prime.budget}", "prime"),
                System("RAG, k = {predict.retrieve}", "prime"),
            ],
            across=False,
            stars="different",
        ),
        Layout(
            "prime-4",
            "privacy and utility",
            [
                System("Non-personalized", "adapted"),
                System("PEFT retrieval", "retrieval"),
                System("Per-PCs", "per-pcs", baseline=True),
                System("PriME", "prime"),
                System("PriME, α = {prime.alpha}", "prime"),
            ],
            across=False,
            leakage=True,
        ),
    )
}
"""The tables that `perpcs table --like` knows, by name."""


def check_published(layout: Layout, table: PublishedTable, where: object) -> None:
    """Raise DataError for a figure whose task, metric or system the layout does not have."""
    for figure in table.figures:
        if figure.task not in TASKS:
            raise DataError(f"no such task: {figure.task!r}", where=where, hint=f"The tasks are {', '.join(TASKS)}.")
        metrics = [*TASKS[figure.task].metrics, *([AUC] if layout.leakage else [])]
        if figure.metric not in metrics:
            what = f"{layout.name} has no metric {figure.metric!r} for {figure.task}"
            raise DataError(what, where=where, hint=f"It has {', '.join(metrics)}.")
        if place_of(layout, figure) is None:
            names = ", ".join(system.name for system in layout.systems)
            raise DataError(f"{layout.name} has no system {figure.system!r}", where=where, hint=f"It has {names}.")


def place_of(layout: Layout, figure: PublishedFigure) -> int | None:
    """The system that a published figure is of; an exact name goes before a pattern."""
    exact = [n for n, system in enumerate(layout.systems) if system.name == figure.system and not system.varying]
    patterns = [
        n
        for n, system in enumerate(layout.systems)
        if system.varying and re.fullmatch(re.sub(r"\\\{.+?\\\}", r"[^,]+?", re.escape(system.name)), figure.system)
    ]
    return next(iter([*exact, *patterns]), None)


def better(metric: str) -> Literal["higher", "lower"]:
    """What is better in a column: a lower AUC of membership inference reveals less."""
    return "higher" if metric != AUC and higher_is_better(metric) else "lower"
