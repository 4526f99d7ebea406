"""The papers' tables as data: which systems a table compares, and which cells of a sweep these are.

Per-PCs: Tan et al. (2024), arXiv:2406.10471. PriME: Kim et al. (2025), arXiv:2503.18008. A layout is called by its
paper and the table's number there; the tables of other base models (PriME's 5 and 6) have the layouts of 1 and 2. The
papers show more ablations in figures, without numbers: those layouts and the names of their systems are ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from perpcs_cli.artifacts.published import PublishedTable
from perpcs_cli.errors import DataError
from perpcs_cli.tasks.metrics import higher_is_better
from perpcs_cli.tasks.spec import shipped_tasks

AUC = "auc"
"""Of membership inference, from `perpcs mia`, as it is: not among a task's metrics."""
MIRRORED = "mirrored auc"
"""The same turned round where it is below one half, as an attacker turns the score round."""


def in_words(value: object) -> str:
    """A setting's value: 1.0 is 1."""
    return f"{value:g}" if isinstance(value, float) else str(value)


_VALUE = re.compile(r"\{([a-z.-]+)(?:=(\w+))?\}")


@dataclass(frozen=True)
class System:
    """A row or column of a table.

    `{assemble.top-k}` in its name makes one for each value of that setting; with `{prime.alpha=0}` a cell that does
    not set it is the one for 0.
    """

    name: str
    method: str
    """That of its cells; empty for one that only a paper has."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """What a cell must set, besides the settings in the name, to be this system."""
    baseline: bool = False
    """Whether it may be what the others are compared with."""
    ranked: bool = True
    """Whether it may be the best or second best; else it is there for reference."""

    @property
    def varying(self) -> dict[str, str]:
        """The settings in the name, each with its value where a cell does not set it, or ""."""
        return dict(_VALUE.findall(self.name))

    def values(self, method: str, settings: Mapping[str, object]) -> list[object] | None:
        """The values of the settings in the name, where a cell is of this system: it sets what the system asks for
        and nothing else. Else None."""
        varying = self.varying
        known = {**{key: value for key, value in varying.items() if value}, **settings}
        if method != self.method or set(known) != {*self.settings, *varying}:
            return None
        if any(known[key] != value for key, value in self.settings.items()):
            return None
        return [known[key] for key in varying]

    def named(self, values: Iterable[object]) -> str:
        """The name with these values."""
        given = iter(values)
        return _VALUE.sub(lambda _: in_words(next(given)), self.name)

    def read(self, name: str) -> list[str] | None:
        """The values in a name that is made like this system's, as `PriME, α = 0.2`; None for another's."""
        words = [re.escape(part) for part in _VALUE.split(self.name)[::3]]
        found = re.fullmatch("([^,]+?)".join(words), name)
        return list(found.groups()) if found else None


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
    """Whether there are columns for the AUC of membership inference."""


RAG = " + RAG, k = {predict.retrieve}"
PAG = " + PAG, k = {predict.retrieve=0}"
_PROFILE = {"predict.with-profile": True}


def _contexts(system: System) -> list[System]:
    """The system with the plain prompt, with k retrieved items, and with the profile and k retrieved items."""
    return [
        system,
        replace(system, name=system.name + RAG),
        replace(system, name=system.name + PAG, settings={**system.settings, **_PROFILE}),
    ]


_ADAPTED = System("Non-personalized", "adapted", baseline=True)
_RANDOM = System("Random history, k = {predict.random-history}", "adapted", baseline=True)
_RAG = System("RAG, k = {predict.retrieve}", "adapted", baseline=True)
_PAG = System("PAG, k = {predict.retrieve=0}", "adapted", _PROFILE, baseline=True)
_PROMPTED = [_ADAPTED, _RANDOM, _RAG, _PAG]
_RETRIEVAL = System("PEFT retrieval", "retrieval", baseline=True)
_PER_PCS = System("Per-PCs", "per-pcs")
_PRIME = System("PriME", "prime")
_ALPHA = System("PriME, α = {prime.alpha=0}", "prime")
_OPPU = _contexts(System("OPPU", "oppu", ranked=False))
_UNIFORM = {"assemble.aggregate": "uniform"}
_SAMPLE = {"assemble.sample": True}

LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(
            "per-pcs-1",
            "main results",
            [*_PROMPTED, *_contexts(_RETRIEVAL), *_contexts(_PER_PCS), *_OPPU],
            across=True,
        ),
        Layout(
            "per-pcs-2",
            "how pieces are chosen and weighted",
            [
                replace(_PER_PCS, baseline=True),
                System("without attention", "per-pcs", _UNIFORM),
                System("top-p = {assemble.top-p}", "per-pcs"),
                System(
                    "sampling one of the top {assemble.sample-from=10}", "per-pcs", {**_SAMPLE, "assemble.top-k": 1}
                ),
            ],
            across=False,
            stars="different",
        ),
        Layout(
            "prime-1",
            "main results",
            [
                *_PROMPTED,
                *_contexts(_RETRIEVAL),
                *_contexts(replace(_PER_PCS, baseline=True)),
                *_contexts(_PRIME),
                *_contexts(_ALPHA),
                *_OPPU,
            ],
            across=True,
        ),
        Layout(
            "prime-2",
            "privacy and utility",
            [
                System("Non-personalized", "adapted"),
                System("PEFT retrieval", "retrieval"),
                replace(_PER_PCS, baseline=True),
                System("Per-PCs, {assemble.similar} similar sharers", "per-pcs", baseline=True),
                _ALPHA,
            ],
            across=False,
            leakage=True,
        ),
        Layout(
            "prime-4",
            "number of LoRAs",
            [
                replace(_PER_PCS, baseline=True),
                System("PriME, n = {prime.similar}", "prime"),
            ],
            across=False,
        ),
        Layout("prime-9", "prompts, with standard errors", [_RAG, _PAG], across=False),
        Layout(
            "prime-10",
            "profiles as written and rephrased",
            [
                _PAG,
                System("PAG rephrased by GPT, k = 0", "", ranked=False),
                System("PAG rephrased by GPT, k = 1", "", ranked=False),
            ],
            across=False,
        ),
        Layout(
            "ablations-per-pcs",
            "ablations of Per-PCs",
            [
                replace(_PER_PCS, baseline=True),
                System("without attention", "per-pcs", _UNIFORM),
                System("without attention, top-k = {assemble.top-k}", "per-pcs", _UNIFORM),
                System("top-k = {assemble.top-k}", "per-pcs"),
                System("top-p = {assemble.top-p}", "per-pcs"),
                System("sampling from the top {assemble.sample-from=10}", "per-pcs", _SAMPLE),
                System("sampling {assemble.top-k} of the top {assemble.sample-from=10}", "per-pcs", _SAMPLE),
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
            "ablations-prime",
            "ablations of PriME",
            [
                replace(_PRIME, baseline=True),
                System("n = {prime.similar}", "prime"),
                System("weights per {prime.granularity}", "prime"),
                System("optimizer: {prime.optimizer}", "prime"),
                System("data fraction = {prime.data-fraction}", "prime"),
                System("budget = {prime.budget}", "prime"),
                System("RAG, k = {predict.retrieve}", "prime"),
            ],
            across=False,
            stars="different",
        ),
    )
}
"""The tables that `perpcs table --like` knows, by name."""


def check_published(layout: Layout, table: PublishedTable, where: object) -> None:
    """Raise DataError for a row whose task, metrics or system the layout does not have."""
    tasks = shipped_tasks()
    for row in table.rows:
        if row.task not in tasks:
            raise DataError(f"no such task: {row.task!r}", where=where, hint=f"The tasks are {', '.join(tasks)}.")
        metrics = [*tasks[row.task].metrics, *([AUC] if layout.leakage else [])]
        for metric in row.values:
            if metric not in metrics:
                what = f"{layout.name} has no metric {metric!r} for {row.task}"
                raise DataError(what, where=where, hint=f"It has {', '.join(metrics)}.")
        if place_of(layout, row.system) is None:
            names = "; ".join(system.name for system in layout.systems)
            raise DataError(f"{layout.name} has no system {row.system!r}", where=where, hint=f"It has {names}.")


def place_of(layout: Layout, name: str) -> tuple[int, list[str]] | None:
    """The place in a layout of the system that is called so, and the values in its name; None where there is none.

    An exact name goes before a pattern.
    """
    found = [(n, values) for n, system in enumerate(layout.systems) if (values := system.read(name)) is not None]
    return min(found, key=lambda one: len(one[1]), default=None)


def better(metric: str) -> Literal["higher", "lower"] | None:
    """What is better in a column: a lower AUC reveals less, once it is turned round; as it is, none is."""
    if metric == AUC:
        return None
    return "higher" if metric != MIRRORED and higher_is_better(metric) else "lower"
