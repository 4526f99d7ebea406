"""`perpcs eval`: the task's metrics of one or more prediction files, side by side."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from perpcs_cli.cli.options import (
    ForceOption,
    JsonOption,
    QuietOption,
    SeedOption,
    TaskOption,
    UserOption,
    UsersFileOption,
    UsersOption,
    WorkspaceOption,
)

if TYPE_CHECKING:
    from perpcs_cli.artifacts.metrics import Metrics, SystemMetrics
    from perpcs_cli.cli.tables import Cell, Table
    from perpcs_cli.methods.comparison import Answers
    from perpcs_cli.tasks.spec import Task


def eval_(
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
    baseline: Annotated[
        str | None,
        typer.Option("--baseline", help="What the others are compared with. [default: the first file]"),
    ] = None,
    resamples: Annotated[int, typer.Option("--resamples", min=0, help="Bootstrap resamples; 0 for none.")] = 1000,
    unit: Annotated[
        Literal["users", "examples"] | None,
        typer.Option("--unit", help="What a resample draws. [default: users, where the references name them]"),
    ] = None,
    per_user: Annotated[bool, typer.Option("--per-user", help="Also give the metrics of each user.")] = False,
    partial: Annotated[
        bool,
        typer.Option("--partial", help="Evaluate the queries that every file answers, and say how many."),
    ] = False,
    form: Annotated[
        Literal["table", "markdown", "latex", "csv", "json"],
        typer.Option("--format", help="How to print the result."),
    ] = "table",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write the metrics to this JSON file.")] = None,
    write_lamp: Annotated[
        Path | None,
        typer.Option("--write-lamp", help="Only convert the one prediction file to LaMP's format, into this file."),
    ] = None,
    users_file: UsersFileOption = None,
    user: UserOption = None,
    users: UsersOption = None,
    workspace: WorkspaceOption = Path(),
    task: TaskOption = None,
    seed: SeedOption = None,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Evaluate predictions with LaMP's metrics.

    Prints a table with 95 % bootstrap intervals, and with differences to the baseline for several files.
    """
    from perpcs_cli.artifacts import store
    from perpcs_cli.artifacts.metrics import write_metrics
    from perpcs_cli.artifacts.provenance import Provenance
    from perpcs_cli.artifacts.workspace import FILE
    from perpcs_cli.cli.console import Console
    from perpcs_cli.cli.context import named_users, open_context
    from perpcs_cli.cli.tables import render
    from perpcs_cli.errors import UsageError
    from perpcs_cli.methods.comparison import compare, read_answers

    console = Console(json=json or form == "json", quiet=quiet)
    settings = open_context(workspace, task=task, seed=seed).settings if (workspace / FILE).exists() else None
    stored = settings.task if settings else None
    systems = {name: read_answers(path) for name, path in _named(predictions).items()}
    for path in (out, write_lamp):
        if path is not None:
            store.refuse_existing(path, force=force)
    if write_lamp is not None:
        _convert(systems, _task(task, systems.values(), stored), write_lamp)
        console.note(f"wrote {write_lamp}")
        return
    baseline = baseline or next(iter(systems))
    if baseline not in systems:
        hint = f"There are {', '.join(systems)}."
        raise UsageError(f"no such file: {baseline!r}", where="--baseline", hint=hint)
    if labels is not None:
        if users_file or user or users or per_user or unit == "users":
            hint = "Use --users-file instead."
            raise UsageError("LaMP's labels name no users", where="--labels", hint=hint)
        references, systems = _by_labels(labels, systems)
    else:
        references, systems = _by_users(users_file or workspace / "users.jsonl", named_users(user, users), systems)
    chosen = _task(task, [*systems.values(), references], stored)
    unit = unit or ("users" if references.names_users else "examples")
    provenance = Provenance(
        command="eval",
        settings={
            "task": chosen.name,
            "baseline": baseline,
            "resamples": resamples,
            "unit": unit,
            "partial": partial,
        },
        seed=settings.seed if settings else seed or 0,
        inputs={str(file.path): store.digest_file(file.path) for file in [references, *systems.values()]},
    )
    result = compare(
        chosen,
        references,
        systems,
        baseline=baseline,
        provenance=provenance,
        partial=partial,
        resamples=resamples,
        unit=unit,
        per_user=per_user,
    )
    if result.left_out:
        evaluated = _counted(result.count, "query", "queries")
        console.warn(f"{evaluated} evaluated, {result.left_out} left out by --partial")
    if resamples and result.resampling is None:
        console.warn(f"no intervals: there are not two {unit} to draw from")
    if out is not None:
        write_metrics(out, result)
        console.note(f"wrote {out}")
    console.result(result, "" if form == "json" else render(_table(result), form))


