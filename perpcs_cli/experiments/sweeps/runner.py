"""Running a sweep: its steps are the command lines that a person could type, each run once and recorded."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import msgspec

from perpcs_cli import __version__
from perpcs_cli.artifacts.io import atomic, hashing, typed_files
from perpcs_cli.artifacts.io.leftovers import sweep
from perpcs_cli.artifacts.io.lock import locked
from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.metrics import Metrics
from perpcs_cli.artifacts.predictions import info_path
from perpcs_cli.artifacts.results import FILE as RESULTS
from perpcs_cli.artifacts.results import Result, Results, open_results, verify_results
from perpcs_cli.artifacts.settings import FILE
from perpcs_cli.artifacts.sweep import Sweep, check_names
from perpcs_cli.errors import UsageError
from perpcs_cli.experiments.sweeps.grid import Cell, Flags, cells, check_flags
from perpcs_cli.experiments.sweeps.pipeline import Kit, Step, StepWorkspace, pipeline
from perpcs_cli.model.loading.catalogue import absolute
from perpcs_cli.steps.base import kept_base
from perpcs_cli.steps.evaluate.metrics import by_users
from perpcs_cli.steps.init_workspace import write_settings
from perpcs_cli.steps.report import Report
from perpcs_cli.tasks.published_settings import published_settings
from perpcs_cli.tasks.spec import Task, get_task

Planned = list[tuple[Cell, list[Step]]]


class Commands(Protocol):
    """The commands of perpcs, as whoever reads command lines knows them."""

    def flags(self) -> Flags:
        """The flags of each step's command."""

    def check(self, line: Sequence[str]) -> None:
        """Raise UsageError where the command would not take its own command line."""

    def run(self, line: Sequence[str]) -> None:
        """Run a command line, and say which. What it finds is not shown."""


class Done(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="format", tag="perpcs.step/1"
):
    """Written when a step has ended: what it was, and how long it took."""

    name: str
    digest: str
    command: tuple[str, ...]
    seconds: float
    tool: str


def done(step: Step) -> Done | None:
    """The record of a step that was run to its end, or None. Raises DataError where it is broken."""
    return typed_files.read_json(step.marker, Done) if step.marker.exists() and step.product.exists() else None


@dataclass(frozen=True)
class Asked:
    """What a sweep is asked to do: its config, where it goes, and over what."""

    config: Path
    sweep: Sweep
    out: Path
    sources: Sequence[Path]
    given: Mapping[str, Any]
    """Settings of the top over each cell's: task, model, and where it runs."""
    only: Collection[str] = ()
    """Experiments; all where none is named."""


def plan_sweep(asked: Asked, commands: Commands) -> Planned:
    """The cells with their steps, in the order in which they run; every command line is checked.

    Raises UsageError for what no command would take, and where there is no data.
    """
    check_names(asked.only, [one.name for one in asked.sweep.experiments], "experiment", "--experiment")
    if not asked.sources:
        raise UsageError("names no data", where=asked.config, hint="Give --data.")
    flags = commands.flags()
    check_flags(asked.sweep, flags, asked.config)
    kit = _kit(asked, flags)
    some = [cell for cell in cells(asked.sweep) if not asked.only or cell.experiment in asked.only]
    planned = [(cell, pipeline(cell, kit)) for cell in some]
    for step in {step.digest: step for _, steps in planned for step in steps}.values():
        try:
            commands.check(step.line)
        except UsageError as error:
            raise UsageError(error.what, where=str(step)) from None
    return planned


def run_sweep(
    planned: Planned, out: Path, commands: Commands, report: Report, row: Callable[[Result], None]
) -> list[Result]:
    """Run what has not ended yet, cell by cell, into OUT/results.jsonl; `row` is called with each cell's result."""
    with locked(out, report.note), kept_base():
        for directory in {
            place for _, steps in planned for step in steps for place in (step.place, step.workspace.path)
        }:
            sweep(directory)
        return _run_cells(planned, out, commands, report, row)


def _run_cells(
    planned: Planned, out: Path, commands: Commands, report: Report, row: Callable[[Result], None]
) -> list[Result]:
    _keep_task(get_task(planned[0][1][-1].workspace.settings.task), out)
    results = open_results(out / RESULTS)
    _warn_of_others(planned, results, report)
    for problem in verify_results(out / RESULTS) if results.rows else []:
        report.warn(f"{problem}; without its line in {out / RESULTS}, it is made again")
    rows = []
    for number, (cell, steps) in enumerate(planned, start=1):
        digest = _digest(cell, steps)
        if digest not in results.rows:
            report.note(f"cell {number} of {len(planned)}: {cell}")
            results.append(_run_cell(cell, steps, digest, out, commands, report))
        rows.append(results.rows[digest])
        row(rows[-1])
    return rows


def _keep_task(task: Task, out: Path) -> None:
    """Put an own task's file beside the results, where tables find it. Raises UsageError where another one is."""
    if not task.is_own:
        return
    there = out / task.file_name
    if there.exists() and get_task(str(there)).digest != task.digest:
        hint = "Use another --out: results of different tasks cannot be compared."
        raise UsageError(f"is not the task of this sweep, {task.file}", where=there, hint=hint)
    task.copy_to(out)


