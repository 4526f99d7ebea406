"""`perpcs adopt DIR… --user NAME`: LoRAs that were trained elsewhere become sharers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from perpcs_cli.cli import flags
from perpcs_cli.cli.command import command
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.rows import show_outcomes

if TYPE_CHECKING:
    from perpcs_cli.artifacts.adapter import Card
    from perpcs_cli.steps.job import Outcome


@command
def adopt(
    console: Console,
    write: flags.WriteFlags,
    base: flags.BaseFlags,
    directories: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIRECTORIES",
            help="PEFT adapters: adapter_config.json, adapter_model.safetensors.",
            show_default=False,
        ),
    ],
    user: flags.UserOption = None,
    out: Annotated[Path | None, flags.out_option("sharers of the workspace", "directory")] = None,
) -> None:
    """Take LoRAs that were trained elsewhere as sharers.

    Whose they are is said by --user, once for each directory, in their order; else by the directories' names. Names,
    shapes and numbers are checked against the base, and sharers/USER is written: the same update in perpcs' form, one
    rank and one scale for all layers, and a card that says what is not known of it. What is not a plain LoRA is
    refused, and which part. `gate`, `pool build` and all that follows then take it as any sharer.
    """
    from perpcs_cli.steps.share.adopt import adopt as step

    show_outcomes(console, step(base.open(), directories, user or (), out=out, **write.mode(console)), _columns)


def _columns(one: Outcome[Card]) -> list[object]:
    card = one.value
    if not card or isinstance(card.adopted, msgspec.UnsetType):
        return []
    return [f"rank {card.adopted.rank}", f"scale {card.scale:.4g}", f"{card.adopted.pieces} linear layers"]
