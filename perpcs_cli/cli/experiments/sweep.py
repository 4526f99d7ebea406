"""`perpcs sweep CONFIG`: a grid of settings, run as the same subcommands would, into one table of results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perpcs_cli.cli import flags
from perpcs_cli.cli.command import command
from perpcs_cli.cli.console import Console

if TYPE_CHECKING:
    from perpcs_cli.artifacts.results import Result
    from perpcs_cli.experiments.sweeps.runner import Planned


@command
def sweep(
    console: Console,
    asked: flags.SweepFlags,
    config: Annotated[Path, typer.Argument(help="What to run, as TOML; see below.", show_default=False)],
    out: Annotated[Path, flags.out_option(False, "directory")],
    dry_run: flags.DryRunOption = False,
) -> None:
    """Run a grid of settings into one table of results.

    A config is TOML:

    \b
      format = "perpcs.sweep/1"
      task = "movie_tagging"         # or the file of an own task, relative to the config
      model = "smollm2-135m"
      data = "../movie_tagging"      # for `perpcs import`, relative to the config
      [settings]                     # over the published settings, as perpcs.toml has them
      train = { batch_size = 4, lr = 1e-3 }
      [steps]                        # flags of commands, without the dashes
      split = { targets = 8, min-history = 6 }
      adapt = { plain = true, max-examples = 96 }
      [[experiment]]
      name = "main"
      method = ["base", "adapted", "per-pcs", "oppu"]
      predict = { retrieve = [0, 1] }
      [[experiment]]
      name = "top-k"
      method = "per-pcs"
      assemble = { top-k = [1, 2, 3], aggregate = ["attention", "uniform"] }

    An experiment is the grid of all combinations of its methods and of the values in its lists. Methods are base (no
    task adapter), adapted, retrieval (PEFT retrieval), per-pcs, prime and oppu. Steps are import, split, profile,
    adapt, embed, select, train-sharer, gate, pool, assemble, retrieve, prime, oppu and predict; oppu is train-sharer on
    the targets, with its flags unless it has its own. settings = { gate.lr = [1e-5, 1e-4] } in an experiment varies
    keys of perpcs.toml. What does not concern a method is left out for it. RAG and PAG are base or adapted with
    predict = { retrieve = 1, with-profile = true }.

    Without select, the sharers are all candidates. Profiles are written where a flag asks for them; with profile
    under [steps], training examples show them, too. paper = "prime" and preset = "published-code" start from other
    settings, as they do in `perpcs init`. seed = 1 is the seed, and seeds = [0, 1] repeats everything, the split
    included, unless split = { seed = 0 } keeps it.

    What cells have in common is computed once, under OUT/steps, in places that are named by their content: a sweep that
    was stopped goes on, and one that was extended only adds. Command lines are shown on stderr as they run; --dry-run
    prints those that are left. OUT/results.jsonl gets one line a cell in the config's order, for `perpcs table`.
    """
    from perpcs_cli.artifacts.sweep import read_sweep
    from perpcs_cli.cli.inprocess import Shell
    from perpcs_cli.experiments.sweeps.runner import Asked, plan_sweep, run_sweep

    shell = Shell(console)
    read = read_sweep(config)
    sources = [Path(one) for one in asked.data or read.data]
    planned = plan_sweep(Asked(config, read, out, sources, asked.given, asked.experiment or ()), shell)
    if dry_run:
        _show(planned, console)
        return
    rows = run_sweep(planned, out, shell, console, lambda row: None if console.json else console.data(_line(row)))
    if console.json:
        console.result(rows, "")


def _show(planned: Planned, console: Console) -> None:
    """Print the command lines that are left, once each, below the first cell that needs them."""
    from perpcs_cli.experiments.sweeps.runner import done

    seen: set[str] = set()
    lines: list[str] = []
    for cell, steps in planned:
        left = [step for step in steps if step.digest not in seen and done(step) is None]
        seen |= {step.digest for step in left}
        lines += [f"# {cell}", *map(str, left)]
    cells = [
        {
            "experiment": cell.experiment,
            "method": cell.method,
            "seed": cell.seed,
            "settings": cell.settings,
            "steps": [{"name": step.name, "command": str(step), "done": done(step) is not None} for step in steps],
        }
        for cell, steps in planned
    ]
    console.result(cells, "\n".join(lines))


def _line(row: Result) -> str:
    from perpcs_cli.experiments.sweeps.grid import spelled

    settings = " ".join(f"{name}={spelled(value)}" for name, value in row.settings.items())
    metrics = [f"{name}={value:.4f}" for name, value in row.metrics.items()]
    return "\t".join([row.experiment, row.method, str(row.seed), settings or "-", *metrics])
