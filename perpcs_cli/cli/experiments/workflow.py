"""`perpcs workflow SOURCE`: a workspace or a sweep as a workflow of Snakemake, for one machine or many."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perpcs_cli.cli import flags
from perpcs_cli.cli.command import command
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.experiments.plan import MeasureOption, ProfileOption
from perpcs_cli.errors import UsageError


@command
def workflow(
    console: Console,
    asked: flags.SweepFlags,
    write: flags.WriteFlags,
    source: Annotated[Path, typer.Argument(help="A workspace, or a config of `perpcs sweep`.", show_default=False)],
    out: Annotated[Path, flags.out_option(False, "directory")],
    shards: Annotated[int, typer.Option("--shards", min=1, help="Jobs into which a step over users is divided.")] = 4,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Processor cores of a job with a model.")] = 4,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            metavar="<name>",
            help="In a workspace: base, adapted, retrieval, per-pcs, prime or oppu; may be repeated.",
            show_default="its paper's",
        ),
    ] = None,
    step_flags: Annotated[
        list[str] | None,
        typer.Option(
            "--flags",
            metavar="<text>",
            help="In a workspace: a step with its flags, as 'gate --plain --steps 20'; may be repeated.",
        ),
    ] = None,
    no_gpu: Annotated[bool, typer.Option("--no-gpu", help="Jobs ask for no GPU.")] = False,
    profile: ProfileOption = "a100-80gb",
    measure: MeasureOption = False,
) -> None:
    """Write a Snakemake workflow of a workspace or a sweep.

    OUT/Snakefile has the command lines that a person would type, each step over users divided into jobs by --shard,
    with what they wait for, and what they take by the estimates of `perpcs plan`. OUT/profiles has profiles of
    Snakemake for one machine, Slurm and Kubernetes, to be changed as your machines need. It runs with

    \b
      pip install 'perpcs[workflow]'
      snakemake --snakefile OUT/Snakefile --profile OUT/profiles/local

    Of a workspace whose users are imported and split, the steps are those of the methods: adapt (where there are base
    users), train-sharer, gate, pool, embed, assemble, retrieve or prime, predict and eval; select, profile and mia run
    where --flags names them. The settings are the workspace's. Of a sweep, OUT is the sweep's, too: its steps are jobs,
    and the sweep itself is the last one, which writes OUT/results.jsonl. Where jobs ask for a GPU, all that look for a
    device do: what was made on another one is refused.
    """
    from perpcs_cli.cli.inprocess import Shell
    from perpcs_cli.experiments.workflows.jobs import Machines
    from perpcs_cli.experiments.workflows.write import of_sweep, of_workspace
    from perpcs_cli.experiments.workflows.write import write as write_files

    shell = Shell(console)
    machines = Machines(shards, threads, gpu=not no_gpu)
    speed = None if measure else profile
    if source.is_dir():
        for name, value in {"data": asked.data, "experiment": asked.experiment, **asked.given}.items():
            if value:
                raise UsageError("is for a sweep; a workspace has its own", where=f"--{name}")
        made = of_workspace(source, method or (), step_flags or (), machines, speed, shell, console)
    else:
        from perpcs_cli.artifacts.sweep import read_sweep
        from perpcs_cli.experiments.sweeps.runner import Asked

        for name, several in (("--method", method), ("--flags", step_flags)):
            if several:
                raise UsageError("is for a workspace; a sweep has them in its config", where=name)
        config = read_sweep(source)
        sources = [Path(one) for one in asked.data or config.data]
        sweep = Asked(source, config, out, sources, asked.given, asked.experiment or ())
        line = ["sweep", str(source), "--out", str(out)]
        line += [word for path in asked.data or () for word in ("--data", str(path))]
        line += [word for one in asked.experiment or () for word in ("--experiment", one)]
        line += [word for name, value in asked.given.items() for word in (f"--{name}", str(value))]
        made = of_sweep(sweep, machines, speed, shell, line, console)
    outcomes = write_files(made, out, **write.mode(console))
    jobs = sum(job.shards or 1 for job in made.jobs)
    states = [{"path": str(one.path), "state": one.state} for one in outcomes]
    lines = [f"{one.path}\t{'to do' if one.state == 'to do' else 'written'}" for one in outcomes]
    lines[-1] += f"\t{len(made.jobs)} rules, {jobs} jobs"
    console.result({"files": states, "rules": len(made.jobs), "jobs": jobs}, "\n".join(lines))
