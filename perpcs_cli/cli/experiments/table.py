"""`perpcs table`: a sweep's results laid out as the papers' tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from perpcs_cli.artifacts.mia import Protocol
from perpcs_cli.cli import flags
from perpcs_cli.cli.command import command
from perpcs_cli.cli.console import Console
from perpcs_cli.errors import DataError, UsageError
from perpcs_cli.methods.statistics.corrections import Correction

if TYPE_CHECKING:
    from perpcs_cli.artifacts.published import PublishedTable
    from perpcs_cli.experiments.tables.paper_layouts import Layout
    from perpcs_cli.experiments.tables.significance import Method, Tested
    from perpcs_cli.experiments.tables.systems import Entry, Panel, Row

Like = Literal[
    "per-pcs-1",
    "per-pcs-2",
    "prime-1",
    "prime-2",
    "prime-4",
    "prime-9",
    "prime-10",
    "ablations-per-pcs",
    "ablations-prime",
]


@command
def table(
    console: Console,
    write: flags.WriteFlags,
    results: Annotated[
        list[Path],
        typer.Argument(
            metavar="RESULTS", help="results.jsonl of a sweep, or its directory; several for several tasks."
        ),
    ],
    like: Annotated[
        Like | None,
        typer.Option("--like", help="The paper's table to follow, by number.", show_default="one row a result"),
    ] = None,
    by: Annotated[
        Literal["activity"] | None, typer.Option("--by", help="Group users by the number of their history items.")
    ] = None,
    bins: Annotated[
        str | None,
        typer.Option("--bins", metavar="<n,…>", help="The groups' largest numbers of items.", show_default="quartiles"),
    ] = None,
    experiment: flags.ExperimentOption = None,
    baseline: flags.BaselineOption = None,
    resamples: flags.ResamplesOption = 10_000,
    correction: Annotated[
        Correction,
        typer.Option("--correction", help="For many comparisons: Holm, Benjamini and Hochberg, or none."),
    ] = "holm",
    seed: flags.SeedOption = None,
    published: Annotated[
        Path | None, typer.Option("--published", help="Published figures, instead of those that ship; TOML.")
    ] = None,
    published_model: Annotated[
        str | None,
        typer.Option(
            "--published-model", help="The base model of the figures.", show_default="the sweep's, or the main"
        ),
    ] = None,
    mia: flags.SummariesOption = None,
    protocol: Annotated[Protocol | None, flags.protocol_option("published")] = None,
    attack: Annotated[str, typer.Option("--attack", help="Whose AUC; the paper's is of the summed loss.")] = "loss-sum",
    plot: Annotated[
        Path | None,
        flags.written("--plot", help="Also draw utility against AUC: an .svg, .png or .pdf file.", kind="file"),
    ] = None,
    form: flags.FormatOption = None,
) -> None:
    """Lay out a sweep's results as the papers' tables.

    The papers' own figures stand beside ours. The best values are bold, the second best underlined. Stars are of a
    paired bootstrap over users, corrected for several comparisons, against --baseline or, without it, the best
    baseline of each metric; the caption says which. With --experiment the constant settings of an experiment count as
    its set-up. --mia and --plot are for prime-2, utility against privacy.
    """
    from perpcs_cli.artifacts.mia import summaries_in
    from perpcs_cli.cli.experiments import paper_tables, result_tables, tradeoff
    from perpcs_cli.cli.plots import check_plot
    from perpcs_cli.cli.tables import render
    from perpcs_cli.experiments.tables.paper_layouts import LAYOUTS
    from perpcs_cli.experiments.tables.significance import Method, Reader, test
    from perpcs_cli.experiments.tables.systems import arrange, each, panels, with_published

    shape, method = flags.form_of(form, console), Method(resamples, seed or 0, correction)
    layout = LAYOUTS[like] if like else None
    _needs("--like", layout, {"--published": published, "--published-model": published_model})
    _needs("--like prime-2", layout and layout.leakage, {"--mia": mia, "--protocol": protocol})
    _needs("--by activity", by, {"--bins": bins})
    _needs("--mia, a summary of `perpcs mia`", mia, {"--plot": plot})
    given = {"--plot": plot, "--mia": mia, "--baseline": baseline, "--published": published}
    given |= {"--published-model": published_model}
    if by and (odd := [flag for flag, value in given.items() if value]):
        raise UsageError("does not go with --by", where=odd[0])
    if plot is not None:
        check_plot(plot)
    edges = _edges(bins) if bins else None
    rows = _read(results, experiment)
    entries, left_out = arrange(layout, rows, setup=bool(experiment)) if layout else (each(rows), [])
    if not entries and layout:
        hint = f"There are {_listed(rows)}."
        raise UsageError(f"no result is a system of {layout.name}", where="--like", hint=hint)
    if left_out and layout:
        console.note(f"no part of {layout.name}, left out: {_listed(left_out)}")
    reader, kept = Reader(), panels([row for row in rows if row not in left_out])
    figures = _published(layout, published, published_model, kept) if layout and not by else {}
    compared = _baseline(baseline, entries)
    if layout:
        theirs = [row for panel, table in figures.items() for row in table.rows if row.task == panel.task]
        entries = with_published(layout, entries, theirs)
    tested = {}
    if resamples and not by and (layout or compared):
        for panel in kept:
            tested[panel] = test(entries, panel, reader, method, compared)
            if tested[panel].apart:
                console.warn(f"{panel.task}: not compared, other queries: {', '.join(tested[panel].apart)}")
            _warn_of_few(panel, tested[panel], method, console)
    whose = protocol or "published"
    auc = tradeoff.areas(summaries_in(mia or []), entries, whose, attack, console)
    shown = paper_tables.Contents(entries, kept, tested, auc, figures, bool(layout and layout.stars == "different"))
    about = f"AUC of {attack}, {whose} protocol, as it is, and turned round where below one half" if auc else ""
    if by:
        laid, values = result_tables.activity_table(shown, reader, edges)
    else:
        caption = paper_tables.caption_of(shown, layout, method, about)
        values = paper_tables.records(shown, layout)
        laid = (
            paper_tables.layout_table(shown, layout, caption) if layout else result_tables.generic_table(shown, caption)
        )
    if plot is not None:
        tradeoff.plot(plot, shown, write, console)
    console.result(values, render(laid, shape))


def _warn_of_few(panel: Panel, tested: Tested, method: Method, console: Console) -> None:
    """Say so where not even the smallest p-value that the resamples allow is below a star's level."""
    from perpcs_cli.experiments.tables.significance import LEVELS

    largest = max(tested.families, default=0) if method.correction == "holm" else 1
    needed = round(2 * largest / max(LEVELS))
    if tested.families and method.resamples < needed:
        console.warn(
            f"{panel.task}: {method.resamples} resamples cannot tell {largest} systems from the baseline; "
            f"give --resamples {needed} or more"
        )


