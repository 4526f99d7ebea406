"""Utility against leakage: the AUC of `perpcs mia` beside a sweep's systems, and their plot."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from perpcs_cli.artifacts.io import atomic
from perpcs_cli.artifacts.mia import Protocol, read_leakage
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.experiments.paper_tables import UTILITY, Contents
from perpcs_cli.cli.flags import WriteFlags
from perpcs_cli.cli.plots import curve_plot
from perpcs_cli.errors import UsageError
from perpcs_cli.experiments.tables.paper_layouts import MIRRORED
from perpcs_cli.experiments.tables.systems import Entry, called
from perpcs_cli.steps.job import Output, run_one, same_bytes


def areas(
    paths: Sequence[Path], entries: Sequence[Entry], protocol: Protocol, attack: str, console: Console
) -> dict[tuple[str, str], float]:
    """(task, entry) → AUC as it is, below ½ too, from the systems of the summaries that are called as an entry is."""
    found: dict[tuple[str, str], float] = {}
    for path in paths:
        leakage = read_leakage(path)
        unknown = []
        for name, system in leakage.systems.items():
            attacked = system.protocols.get(protocol)
            owner = next((entry.name for entry in entries if called(entry, name)), None)
            if owner is None or attacked is None or not attacked.attacks:
                unknown.append(name)
                continue
            if attack not in attacked.attacks:
                hint = f"There are {', '.join(attacked.attacks)}."
                raise UsageError(f"no such attack: {attack!r}", where="--attack", hint=hint)
            if (leakage.task, owner) in found:
                raise UsageError(f"{owner} of {leakage.task} is attacked twice", where=path)
            found[leakage.task, owner] = attacked.attacks[attack].auc
        if unknown:
            hint = "Name systems as the table does, or as prime-0.2."
            console.note(f"{path}: left out, no row or no {protocol} AUC: {', '.join(unknown)}. {hint}")
    return found


def plot(path: Path, shown: Contents, write: WriteFlags, console: Console) -> None:
    """Draw utility against AUC into `path`, unless this very plot is there.

    Raises UsageError where something else is, unless with --force.
    """
    with tempfile.TemporaryDirectory() as directory:
        drawn = Path(directory) / path.name
        _draw(drawn, shown)
        content = drawn.read_bytes()

    def make() -> bool:
        with atomic.replacing(path) as temporary:
            temporary.write_bytes(content)
        console.note(f"wrote {path}")
        return True

    output = Output(path.stem, path, same_bytes(path, [content]))
    run_one(output, make, **write.mode(console))


def _draw(path: Path, shown: Contents) -> None:
    """A series for each task and method, its points in the order of the table."""
    series: dict[str, list[tuple[float, float]]] = {}
    labels: dict[str, list[str]] = {}
    for panel in shown.panels:
        for entry in shown.entries:
            utility, auc = (shown.value(entry, panel, metric) for metric in (UTILITY, MIRRORED))
            if utility is None or auc is None:
                continue
            first, _, value = entry.name.partition(", ")
            name = f"{first} ({panel.task})" if len(shown.panels) > 1 else first
            series.setdefault(name, []).append((auc, utility))
            labels.setdefault(name, []).append(value)
    if not series:
        raise UsageError("no row has utility and AUC", where="--plot", hint="Name the attacked systems as the rows.")
    curve_plot(path, series, "AUC of membership inference, at least ½", "utility (sum of metrics)", labels=labels)
