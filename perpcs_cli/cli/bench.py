"""`perpcs bench`: measure the engine on this machine, side by side in one run."""

from __future__ import annotations

import typer

from perpcs_cli.cli.bench_assemble import assemble
from perpcs_cli.cli.bench_mia import mia
from perpcs_cli.cli.bench_prime import prime

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Measure the engine on this machine.",
)
app.command("assemble")(assemble)
app.command("prime")(prime)
app.command("mia")(mia)
