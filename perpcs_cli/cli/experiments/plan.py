"""`perpcs plan CONFIG`: what a sweep would need, before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from perpcs_cli.cli import flags
from perpcs_cli.cli.command import command
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.tables import Column, Table, render
from perpcs_cli.experiments.costs.device_specs import GIB, SIZES, ProfileName, fits

if TYPE_CHECKING:
    from perpcs_cli.experiments.costs.device_specs import Device
    from perpcs_cli.experiments.costs.planner import Need

ProfileOption = Annotated[ProfileName, typer.Option("--device-profile", help="The GPU whose time is estimated.")]
MeasureOption = Annotated[
    bool, typer.Option("--measure", help="Measure this machine with the model, instead of --device-profile.")
]


@command
def plan(
    console: Console,
    asked: flags.SweepFlags,
    config: Annotated[Path, typer.Argument(help="A config of `perpcs sweep`.", show_default=False)],
    profile: ProfileOption = "a100-80gb",
    measure: MeasureOption = False,
) -> None:
    """Estimate a sweep's memory, time and disk.

    Lists the steps of the config's cells, each once: the tokens that the model processes, padding included, operations,
    memory at the peak and the smallest common GPU memory that suffices, time and disk. Tokens are counted in the data
    with the model's tokenizer where both are on this machine; else users are as the config's table [plan] says. Nothing
    is downloaded, and no model runs unless with --measure. All assumptions are printed.
    """
    from perpcs_cli.artifacts.sweep import read_sweep
    from perpcs_cli.cli.inprocess import Shell
    from perpcs_cli.experiments.costs.estimate import Question, estimate

    question = Question(
        config=config,
        sweep=read_sweep(config),
        only=asked.experiment or (),
        given=asked.given,
        data=asked.data,
        profile=None if measure else profile,
    )
    found = estimate(question, Shell(console).flags(), console)
    _show(found.needs, found.device, found.assumptions, console)


def _show(needs: list[Need], device: Device, notes: list[str], console: Console) -> None:
    def enough(need: Need) -> str:
        return next((f"{size} GB" for size in SIZES if fits(need.peak, size)), "more") if need.peak else ""

    columns = (
        Column("step"),
        Column("of"),
        Column("users"),
        Column("tokens (M)", key="tokens_millions", digits=2),
        Column("TFLOP", key="teraflop", digits=1),
        Column("peak (GiB)", key="peak_gib", digits=1),
        Column("fits", key="fits"),
        Column("time (s)", key="seconds", digits=0),
        Column("disk (MB)", key="disk_megabytes", digits=1),
    )
    rows = [
        (
            need.step,
            need.of[0] if len(need.of) == 1 else f"{len(need.of)} cells",
            need.users,
            need.tokens / 1e6 if need.tokens else None,
            need.flops / 1e12 if need.tokens else None,
            need.peak / GIB if need.peak else None,
            enough(need),
            need.seconds,
            need.disk / 1e6,
        )
        for need in needs
    ]
    value: dict[str, Any] = {
        "steps": [{**msgspec.to_builtins(need), "peak": need.peak, "fits": enough(need)} for need in needs[:-1]],
        "total": {**msgspec.to_builtins(needs[-1]), "peak": needs[-1].peak, "fits": enough(needs[-1])},
        "device": device,
        "assumptions": notes,
    }
    text = render(Table(columns, [rows[:-1], rows[-1:]]), "table")
    console.result(value, text + "\n" + "\n".join(f"- {note}" for note in notes))
