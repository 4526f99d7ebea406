"""`perpcs bench train`: training sharers side by side and one after the other, beside the matrix products alone."""

from __future__ import annotations

from typing import Annotated

import typer

from perpcs_cli.cli import flags, setting_flags
from perpcs_cli.cli.bench.flags import ItemsOption, RepeatsOption, bench_workspace
from perpcs_cli.cli.command import command
from perpcs_cli.cli.console import Console


@command
def train(
    console: Console,
    base: flags.BaseFlags,
    training: setting_flags.TrainFlags,
    users_file: flags.UsersFileOption = None,
    items: ItemsOption = 20,
    sharer_count: Annotated[int, typer.Option("--sharer-count", min=1, help="Sharers that are trained.")] = 8,
    repeats: RepeatsOption = 3,
) -> None:
    """Time training against its matrix products.

    The same LoRAs are trained side by side and one after the other, in turns; the limit is the time of the products
    with the base's matrices alone, forward and backward, for as many tokens. The best of the repeats counts. Trains for
    one step, or for --steps.
    """
    from perpcs_cli.experiments.benchmarks.train import time_training

    workspace = bench_workspace(base, training)
    times = time_training(
        workspace,
        users_file,
        sharers=sharer_count,
        items=items,
        steps=(workspace.settings.train.steps or 1) if "steps" in training.given else 1,
        repeats=repeats,
        report=console,
    )
    lines = [
        f"together {times.together_s:.2f} s for {times.sharers} sharers, {times.tokens} tokens",
        f"alone {times.alone_s:.2f} s = {times.alone_s / times.together_s:.2f} x together",
        f"products alone {times.limit_s:.2f} s = {times.limit_s / times.together_s:.0%} of together",
        f"in the processor's time: {times.alone_cpu_s / times.together_cpu_s:.2f} x, "
        f"{times.limit_cpu_s / times.together_cpu_s:.0%}",
    ]
    console.result(times, "\n".join(lines))
