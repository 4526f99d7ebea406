"""The jobs of a workflow: command lines of perpcs, what each waits for, and what it asks a machine for."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

from perpcs_cli.experiments.costs.planner import Need

OWN_FILES = frozenset({"train-sharer", "oppu", "gate", "assemble", "retrieve", "prime"})
"""Steps that write a file or directory for each user: shards write them side by side."""
ONE_FILE = frozenset({"embed", "profile", "predict", "mia"})
"""Steps that write one file for all users: when all shards have ended, the step itself makes one of theirs."""
MODEL = (OWN_FILES | ONE_FILE | {"adapt"}) - {"retrieve"}
"""Steps that look which device there is, also where nothing is left to compute: it is part of what a file says."""
HOST_BYTES = 4 << 30
"""Memory of a job besides its model."""
SLACK = 2.0
"""How many times the estimated time a job may take, beside `START` minutes."""
START = 10


@dataclass(frozen=True)
class Machines:
    """What jobs run on."""

    shards: int
    """Jobs into which a step over users is divided."""
    threads: int
    gpu: bool


@dataclass(frozen=True)
class Job:
    """A rule: one command line, or one for each shard."""

    name: str
    command: str
    """The line of a shell; with shards, without its flag --shard."""
    needs: tuple[str, ...]
    """The names of the jobs that come before, with all their shards."""
    threads: int = 1
    shards: int = 0
    """0 for a job that is not divided."""
    resources: dict[str, int] = field(default_factory=dict)
    """`mem_mb`, `runtime` in minutes, where it is known, and `gpu`."""
    files: tuple[str, ...] = ()
    """Files that it reads and people change, relative to where commands run."""


def line_of(words: Sequence[str]) -> str:
    """A command line of perpcs as a person types it."""
    return shlex.join(["perpcs", *words])


def jobs_of(
    name: str, step: str, words: Sequence[str], needs: Sequence[str], machines: Machines, need: Need | None = None
) -> list[Job]:
    """The jobs of a step; the last one has its name. `words`: the command line, without `perpcs` in front."""
    name = re.sub(r"\W", "_", name)
    needs = tuple(re.sub(r"\W", "_", one) for one in dict.fromkeys(needs))
    threads = machines.threads if step in MODEL else 1
    whole = resources_of(step, machines, need)
    if machines.shards == 1 or step not in OWN_FILES | ONE_FILE:
        return [Job(name, line_of(words), needs, threads, 0, whole)]
    part = resources_of(step, machines, need, machines.shards)
    if step in OWN_FILES:
        return [Job(name, line_of(words), needs, threads, machines.shards, part)]
    parts = Job(f"{name}_parts", line_of(words), needs, threads, machines.shards, part)
    return [parts, Job(name, line_of(words), (parts.name,), 1, 0, light(step in MODEL and machines.gpu))]


def light(gpu: bool) -> dict[str, int]:
    """What a job takes that computes next to nothing; with `gpu` it must see one, or its files would name another
    device."""
    return {"mem_mb": HOST_BYTES >> 20, "runtime": 3 * START, **({"gpu": 1} if gpu else {})}


def resources_of(step: str, machines: Machines, need: Need | None, shards: int = 1) -> dict[str, int]:
    """What a job of a step takes, by the estimate of the whole step; without one, its time is not limited."""
    if step not in MODEL:
        return light(False)
    # The weights pass through the host's memory on their way to the device.
    memory = need.memory.get("weights", 0) if need and machines.gpu else need.peak if need else HOST_BYTES
    found = {"mem_mb": HOST_BYTES + memory >> 20}
    if need and need.seconds is not None:
        found["runtime"] = START + math.ceil(SLACK * need.seconds / shards / 60)
    return {**found, **({"gpu": 1} if machines.gpu else {})}
