"""`perpcs bench mia`: the scoring engine on many recipes, beside one recipe at a time with merged weights."""

from __future__ import annotations

from typing import Annotated

import typer

from perpcs_cli.cli import flags, setting_flags
from perpcs_cli.cli.bench.flags import PoolSizeOption, bench_workspace
from perpcs_cli.cli.command import command
from perpcs_cli.cli.console import Console


@command
def mia(
    console: Console,
    base: flags.BaseFlags,
    how: setting_flags.BatchFlags,
    users_file: flags.UsersFileOption = None,
    targets: flags.TargetsOption = 4,
    examples: Annotated[int, typer.Option("--examples", min=1, help="History items that are asked for.")] = 24,
    pool_size: PoolSizeOption = 8,
) -> None:
    """Time membership scoring against a loop.

    Both score the same examples under the same recipes and the reference, in one run. The sharers' pieces are random,
    which does not change the time; each recipe uses three of them in each linear layer.
    """
    from perpcs_cli.experiments.benchmarks.mia import time_scoring

    times = time_scoring(
        bench_workspace(base, how), users_file, targets=targets, examples=examples, pool_size=pool_size, report=console
    )
    shared = times.loop_shared_reference_s
    lines = [
        f"engine {times.engine_s:.2f} s for {targets} targets x {times.examples} examples",
        f"loop {times.loop_s:.2f} s = {times.loop_s / times.engine_s:.2f} x engine",
        f"loop, reference shared {shared:.2f} s = {shared / times.engine_s:.2f} x engine",
        f"largest difference of a log-probability {times.identical:.1e}",
    ]
    console.result(times, "\n".join(lines))
