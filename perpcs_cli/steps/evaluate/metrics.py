"""The task's metrics of one or more prediction files, side by side."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from perpcs_cli.artifacts.io import hashing, typed_files
from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.metrics import Metrics
from perpcs_cli.artifacts.settings import Settings
from perpcs_cli.artifacts.users import each_user, read_chosen
from perpcs_cli.errors import DataError, UsageError
from perpcs_cli.steps.job import Output, run_one, same_bytes
from perpcs_cli.steps.report import SILENT, Report
from perpcs_cli.steps.workspace import EVERYONE, Places, Who, open_workspace
from perpcs_cli.tasks.spec import Task, get_task, named_task
from perpcs_cli.tasks.synthetic_users import keeps_ending, keeps_form

if TYPE_CHECKING:
    from perpcs_cli.methods.statistics.comparison import Answers, AnswersInfo, Key

Reader = Callable[[Path], "Iterable[tuple[Key, str | None]]"]
"""Gives a file's answers by query."""
Unit = Literal["users", "examples"]


def evaluate_predictions(
    predictions: Mapping[str, Path],
    places: Places,
    who: Who = EVERYONE,
    *,
    labels: Path | None = None,
    baseline: str | None = None,
    resamples: int = 1000,
    unit: Unit | None = None,
    per_user: bool = False,
    partial: bool = False,
    habits: bool = False,
    task: str | None = None,
    seed: int | None = None,
    out: Path | None = None,
    force: bool = False,
    dry_run: bool = False,
    report: Report = SILENT,
) -> Metrics:
    """Evaluate prediction files {name: file} against the users' outputs, or against `labels` in LaMP's format.

    `baseline`: what the others are compared with, the first by default; `unit`: what a bootstrap resample draws;
    `partial`: only the queries that every file answers; `habits`: also the shares of answers with their users' form
    and ending, in data of `synth`. The users are those that any file answers for by default.
    """
    from perpcs_cli.methods.statistics.comparison import compare, read_info

    settings = _settings(places, task, seed)
    systems = {name: read_info(path) for name, path in predictions.items()}
    baseline = baseline or next(iter(systems))
    if baseline not in systems:
        raise UsageError(f"no such file: {baseline!r}", where="--baseline", hint=f"There are {', '.join(systems)}.")
    if labels is not None:
        if who != EVERYONE or per_user or unit == "users":
            hint = "Use --users-file instead."
            raise UsageError("LaMP's labels name no users", where="--labels", hint=hint)
        references, answers_of = _by_labels(labels)
    else:
        references, answers_of = by_users(who.path(places), who.ids, systems.values())
    chosen = _task(task, [*systems.values(), references], settings.task if settings else None)
    unit = unit or ("users" if references.names_users else "examples")
    provenance = Provenance(
        command="eval",
        settings={
            **chosen.identity,
            "baseline": baseline,
            "resamples": resamples,
            "unit": unit,
            "partial": partial,
            **({"habits": True} if habits else {}),
        },
        seed=settings.seed if settings else seed or 0,
        inputs={str(file): hashing.digest_file(file) for file in [references.path, *predictions.values()]},
    )
    result = compare(
        chosen,
        references,
        systems,
        answers_of,
        baseline=baseline,
        provenance=provenance,
        partial=partial,
        resamples=resamples,
        unit=unit,
        per_user=per_user,
        also={"form": keeps_form, "ending": keeps_ending} if habits else {},
    )
    if result.left_out:
        report.warn(f"{_counted(result.count)} evaluated, {result.left_out} left out by --partial")
    if resamples and result.resampling is None:
        report.warn(f"no intervals: there are not two {unit} to draw from")
    if out is not None:
        _write(out, result, force=force, dry_run=dry_run, report=report)
    return result


