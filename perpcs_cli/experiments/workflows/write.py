"""Writing a workflow: what its jobs take, the Snakefile and the profiles."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import msgspec

from perpcs_cli.artifacts.io import typed_files
from perpcs_cli.artifacts.settings import FILE as SETTINGS
from perpcs_cli.artifacts.sweep import METHODS, Method, check_names
from perpcs_cli.errors import DataError, PerpcsError
from perpcs_cli.experiments.costs.device_specs import ProfileName
from perpcs_cli.experiments.costs.estimate import Question, estimate
from perpcs_cli.experiments.costs.planner import Need
from perpcs_cli.experiments.sweeps.pipeline import StepWorkspace
from perpcs_cli.experiments.sweeps.runner import Asked, Commands, plan_sweep
from perpcs_cli.experiments.workflows.jobs import Job, Machines
from perpcs_cli.experiments.workflows.of_sweep import sweep_jobs
from perpcs_cli.experiments.workflows.of_workspace import as_sweep, read_flags, workspace_jobs
from perpcs_cli.experiments.workflows.snakefile import FILE, PROFILES, profile, snakefile
from perpcs_cli.steps.init_workspace import write_settings
from perpcs_cli.steps.job import Outcome, Output, run, same_bytes
from perpcs_cli.steps.report import Report
from perpcs_cli.steps.workspace import open_workspace

BARE = "for v in ${!PERPCS_@}; do [ $v = PERPCS_CACHE ] || unset $v; done; "
"""In front of a sweep's commands: they take their settings from the line and their workspace alone, as in a sweep."""


@dataclass(frozen=True)
class Workflow:
    """A workflow to be written: its jobs, the directory where their commands run, and what these run on."""

    jobs: Sequence[Job]
    start: Path
    machines: Machines
    prefix: str = ""
    """In front of each command."""
    settings: Sequence[StepWorkspace] = ()
    """Directories whose `perpcs.toml` the commands read, and the workflow writes."""


def of_workspace(
    root: Path,
    methods: Collection[str],
    given: Sequence[str],
    machines: Machines,
    device: ProfileName | None,
    commands: Commands,
    report: Report,
) -> Workflow:
    """The workflow of the workspace in `root`: the steps of `methods`, by default that of its paper, with the flags
    that are `given`. `device`: whose speed is estimated; None for this machine's.

    Raises UsageError for what cannot be, and for a command line that no command would take.
    """
    workspace = open_workspace(root)
    machines = _seen(machines, workspace.settings.device)
    if not workspace.users.exists():
        raise DataError("there are no users", where=workspace.users, hint="Read them with `perpcs import`.")
    check_names(methods, METHODS, "method", "--method")
    chosen = cast("tuple[Method, ...]", tuple(dict.fromkeys(methods or [workspace.settings.paper])))
    flags, known = read_flags(given), commands.flags()
    sweep = as_sweep(workspace, chosen, flags, known)
    found = _estimated(Question(root, sweep, (), {}, None, device), machines, commands, report)
    needs = {need.step: need for need in found or ()}
    jobs = workspace_jobs(workspace, chosen, flags, needs, machines)
    for job in jobs:
        commands.check(shlex.split(job.command)[1:])
    return Workflow(jobs, root, machines)


def of_sweep(
    asked: Asked,
    machines: Machines,
    device: ProfileName | None,
    commands: Commands,
    command: Sequence[str],
    report: Report,
) -> Workflow:
    """The workflow of a sweep, which is itself the last job, by its `command` line. Raises what planning it raises."""
    planned = plan_sweep(asked, commands)
    machines = _seen(machines, str(asked.given.get("device", "auto")))
    question = Question(asked.config, asked.sweep, asked.only, asked.given, asked.sources, device)
    found = _estimated(question, machines, commands, report)
    steps = list({step.digest: step for _, some in planned for step in some}.values())
    needs: Sequence[Need | None] = found or [None] * len(steps)
    places = list({step.workspace.path: step.workspace for step in steps}.values())
    return Workflow(sweep_jobs(planned, needs, command, machines), Path(), machines, BARE, places)


def _seen(machines: Machines, device: str) -> Machines:
    """The same without GPUs where the settings say that none is used."""
    return replace(machines, gpu=machines.gpu and device != "cpu")


def _estimated(question: Question, machines: Machines, commands: Commands, report: Report) -> list[Need] | None:
    """What each step takes, in the order in which they run; None, with a warning, where that cannot be said."""
    try:
        found = estimate(question, commands.flags(), report).needs[:-1]
    except PerpcsError as error:
        report.warn(f"jobs have no limits of time and memory of their own, as there is no estimate: {error.what}")
        return None
    # The published figures are those of GPUs.
    timed = machines.gpu or question.profile is None
    return found if timed else [msgspec.structs.replace(need, seconds=None) for need in found]


def write(workflow: Workflow, out: Path, *, force: bool, dry_run: bool, report: Report) -> list[Outcome[bool]]:
    """Write the Snakefile and the profiles into `out`, and the settings that its commands read."""
    texts = {out / "profiles" / name / "config.yaml": profile(name, workflow.machines) for name in PROFILES}
    # Last: with it, all is there.
    texts[out / FILE] = snakefile(workflow.jobs, out, workflow.start, workflow.prefix)

    def make(todo: Sequence[Output[bool]], keep: Any) -> None:
        for place in workflow.settings:
            if not (place.path / SETTINGS).exists():
                write_settings(place.path, place.settings)
        for one in todo:
            typed_files.write_text(one.path, texts[one.path])
            keep(one, True)

    outputs = [
        Output(str(path.relative_to(out)), path, same_bytes(path, [text.encode()])) for path, text in texts.items()
    ]
    modes: dict[str, Any] = {"force": force, "dry_run": dry_run, "report": report}
    return run(outputs, make, place=out / FILE, things="files", **modes)
