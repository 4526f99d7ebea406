"""What Snakemake reads: the Snakefile of a workflow's jobs, and profiles for one machine, Slurm and Kubernetes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from perpcs_cli.experiments.workflows.jobs import Job, Machines

FILE = "Snakefile"
PROFILES = ("local", "slurm", "kubernetes")
DONE, LOGS = "done", "logs"
"""Below the workflow's directory: an empty file for each job that has ended, and what jobs have said."""

HEAD = """# Written by `perpcs workflow`.
#
#     snakemake --snakefile {place}/Snakefile --profile {place}/profiles/local
#
# Each job is a command of perpcs. What it has made is known by its content, so that a job that was stopped and is
# started again goes on, and one that has nothing left to do ends at once. The files below {done}/ only say that a job
# has ended: without one, its command runs again.

workdir: config.get("start") or workflow.basedir + {up!r}


wildcard_constraints:
    shard=r"[0-9]+",


localrules: all


rule all:
    input:
{ends}
"""
RULE = """

rule {name}:
    input:
{inputs}
    output: touch({output!r})
    log: {log!r}
    threads: {threads}
    resources: {resources}
    shell: {command!r}
"""


def snakefile(jobs: Sequence[Job], out: Path, start: Path, prefix: str = "") -> str:
    """The Snakefile in `out` of jobs whose commands run in `start`, each behind `prefix`.

    Its paths are relative, so that both directories can be moved together.
    """
    below = Path(os.path.relpath(out.resolve(), start.resolve())).as_posix()
    place = _escaped(below)
    named = {job.name: job for job in jobs}
    waited = {need for job in jobs for need in job.needs}
    ends = [end for job in jobs if job.name not in waited for end in _ends(job, place)]
    up = "/" + Path(os.path.relpath(start.resolve(), out.resolve())).as_posix()
    text = HEAD.format(place=below, done=f"{below}/{DONE}", up=up, ends=_list(ends))
    for job in jobs:
        inputs = [*map(_escaped, job.files), *(end for need in job.needs for end in _ends(named[need], place))]
        asked = f" --shard {{wildcards.shard}}/{job.shards}" if job.shards else ""
        text += RULE.format(
            name=job.name,
            inputs=_list(inputs),
            output=_mark(job, f"{place}/{DONE}", "{shard}"),
            log=_mark(job, f"{place}/{LOGS}", "{shard}") + ".txt",
            threads=job.threads,
            resources=", ".join(f"{name}={value}" for name, value in job.resources.items()),
            command=f"{_escaped(prefix + job.command)}{asked} > {{log:q}} 2>&1",
        )
    return text


def _mark(job: Job, place: str, shard: str) -> str:
    return f"{place}/{job.name}" + (f"-{shard}-of-{job.shards}" if job.shards else "")


def _ends(job: Job, place: str) -> list[str]:
    """What says that a job has ended, with all its shards."""
    return [_mark(job, f"{place}/{DONE}", str(number)) for number in range(1, job.shards + 1)] or [
        _mark(job, f"{place}/{DONE}", "")
    ]


def _list(paths: Sequence[str]) -> str:
    return "\n".join(f"        {path!r}," for path in paths) or "        [],"


def _escaped(text: str) -> str:
    """Without what Snakemake would take for wildcards."""
    return text.replace("{", "{{").replace("}", "}}")


COMMON = """# A profile of Snakemake: `snakemake --profile` with this directory. Change what your machines need.
retries: 2
keep-going: true
rerun-incomplete: true
printshellcmds: true
"""
LOCAL = """executor: local
# Jobs share these: as many run at a time as fit.
cores: all
resources:
  gpu: {gpu}
  # mem_mb: 64000
"""
SLURM = """# pip install snakemake-executor-plugin-slurm. The directory is on a file system that all nodes share.
executor: slurm
jobs: 100
latency-wait: 60
default-resources:
  # slurm_account: YOURS
  # slurm_partition: YOURS
  runtime: 1440
"""
KUBERNETES = """# pip install snakemake-executor-plugin-kubernetes snakemake-storage-plugin-fs. All pods, and who
# starts them, mount one volume that many can write at PATH; START, below it, is where commands run. The image has
# perpcs, Snakemake, both plugins and rsync.
executor: kubernetes
jobs: 100
latency-wait: 60
kubernetes-namespace: default
kubernetes-persistent-volumes: [VOLUME:/PATH]
container-image: REGISTRY/perpcs:TAG
default-storage-provider: fs
default-storage-prefix: /PATH/START
config: [start=/PATH/START]
{gpu}"""


def profile(name: str, machines: Machines) -> str:
    """A profile's `config.yaml`."""
    if name == "local":
        return COMMON + LOCAL.format(gpu=int(machines.gpu))
    if name == "slurm":
        return COMMON + SLURM
    return COMMON + KUBERNETES.format(gpu="default-resources:\n  gpu_manufacturer: nvidia\n" if machines.gpu else "")
