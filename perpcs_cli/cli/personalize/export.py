"""`perpcs export RECIPE`: a personal model for other tools, as one PEFT adapter or as full weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perpcs_cli.cli import flags
from perpcs_cli.cli.command import command
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.rows import show_outcome


@command
def export(
    console: Console,
    write: flags.WriteFlags,
    base: flags.BaseFlags,
    recipe: Annotated[Path, typer.Argument(help="A recipe, as recipes/USER.json.", show_default=False)],
    max_rank: Annotated[
        int | None,
        typer.Option(
            "--max-rank", min=1, help="Lower the rank to this, by singular values.", show_default="the exact rank"
        ),
    ] = None,
    merged: Annotated[bool, typer.Option("--merged", help="Full weights instead of an adapter.")] = False,
    fold: Annotated[
        bool,
        typer.Option(
            "--fold-task-adapter/--name-task-adapter", help="Make the task adapter part of it, or only name it."
        ),
    ] = True,
    gguf: Annotated[bool, typer.Option("--gguf", help="Also a GGUF file, by llama.cpp's converter.")] = False,
    llama_cpp: Annotated[
        Path | None,
        typer.Option("--llama-cpp", help="A checkout of llama.cpp, for its converter.", show_default="the PATH"),
    ] = None,
    license_: Annotated[
        str, typer.Option("--license", metavar="<name>", help="For the model card.", show_default="not stated")
    ] = "",
    pool: flags.PoolOption = None,
    out: Annotated[Path | None, flags.out_option("exports/METHOD/USER", "directory")] = None,
) -> None:
    """Write a recipe as a PEFT adapter or as full weights.

    The adapter is exact: the sharers' factors side by side, and of the task adapter, at one rank for all layers; with
    a README.md that says what is in it. It is loaded by PEFT alone, and its logits are compared with the recipe's:
    where they differ by more than rounding, nothing is written. With --max-rank the rank is lowered, and the error
    stated. With --merged the model has everything in its own weights. A user's own adapter (OPPU) and a sharer's are
    PEFT adapters already.
    """
    from perpcs_cli.steps.export.export import Form, describe_rank
    from perpcs_cli.steps.export.export import export as step

    form = Form(merged, max_rank, fold, gguf, llama_cpp, license_)
    outcome = step(base.open(), recipe, form, pool=pool, out=out, **write.mode(console))
    told = outcome.value
    columns = []
    if told:
        columns = [describe_rank(told), f"{len(told.sharers)} sharers", f"task adapter {told.task_adapter}"]
        columns.append(f"logits differ by {told.compared.difference:.2g} of {told.compared.largest:.3g} at most")
    show_outcome(console, outcome, columns)
