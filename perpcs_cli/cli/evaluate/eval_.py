"""`perpcs eval`: the task's metrics of one or more prediction files, side by side."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from perpcs_cli.cli import flags, process
from perpcs_cli.cli.command import command
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.process import visible
from perpcs_cli.cli.tables import Cell, Column, Estimate, Row, Table, render
from perpcs_cli.errors import UsageError

if TYPE_CHECKING:
    from perpcs_cli.artifacts.metrics import Metrics, SystemMetrics
    from perpcs_cli.steps.evaluate.side_by_side import SideBySide

LINE = 100
"""Characters that are shown of an answer."""


@command
def eval_(
    console: Console,
    write: flags.WriteFlags,
    here: flags.PlaceFlags,
    who: flags.UserFlags,
    predictions: Annotated[
        list[str],
        typer.Argument(
            metavar="PREDICTIONS",
            help="Prediction files, ours or in LaMP's format; NAME=FILE gives one a name.",
            show_default=False,
        ),
    ],
    labels: Annotated[
        Path | None,
        typer.Option("--labels", help="References in LaMP's format, instead of the users' outputs."),
    ] = None,
    baseline: flags.BaselineOption = None,
    resamples: flags.ResamplesOption = 1000,
    unit: Annotated[
        Literal["users", "examples"] | None,
        typer.Option("--unit", help="What a resample draws.", show_default="users, where the references name them"),
    ] = None,
    per_user: Annotated[bool, typer.Option("--per-user", help="Also give the metrics of each user.")] = False,
    answers: Annotated[int | None, flags.answers_option("none")] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Evaluate the queries that every file answers, and say how many.")
    ] = False,
    habits: Annotated[
        bool,
        typer.Option("--habits", help="Also the shares of answers with the user's habits, in data of `synth`."),
    ] = False,
    form: flags.FormatOption = None,
    out: Annotated[Path | None, flags.out_option("nowhere", "file")] = None,
    write_lamp: Annotated[
        Path | None,
        flags.written(
            "--write-lamp", help="Only convert the one prediction file to LaMP's format, into this file.", kind="file"
        ),
    ] = None,
    task: flags.TaskOption = None,
    seed: flags.SeedOption = None,
) -> None:
    """Evaluate predictions with LaMP's metrics.

    Prints a table with 95 % bootstrap intervals, and with differences to the baseline for several files. --out also
    writes the metrics, as JSON. A file - is stdin. --answers shows what each file says, beside the reference.
    """
    from perpcs_cli.steps.evaluate import metrics

    shown = flags.form_of(form, console)
    if answers and (console.json or labels):
        raise UsageError("shows text, of users who are known", where="--answers with --json or --labels")
    named = _named(predictions)
    if process.STREAM in named.values() and out:
        raise UsageError(
            "keeps the names of the files, and stdin has none", where="--out", hint="Give the file itself."
        )
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context(process.spooled(path)) for name, path in named.items()}
        if write_lamp is not None:
            metrics.write_lamp(files, here.places, write_lamp, task=task, **write.mode(console))
            return
        result = metrics.evaluate_predictions(
            files,
            here.places,
            who.who(),
            labels=labels,
            baseline=baseline,
            resamples=resamples,
            unit=unit,
            per_user=per_user,
            partial=partial,
            habits=habits,
            task=task,
            seed=seed,
            out=out,
            **write.mode(console),
        )
        console.result(result, render(metrics_table(result), shown))
        if answers:
            from perpcs_cli.steps.evaluate.side_by_side import side_by_side

            console.data(_side_by_side(side_by_side(files, here.places, who.who(), first=answers)))


def _side_by_side(rows: Sequence[SideBySide]) -> str:
    """A block for each query: what it is, the reference, and a line for each system, as far as a line goes."""
    width = max(map(len, ("reference", *(name for row in rows for name in row.answers))), default=0)
    lines = []
    for row in rows:
        lines += ["", f"{row.user_id}, {row.id}"]
        for name, text in (("reference", row.reference), *row.answers.items()):
            said = "(none)" if text is None else shorten(text, LINE, placeholder=" …")
            lines.append(f"  {name:{width}}  {visible(said)}")
    return "\n".join(lines)


def _named(arguments: list[str]) -> dict[str, Path]:
    """Name → file. Raises UsageError for a name that occurs twice."""
    files: dict[str, Path] = {}
    for argument in arguments:
        name, equals, file = argument.partition("=")
        path = Path(file) if equals and name and not Path(argument).exists() else Path(argument)
        name = name if path != Path(argument) else "stdin" if path == process.STREAM else path.stem
        if name in files:
            hint = f"Name them, as other={path}."
            raise UsageError(f"two files are called {name!r}: {files[name]} and {path}", hint=hint)
        files[name] = path
    return files


def metrics_table(result: Metrics) -> Table:
    """One section of systems for each user, if there are values by user, and one for all."""
    from perpcs_cli.tasks.metrics import higher_is_better

    compared = any(system.differences for system in result.systems.values())
    by_user = any(system.users for system in result.systems.values())
    columns = [*([Column("user")] if by_user else []), Column("system"), Column("n")]
    for metric in result.metrics:
        columns.append(Column(metric, better="higher" if higher_is_better(metric) else "lower"))
        if compared:
            columns.append(Column(f"Δ {metric}", key=f"{metric}_difference", signed=True))
            columns.append(Column("p", key=f"{metric}_p", digits=4))
    first = result.systems[result.baseline]
    sections: list[list[Row]] = [
        [
            [user, name, own.count, *_cells(result, own.values, None, compared)]
            for name, system in result.systems.items()
            for own in [system.users[user]]
        ]
        for user in first.users
    ]
    everyone = ["all"] if by_user else []
    sections.append(
        [
            [*everyone, name, result.count, *_cells(result, system.values, system, compared)]
            for name, system in result.systems.items()
        ]
    )
    return Table(columns, sections, _caption(result, compared))


def _cells(result: Metrics, values: dict[str, float], system: SystemMetrics | None, compared: bool) -> list[Cell]:
    """The cells of each metric: its value, and where systems are compared the difference and its p-value."""
    cells: list[Cell] = []
    for metric in result.metrics:
        interval = system.intervals.get(metric) if system else None
        value = values[metric]
        cells.append(Estimate(value, interval.low, interval.high) if interval else value)
        if compared:
            difference = system.differences.get(metric) if system else None
            if difference is None:
                cells += [None, None]
            else:
                ends = difference.interval
                cells += [Estimate(difference.value, ends.low, ends.high), difference.p]
    return cells


def _caption(result: Metrics, compared: bool) -> str:
    parts = [f"{result.task}: {_counted(result.count, 'query', 'queries')}"]
    if result.user_count:
        parts[0] += f" of {_counted(result.user_count, 'user', 'users')}"
    if result.resampling:
        parts.append(f"95 % intervals from {result.resampling.resamples} resamples of {result.resampling.unit}")
    if compared:
        parts.append(f"Δ and p against {result.baseline}")
    return "; ".join(parts)


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