def _named(arguments: list[str]) -> dict[str, Path]:
    """Name → file. Raises UsageError for a name that occurs twice."""
    from perpcs_cli.errors import UsageError

    files: dict[str, Path] = {}
    for argument in arguments:
        name, equals, file = argument.partition("=")
        path = Path(file) if equals and name and not Path(argument).exists() else Path(argument)
        name = name if path != Path(argument) else path.stem
        if name in files:
            hint = f"Name them, as other={path}."
            raise UsageError(f"two files are called {name!r}: {files[name]} and {path}", hint=hint)
        files[name] = path
    return files


def _task(flag: str | None, files: Iterable[Answers], stored: str | None) -> Task:
    """The task by --task, else by the files, else by the workspace.

    Raises UsageError where none is known and DataError where a file is of another task.
    """
    from perpcs_cli.errors import DataError, UsageError
    from perpcs_cli.tasks.spec import get_task

    stated = {answers.path: answers.task for answers in files if answers.task}
    name = flag or next(iter(stated.values()), None) or stored
    if not name:
        raise UsageError("no task is known", hint="Give --task, or use a workspace made with `perpcs init`.")
    task = get_task(name)
    for path, other in stated.items():
        # LaMP calls both of its second tasks LaMP_2.
        if other != task.name and not task.lamp.startswith(other):
            raise DataError(f"is of task {other}, and this is an evaluation of {task.name}", where=path)
    return task


def _by_labels(path: Path, systems: dict[str, Answers]) -> tuple[Answers, dict[str, Answers]]:
    """References from LaMP's labels, and the systems under the same ids."""
    from perpcs_cli.errors import DataError
    from perpcs_cli.methods.comparison import aligned, read_answers

    references = read_answers(path)
    if references.names_users:
        raise DataError("is not in LaMP's format", where=path, hint='It is {"task": …, "golds": [{"id", "output"}]}.')
    return references, {name: aligned(answers, references) for name, answers in systems.items()}


def _by_users(path: Path, wanted: list[str], systems: dict[str, Answers]) -> tuple[Answers, dict[str, Answers]]:
    """References and systems of the wanted users; by default of all users that any file answers for."""
    from perpcs_cli.artifacts.users import choose_users, read_users
    from perpcs_cli.methods.comparison import aligned, references_of, restricted

    everyone = read_users(path)
    references = references_of(everyone, path)
    systems = {name: aligned(answers, references) for name, answers in systems.items()}
    if wanted:
        ids = {user.user_id for user in choose_users(everyone, wanted, where=path)}
        systems = {name: restricted(answers, ids) for name, answers in systems.items()}
    else:
        ids = {user for answers in systems.values() for user in answers.users}
    return restricted(references, ids), systems


def _convert(systems: dict[str, Answers], task: Task, path: Path) -> None:
    """Write the one predictions file in LaMP's format."""
    from perpcs_cli.artifacts.labels import Gold, Labels, write_labels
    from perpcs_cli.errors import DataError, UsageError

    if len(systems) != 1:
        raise UsageError("converts exactly one predictions file", where="--write-lamp")
    (answers,) = systems.values()
    golds = [Gold(id=query, output=text or "") for (_, query), text in answers.texts.items()]
    if len({gold.id for gold in golds}) < len(golds):
        raise DataError("users share query ids, and LaMP's format names no users", where=answers.path)
    write_labels(path, Labels(task=task.lamp, golds=golds))


def _table(result: Metrics) -> Table:
    """One section of systems for each user, if there are values by user, and one for all."""
    from perpcs_cli.cli.tables import Column, Row, Table
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
    from perpcs_cli.cli.tables import Estimate

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
