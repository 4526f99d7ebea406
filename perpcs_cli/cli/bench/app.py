"""`perpcs bench`: measure the engine on this machine, side by side in one run."""

from __future__ import annotations

import typer

from perpcs_cli.cli.bench.assemble import assemble
from perpcs_cli.cli.bench.device import device
from perpcs_cli.cli.bench.host import host
from perpcs_cli.cli.bench.mia import mia
from perpcs_cli.cli.bench.prime import prime
from perpcs_cli.cli.bench.scale import scale
from perpcs_cli.cli.bench.train import train
from perpcs_cli.cli.command import Command

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Measure the engine on this machine.",
)
app.command("assemble", cls=Command)(assemble)
app.command("prime", cls=Command)(prime)
app.command("mia", cls=Command)(mia)
app.command("host", cls=Command)(host)
app.command("scale", cls=Command)(scale)
app.command("train", cls=Command)(train)
app.command("device", cls=Command)(device)
