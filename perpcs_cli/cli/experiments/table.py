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

if TYPE_CHECKING:
    from perpcs_cli.artifacts.published import PublishedTable
    from perpcs_cli.experiments.tables.paper_layouts import Layout
    from perpcs_cli.experiments.tables.systems import Entry, Row


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
        Literal["per-pcs-1", "per-pcs-2", "prime-1", "prime-2", "prime-4"] | None,
        typer.Option("--like", help="The table to follow.", show_default="one row a result"),
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
    resamples: flags.ResamplesOption = 1000,
    seed: flags.SeedOption = None,
    published: Annotated[
        Path | None, typer.Option("--published", help="Published figures, instead of those that ship; TOML.")
    ] = None,
    mia: flags.SummariesOption = None,
    protocol: Annotated[Protocol | None, flags.protocol_option("published")] = None,
    attack: Annotated[
        str | None, typer.Option("--attack", help="Whose AUC.", show_default="each system's strongest attack")
    ] = None,
    plot: Annotated[
        Path | None,
        flags.written("--plot", help="Also draw utility against AUC: an .svg, .png or .pdf file.", kind="file"),
    ] = None,
    form: flags.FormatOption = None,
) -> None:
    """Lay out a sweep's results as the papers' tables.

    The best values are bold and the second best underlined. Stars are of a paired bootstrap over users, against
    --baseline or, without it, the best baseline of each metric; the caption says which. With --experiment the constant
    settings of an experiment count as its set-up. --mia and --plot are for prime-4.
    """
    from perpcs_cli.artifacts.mia import summaries_in
    from perpcs_cli.cli.experiments import paper_tables, tradeoff
    from perpcs_cli.cli.plots import check_plot
    from perpcs_cli.cli.tables import render
    from perpcs_cli.experiments.tables.paper_layouts import LAYOUTS
    from perpcs_cli.experiments.tables.significance import Reader, test
    from perpcs_cli.experiments.tables.systems import arrange, each, panels, with_published

    shape, seed = flags.form_of(form, console), seed or 0
    layout = LAYOUTS[like] if like else None
    _needs("--like", layout, {"--published": published})
    _needs("--like prime-4", layout and layout.leakage, {"--mia": mia, "--protocol": protocol})
    _needs("--by activity", by, {"--bins": bins})
    _needs("--mia, a summary of `perpcs mia`", mia, {"--plot": plot, "--attack": attack})
    given = {"--plot": plot, "--mia": mia, "--baseline": baseline, "--published": published}
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
    figures = _published(layout, published) if layout else None
    if layout and figures and not by:
        entries = with_published(layout, entries, figures.figures)
    reader, kept = Reader(), panels([row for row in rows if row not in left_out])
    compared = _baseline(baseline, entries)
    tested = {}
    if resamples and not by and (layout or compared):
        for panel in kept:
            tested[panel] = test(entries, panel, reader, baseline=compared, resamples=resamples, seed=seed)
            if tested[panel].apart:
                console.warn(f"{panel.task}: not compared, other queries: {', '.join(tested[panel].apart)}")
    whose = protocol or "published"
    auc = tradeoff.areas(summaries_in(mia or []), entries, whose, attack, console)
    shown = paper_tables.Contents(entries, kept, tested, auc, figures, bool(layout and layout.stars == "different"))
    about = (
        f"AUC of {attack or 'the strongest attack'}, {whose} protocol, turned round where below one half" if auc else ""
    )
    if by:
        laid, values = paper_tables.activity_table(shown, reader, edges)
    else:
        caption = paper_tables.caption_of(shown, layout, resamples, seed, about)
        values = paper_tables.records(shown, layout)
        laid = (
            paper_tables.layout_table(shown, layout, caption) if layout else paper_tables.generic_table(shown, caption)
        )
    if plot is not None:
        tradeoff.plot(plot, shown, write, console)
    console.result(values, render(laid, shape))


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
    from perpcs_cli.artifacts.results import FILE, read_results
    from perpcs_cli.experiments.tables.systems import Row
    from perpcs_cli.tasks.spec import TASKS

    files = dict.fromkeys(place / FILE if place.is_dir() else place for place in places)
    rows = [Row(result, file.parent) for file in files for result in read_results(file)]
    for row in rows:
        task = TASKS.get(row.result.task)
        if task is None or set(task.metrics) != set(row.result.metrics):
            what = f"has {', '.join(row.result.metrics)} for the task {row.result.task!r}"
            raise DataError(what, where=row.root / FILE, hint="Was it written by another version of perpcs?")
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


def _published(layout: Layout, path: Path | None) -> PublishedTable | None:
    from perpcs_cli.artifacts.published import SHIPPED, read_published
    from perpcs_cli.experiments.tables.paper_layouts import LAYOUTS, check_published

    tables = read_published(path or SHIPPED)
    for name, found in tables.items():
        if name not in LAYOUTS:
            raise DataError(f"no such layout: {name!r}", where=path, hint=f"There are {', '.join(LAYOUTS)}.")
        check_published(LAYOUTS[name], found, path)
    if path is not None and layout.name not in tables:
        raise DataError(f"has no figures for {layout.name}", where=path, hint=f"It has {', '.join(tables) or 'none'}.")
    return tables.get(layout.name)


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
