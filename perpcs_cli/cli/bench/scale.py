"""`perpcs bench scale`: what grows with the number of sharers and users."""

from __future__ import annotations

from typing import Annotated

import typer

from perpcs_cli.cli.bench.flags import ItemsOption
from perpcs_cli.cli.command import command
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.flags import TargetsOption
from perpcs_cli.errors import UsageError


@command
def scale(
    console: Console,
    pool_sizes: Annotated[
        str, typer.Option("--pool-sizes", help="Numbers of sharers, each measured in the same run.", metavar="LIST")
    ] = "50,10000",
    targets: TargetsOption = 20,
    items: ItemsOption = 8,
) -> None:
    """Time the steps over small and large pools.

    Each step runs in a process of its own, over a tiny random model and sharers with random pieces, in a temporary
    directory. Ten users a sharer are imported, and one of them is looked up. Somebody is revoked from a recipe a
    sharer, in files of their own and packed into one. The smallest size is what the others are compared with.
    """
    sizes = [part.strip() for part in pool_sizes.split(",") if part.strip()]
    if odd := [part for part in sizes if not part.isdecimal() or len(part) > 7]:
        raise UsageError(f"no number of sharers: {odd[0]!r}", where="--pool-sizes", hint="As in 50,1000,10000.")

    from perpcs_cli.experiments.benchmarks.scale import measure_scale

    costs = measure_scale([int(part) for part in sizes], targets=targets, items=items, report=console)
    first, lines = next(iter(costs.sizes.values())), []
    for size, steps in costs.sizes.items():
        for name, cost in steps.items():
            times = cost.seconds / first[name].seconds
            lines.append(f"{size:>7} {name:<22}{cost.seconds:>8.2f} s {times:>6.1f} x {cost.peak_mb:>7.0f} MB")
    lines.append(f"importing torch and transformers {costs.start.seconds:.2f} s, {costs.start.peak_mb:.0f} MB")
    console.result(costs, "\n".join(lines))
