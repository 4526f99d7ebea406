"""`perpcs adapt`: teach the base the task's form with one LoRA, on users who are neither sharers nor targets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perpcs_cli.cli import flags, setting_flags
from perpcs_cli.cli.command import command
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.rows import show_outcome


@command
def adapt(
    console: Console,
    write: flags.WriteFlags,
    base: flags.BaseFlags,
    who: flags.UserFlags,
    training: setting_flags.AdaptFlags,
    lora: setting_flags.LoraFlags,
    asked: flags.ExampleFlags,
    source: flags.SourceOption = None,
    max_examples: Annotated[
        int | None,
        typer.Option("--max-examples", min=1, help="At most so many examples, drawn by seed.", show_default="all"),
    ] = None,
    save_merged: Annotated[
        Path | None,
        flags.written(
            "--save-merged", help="Also write the adapted model as a plain model directory.", kind="directory"
        ),
    ] = None,
    record: Annotated[
        bool, typer.Option("--record/--no-record", help="Name the adapter in perpcs.toml, or leave that file alone.")
    ] = True,
    out: Annotated[Path | None, flags.out_option("task-adapter of the workspace", "directory")] = None,
) -> None:
    """Adapt the base model to the task.

    Trains one LoRA, the task adapter, on the base users (default: splits/base.txt) and names it in perpcs.toml. It
    is merged into the base by every other command, and is part of its fingerprint. Without it, sharers learn the
    task's form instead of their users.
    """
    from perpcs_cli.steps.share.adapt import adapt as step

    outcome = step(
        base.open(training, lora),
        who.who(),
        shown=asked.examples(),
        source=source or "auto",
        max_examples=max_examples,
        save_merged=save_merged,
        record=record,
        out=out,
        **write.mode(console),
    )
    card = outcome.value
    columns = [f"loss {card.first_loss:.3f} -> {card.last_loss:.3f}", f"{card.examples} examples"] if card else []
    show_outcome(console, outcome, columns)
