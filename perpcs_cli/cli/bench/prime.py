"""`perpcs bench prime`: the decoding engine on a search's candidates, beside PEFT and a bare prefill."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from perpcs_cli.cli import flags, setting_flags
from perpcs_cli.cli.bench.flags import ItemsOption, bench_workspace
from perpcs_cli.cli.command import command
from perpcs_cli.cli.console import Console
from perpcs_cli.errors import UsageError
from perpcs_cli.steps.workspace import Places

if TYPE_CHECKING:
    from perpcs_cli.experiments.benchmarks.prime import PrimeTimes

TECHNIQUES = ("drafts", "prefix", "population")


@command
def prime(
    console: Console,
    base: flags.BaseFlags,
    how: setting_flags.PredictFlags,
    users_file: flags.UsersFileOption = None,
    sharers: flags.SharersOption = None,
    candidates: Annotated[int, typer.Option("--candidates", min=1, help="Candidates, in generations of 7.")] = 28,
    items: ItemsOption = 20,
    loras: Annotated[int, typer.Option("--loras", min=1, help="Sharers that are merged.")] = 3,
    without: Annotated[
        str, typer.Option("--without", help="Switch techniques off: drafts, prefix, population.", metavar="LIST")
    ] = "",
    ablate: Annotated[
        bool, typer.Option("--ablate", help="Time the engine without each technique, too, and without all.")
    ] = False,
    skip_peft: Annotated[bool, typer.Option("--skip-peft", help="Do not run PEFT, which takes long.")] = False,
) -> None:
    """Time decoding against PEFT and a prefill.

    The rows are a PriME search's candidates on one user's history, the same for all, in one run. The target is the
    first user of --users-file with enough history, or a synthetic one; the sharers are the next ones, each trained for
    a few steps, or those of --sharers. Without --sharers all is timed twice: on the plain base, which may not know
    where an answer ends, and on the base with a task adapter, the workspace's or one trained for a few steps.
    """
    off = [name.strip() for name in without.split(",") if name.strip()]
    if odd := [name for name in off if name not in TECHNIQUES]:
        raise UsageError(
            f"no such technique: {odd[0]!r}", where="--without", hint=f"There are {', '.join(TECHNIQUES)}."
        )
    if not Places(base.workspace).settings_file.exists():
        # A whole generation at a time, with room to spare.
        how.given = {"batch_tokens": 32768, "batch_rows": 256, **how.given}

    from perpcs_cli.experiments.benchmarks.prime import time_search

    found = time_search(
        bench_workspace(base, how),
        users_file,
        sharers=sharers,
        candidates=candidates,
        items=items,
        loras=loras,
        without=off,
        ablate=ablate,
        with_peft=not skip_peft,
        report=console,
    )
    console.result(found, "\n".join(line for times in found for line in _lines(times)))


def _lines(times: PrimeTimes) -> list[str]:
    engine, prefill, peft = times.engine_s, times.prefill_s, times.peft_s
    mean = times.new_tokens / (times.candidates * times.items)
    lines = [
        f"{times.base} base: answers of {mean:.1f} tokens, {times.ended:.0%} of them end",
        f"  engine {engine:.2f} s = {engine / prefill:.2f} x prefill ({prefill:.2f} s)",
    ]
    lines += [
        f"  without {name} {seconds:.2f} s = {seconds / engine:.2f} x" for name, seconds in times.without_s.items()
    ]
    if peft is not None and times.identical is not None:
        lines.append(
            f"  PEFT {peft:.2f} s = {peft / engine:.2f} x engine; {times.identical:.2%} of the answers identical"
        )
    return lines