def run_step(step: Step, commands: Commands) -> Done:
    """Run a step that has not ended yet, and record it. What it wrote before it was stopped it goes on with."""
    prepare(step.workspace)
    began = time.monotonic()
    commands.run(step.line)
    seconds = round(time.monotonic() - began, 3)
    record = Done(name=step.name, digest=step.digest, command=step.line, seconds=seconds, tool=__version__)
    typed_files.write_json(step.marker, record)
    return record


def prepare(workspace: StepWorkspace) -> None:
    """Write the `perpcs.toml` that a step reads, and the profiles beside it."""
    if not (workspace.path / FILE).exists():
        write_settings(workspace.path, workspace.settings)
    if workspace.profile and not (target := workspace.path / "profiles.jsonl").exists():
        source = workspace.profile.product
        with atomic.replacing(info_path(target)) as temporary:
            shutil.copyfile(info_path(source), temporary)
        with atomic.replacing(target) as temporary:
            shutil.copyfile(source, temporary)


def evaluate(users: Path, predictions: Path, task: str) -> Metrics:
    """The metrics of one predictions file against all queries of the users that it answers for."""
    from perpcs_cli.methods.statistics.comparison import compare, read_info

    info = read_info(predictions)
    references, answers_of = by_users(users, (), [info])
    inputs = {str(path): hashing.digest_file(path) for path in (users, predictions)}
    return compare(
        get_task(task),
        references,
        {predictions.stem: info},
        answers_of,
        baseline=predictions.stem,
        provenance=Provenance(command="sweep", settings={}, seed=0, inputs=inputs),
        resamples=0,
    )


def _run_cell(cell: Cell, steps: Sequence[Step], digest: str, out: Path, commands: Commands, report: Report) -> Result:
    """Run the steps of a cell that have not ended yet, and evaluate its predictions."""
    seconds: dict[str, float] = {}
    for step in steps:
        try:
            record = done(step) or run_step(step, commands)
        except BaseException:
            report.warn(f"stopped in the cell {cell}, at: {step}")
            raise
        seconds[step.name] = round(seconds.get(step.name, 0.0) + record.seconds, 3)
    users, predictions = steps[0].product, steps[-1].product
    metrics = evaluate(users, predictions, steps[-1].workspace.settings.task)
    return Result(
        experiment=cell.experiment,
        method=cell.method,
        task=metrics.task,
        model=steps[-1].workspace.settings.model,
        seed=cell.seed,
        settings=dict(cell.settings),
        common=cell.common,
        metrics=metrics.systems[predictions.stem].values,
        count=metrics.count,
        user_count=metrics.user_count,
        predictions=str(predictions.relative_to(out)),
        users=str(users.relative_to(out)),
        digest=digest,
        seconds=seconds,
    )


def _warn_of_others(planned: Planned, results: Results, report: Report) -> None:
    """Say so where a cell was recorded before with other flags or data: tables will show both."""
    digests = {_digest(cell, steps) for cell, steps in planned}
    names = {(cell.experiment, cell.method, cell.seed, tuple(cell.settings.items())) for cell, _ in planned}
    others = [
        row
        for row in results.rows.values()
        if row.digest not in digests and (row.experiment, row.method, row.seed, tuple(row.settings.items())) in names
    ]
    if others:
        report.warn(
            f"{len(others)} cells were recorded before with other flags, settings or data, and stay in the results; "
            "use another --out to keep them apart"
        )


def _kit(asked: Asked, flags: Flags) -> Kit:
    given = dict(asked.given)
    published = published_settings(str(given.pop("task", asked.sweep.task)), asked.sweep.paper, asked.sweep.preset)
    model = absolute(str(given.pop("model", asked.sweep.model)))
    files: dict[str, str] = {}
    for source in asked.sources:
        if asked.out.resolve().is_relative_to(source.resolve()):
            raise UsageError(f"lies in the data, {source}", where="--out", hint="Its files would count as new data.")
        for file in _files(source):
            name = str(file.relative_to(source.parent))
            # Two sources may have the same name.
            files[name] = files.get(name, "") + hashing.digest_file(file)
    digest = hashing.digest_value(files)
    own = {"model": model, **given}
    return Kit(asked.out, tuple(map(str, asked.sources)), digest, published, own, flags, cache(_content))


def _content(name: str) -> str:
    """The fingerprint of a model or encoder on this machine; of one on a hub, the name tells."""
    from perpcs_cli.model.loading.fetch import resolve_model
    from perpcs_cli.model.loading.identity import fingerprint_model

    found = resolve_model(name)
    return fingerprint_model(found) if isinstance(found, Path) else ""


def _files(source: Path) -> list[Path]:
    """A file, or the files of a directory in a fixed order. Raises UsageError where there is nothing."""
    if not source.exists():
        raise UsageError("no such file or directory", where=source, hint="Give the data with --data.")
    return [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())


def _digest(cell: Cell, steps: Sequence[Step]) -> str:
    return hashing.digest_value([cell.experiment, cell.method, cell.seed, steps[-1].digest])