def _needs(other: str, given: object, flags: dict[str, object]) -> None:
    for flag, value in flags.items():
        if value and not given:
            raise UsageError(f"needs {other}", where=flag)


def _edges(bins: str) -> list[int]:
    try:
        edges = [int(edge) for edge in bins.split(",")]
    except ValueError:
        edges = []
    if not edges or edges[0] < 0 or edges != sorted(set(edges)):
        raise UsageError(f"not growing whole numbers: {bins!r}", where="--bins", hint="As in --bins 10,50,100.")
    return edges


def _read(places: list[Path], experiments: list[str] | None) -> list[Row]:
    """The rows of the wanted experiments. Raises UsageError where there are none."""
    from perpcs_cli.artifacts.results import FILE
    from perpcs_cli.experiments.tables.systems import read_rows

    files = dict.fromkeys(place / FILE if place.is_dir() else place for place in places)
    rows = [row for file in files for row in read_rows(file)]
    if not rows:
        raise DataError("holds no results yet", where=next(iter(files)), hint="`perpcs sweep` writes them.")
    for name in experiments or ():
        if name not in {row.result.experiment for row in rows}:
            raise UsageError(f"no such experiment: {name!r}", where="--experiment", hint=f"There are {_listed(rows)}.")
    return [row for row in rows if not experiments or row.result.experiment in experiments]


def _listed(rows: list[Row]) -> str:
    """`main (base, per-pcs), top-k (per-pcs)`."""
    methods: dict[str, dict[str, None]] = {}
    for row in rows:
        methods.setdefault(row.result.experiment, {})[row.result.method] = None
    return ", ".join(f"{name} ({', '.join(found)})" for name, found in methods.items())


def _published(
    layout: Layout, path: Path | None, model: str | None, panels: list[Panel]
) -> dict[Panel, PublishedTable]:
    """The published table beside each panel that it has figures for: of `model`, or else of the panel's own model."""
    from perpcs_cli.artifacts.published import SHIPPED, of_model, read_published, same_model
    from perpcs_cli.experiments.tables.paper_layouts import LAYOUTS, check_published

    known = read_published(path or SHIPPED)
    for name, tables in known.items():
        if name not in LAYOUTS:
            raise DataError(f"no such layout: {name!r}", where=path, hint=f"There are {', '.join(LAYOUTS)}.")
        for table in tables:
            check_published(LAYOUTS[name], table, path)
    found = known.get(layout.name, [])
    if path is not None and not found:
        raise DataError(f"has no figures for {layout.name}", where=path, hint=f"It has {', '.join(known) or 'none'}.")
    if model is not None and not any(same_model(table.model, model) for table in found):
        hint = f"There are {', '.join(table.model for table in found) or 'none'}."
        raise UsageError(f"{layout.name} has no figures of {model!r}", where="--published-model", hint=hint)
    chosen = {panel: of_model(found, model or panel.model) for panel in panels} if found else {}
    return {panel: table for panel, table in chosen.items() if any(row.task == panel.task for row in table.rows)}


def _baseline(wanted: str | None, entries: list[Entry]) -> str | None:
    """The one entry of that name or method. Raises UsageError where there is none, or several of a method."""
    if wanted is None:
        return None
    named = {entry.name for entry in entries if entry.cells and entry.name == wanted}
    names = list(named or dict.fromkeys(e.name for e in entries if e.cells and e.system.method == wanted))
    if len(names) != 1:
        what = f"{len(names)} systems are {wanted!r}" if names else f"no such system: {wanted!r}"
        found = names or list(dict.fromkeys(entry.name for entry in entries if entry.cells))
        raise UsageError(what, where="--baseline", hint=f"There are {'; '.join(found)}.")
    return names[0]
