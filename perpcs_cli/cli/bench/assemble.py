"""`perpcs bench assemble`: assembly against a plain forward pass and against training, side by side in one run."""

from __future__ import annotations

from typing import Annotated

import typer

from perpcs_cli.cli.bench.flags import ItemsOption, PoolSizeOption, RepeatsOption, bench_workspace
from perpcs_cli.cli.command import command
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.flags import BaseFlags, UsersFileOption


@command
def assemble(
    console: Console,
    base: BaseFlags,
    users_file: UsersFileOption = None,
    items: ItemsOption = 20,
    pool_size: PoolSizeOption = 10,
    repeats: RepeatsOption = 5,
    skip_oppu: Annotated[bool, typer.Option("--skip-oppu", help="Do not train the LoRA.")] = False,
) -> None:
    """Time assembly, a forward pass and training.

    All three see one user's history, in one run. The user is the first of --users-file with enough history, or a
    synthetic one; the sharers' pieces are random, which does not change the time.
    """
    from perpcs_cli.experiments.benchmarks.assemble import time_assembly

    times = time_assembly(
        bench_workspace(base),
        users_file,
        items=items,
        pool_size=pool_size,
        repeats=repeats,
        with_oppu=not skip_oppu,
        report=console,
    )
    lines = [
        f"assemble {times.assemble_s:.2f} s = {times.assemble_s / times.forward_s:.2f} x one forward pass"
        f" ({times.forward_s:.2f} s)",
        f"adapter {times.adapter_bytes} bytes = {times.adapter_bytes / times.recipe_bytes:.0f} x recipe "
        f"({times.recipe_bytes} bytes)",
    ]
    if times.oppu_s is not None:
        lines.insert(1, f"OPPU {times.oppu_s:.1f} s = {times.oppu_s / times.assemble_s:.1f} x assemble")
    console.result(times, "\n".join(lines))
