"""The jobs of a sweep: each step of its cells once, and the sweep itself, which then only collects the results."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from perpcs_cli.artifacts.predictions import info_path
from perpcs_cli.experiments.costs.planner import Need
from perpcs_cli.experiments.sweeps.pipeline import Step
from perpcs_cli.experiments.sweeps.runner import Planned
from perpcs_cli.experiments.workflows.jobs import Job, Machines, jobs_of, light, line_of


def sweep_jobs(planned: Planned, needs: Sequence[Need | None], command: Sequence[str], machines: Machines) -> list[Job]:
    """The jobs of a planned sweep, and last that of the sweep itself, by its own `command` line.

    `needs`: what each step takes, each once, in the order in which a sweep runs them.
    """
    steps: dict[str, Step] = {}
    before: dict[str, list[str]] = {}
    last: dict[tuple[str, Path], str] = {}
    for _, some in planned:
        for number, step in enumerate(some):
            if step.digest in steps:
                continue
            steps[step.digest] = step
            before[step.digest] = [one.digest for one in some[:number] if _reads(step, one)]
            # Steps that write to one place share what is made there: the first one makes it.
            if same := last.get((step.name, step.place)):
                before[step.digest].append(same)
            last[step.name, step.place] = step.digest
    jobs: list[Job] = []
    copied: set[str] = set()
    for (digest, step), need in zip(steps.items(), needs, strict=True):
        waits = [_name(steps[one]) for one in before[digest]]
        if step.workspace.profile:
            copy = _copy(step)
            waits.append(copy.name)
            jobs += [] if copy.name in copied else [copy]
            copied.add(copy.name)
        jobs += jobs_of(_name(step), step.name, step.line, waits, machines, need)
    ends = tuple(dict.fromkeys(_name(some[-1]) for _, some in planned))
    return [*jobs, Job("sweep", line_of(command), ends, 1, 0, light(machines.gpu))]


def _name(step: Step) -> str:
    return f"{step.name}_{step.digest[:12]}".replace("-", "_")


def _reads(step: Step, other: Step) -> bool:
    """Whether a step's command line names what another one has made."""
    return any(Path(word.removeprefix("@")).is_relative_to(other.product) for word in step.line)


def _copy(step: Step) -> Job:
    """The job that puts the profiles beside the settings of a step, as the sweep does."""
    source, place = step.workspace.profile, step.workspace.path
    assert source
    target = place / "profiles.jsonl"
    pairs = [(info_path(source.product), info_path(target)), (source.product, target)]
    command = " && ".join(shlex.join(["cp", str(one), str(other)]) for one, other in pairs)
    return Job(f"profiles_of_{place.name}", command, (_name(source),), 1, 0, light(False))