def write_lamp(
    predictions: Mapping[str, Path],
    places: Places,
    path: Path,
    *,
    task: str | None = None,
    force: bool = False,
    dry_run: bool = False,
    report: Report = SILENT,
) -> None:
    """Write the one predictions file in LaMP's format to `path`."""
    from perpcs_cli.artifacts.labels import Gold, Labels
    from perpcs_cli.methods.statistics.comparison import read_answers, read_info

    if len(predictions) != 1:
        raise UsageError("converts exactly one predictions file", where="--write-lamp")
    settings = _settings(places, task, None)
    answers = read_answers(next(iter(predictions.values())))
    chosen = _task(task, [read_info(answers.path)], settings.task if settings else None)
    golds = [Gold(id=query, output=text or "") for (_, query), text in answers.texts.items()]
    if len({gold.id for gold in golds}) < len(golds):
        raise DataError("users share query ids, and LaMP's format names no users", where=answers.path)
    _write(path, Labels(task=chosen.lamp or chosen.name, golds=golds), force=force, dry_run=dry_run, report=report)


def _write(path: Path, value: object, *, force: bool, dry_run: bool, report: Report) -> None:
    """Write a typed file that is finished where it holds these very bytes."""

    def make() -> bool:
        typed_files.write_json(path, value)
        report.note(f"wrote {path}")
        return True

    output = Output(path.stem, path, same_bytes(path, [typed_files.json_bytes(value)]))
    run_one(output, make, force=force, dry_run=dry_run, report=report)


def _settings(places: Places, task: str | None, seed: int | None) -> Settings | None:
    """The workspace's settings, if there is a workspace."""
    return open_workspace(places.root, task=task, seed=seed).settings if places.settings_file.exists() else None


def _task(given: str | None, files: Iterable[Answers | AnswersInfo], stored: str | None) -> Task:
    """The task as given, else by the files, else by the workspace.

    Raises UsageError where none is known and DataError where a file is of another task.
    """
    stated = {file.path: file.task for file in files if file.task}
    name = given or next(iter(stated.values()), None) or stored
    if not name:
        raise UsageError("no task is known", hint="Give --task, or use a workspace made with `perpcs init`.")
    # Files name an own task, and the workspace knows where its file is.
    own = get_task(stored) if stored and not given else None
    task = own if own is not None and name in (own.name, stored) else get_task(name) if given else named_task(name)
    for path, other in stated.items():
        # LaMP calls both of its second tasks LaMP_2.
        if other != task.name and not task.lamp.startswith(other):
            raise DataError(f"is of task {other}, and this is an evaluation of {task.name}", where=path)
    return task


def _by_labels(path: Path) -> tuple[Answers, Reader]:
    """References from LaMP's labels, and how a system's file is read under the same ids."""
    from perpcs_cli.methods.statistics.comparison import each_answer, read_answers

    references = read_answers(path)
    if references.names_users:
        raise DataError("is not in LaMP's format", where=path, hint='It is {"task": …, "golds": [{"id", "output"}]}.')
    return references, lambda file: each_answer(file, references)


def by_users(path: Path, wanted: Sequence[str], systems: Collection[AnswersInfo]) -> tuple[Answers, Reader]:
    """References of the wanted users, by default of all that any file answers for, and how a system's file is read."""
    from perpcs_cli.methods.statistics.comparison import aligned, each_answer, read_answers, references_of, restricted

    ids = {user.user_id for user in read_chosen(path, wanted)} if wanted else set()
    named = ids or {user for system in systems for user in system.users}
    # Where a file names no users, whose its answers are is told by the ids of everybody's queries.
    everyone = not all(system.names_users for system in systems)
    references = references_of((user for user in each_user(path) if everyone or user.user_id in named), path)
    if not wanted:
        for system in systems:
            ids |= system.users if system.names_users else aligned(read_answers(system.path), references).users
    kept = ids | {""}
    return restricted(references, ids), lambda file: (row for row in each_answer(file, references) if row[0][0] in kept)


def _counted(number: int) -> str:
    return f"{number} {'query' if number == 1 else 'queries'}"
