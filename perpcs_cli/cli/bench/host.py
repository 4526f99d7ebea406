"""`perpcs bench host`: what a decoding pass costs the host, whatever the device."""

from __future__ import annotations

from typing import Annotated

import typer

from perpcs_cli.cli.bench.flags import PoolSizeOption
from perpcs_cli.cli.command import command
from perpcs_cli.cli.console import Console

KINDS = {"enters": "a recipe enters", "drafts": "only drafts change", "same": "nothing changes"}


@command
def host(
    console: Console,
    rows: Annotated[int, typer.Option("--pass-rows", min=1, help="Rows of a pass, each with its own recipe.")] = 256,
    pool_size: PoolSizeOption = 50,
    modules: Annotated[int, typer.Option("--modules", min=1, help="Linear layers that carry pieces.")] = 128,
    repeats: Annotated[int, typer.Option("--passes", min=1, help="Passes of each kind.")] = 20,
) -> None:
    """Time the host's part of a decoding pass.

    That is all beside the model's own operators: choosing drafts, laying out the pass, and finding every linear
    layer's pieces and weights. Nothing is computed, so that it says the same on machines with and without a GPU. The
    default is a 7B model's attention.
    """
    from perpcs_cli.experiments.benchmarks.host import time_host

    times = time_host(rows=rows, sharers=pool_size, modules=modules, repeats=repeats, report=console)
    lines = [f"{'milliseconds of a pass':<24}{'planner':>9}{'router':>9}{'layers':>9}{'together':>10}"]
    for kind, name in KINDS.items():
        part = getattr(times, kind)
        parts = (part.planner_ms, part.router_ms, part.layers_ms)
        lines.append(f"{name:<24}" + "".join(f"{ms:>9.2f}" for ms in parts) + f"{sum(parts):>10.2f}")
    console.result(times, "\n".join(lines))
