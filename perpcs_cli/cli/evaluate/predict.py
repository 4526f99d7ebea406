"""`perpcs predict`: answer the users' queries with the base, recipes, a sharer or any PEFT adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perpcs_cli.cli import flags, process, setting_flags
from perpcs_cli.cli.command import command
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.rows import show_outcome
from perpcs_cli.errors import UsageError

SharerOption = Annotated[str | None, typer.Option("--sharer", help="One sharer of sharers/, for all users.")]
AdapterOption = Annotated[Path | None, typer.Option("--adapter", help="One PEFT LoRA directory, for all users.")]


@command
def predict(
    console: Console,
    write: flags.WriteFlags,
    base: flags.BaseFlags,
    who: flags.ShardFlags,
    asked: flags.PromptFlags,
    how: setting_flags.PredictFlags,
    plain_base: Annotated[bool, typer.Option("--base", help="The base model (with its task adapter).")] = False,
    recipes: flags.RecipesOption = None,
    sharer: SharerOption = None,
    adapter: AdapterOption = None,
    own: flags.OwnOption = None,
    swap: Annotated[
        bool, typer.Option("--swap", help="Answer each user with another user's recipe or LoRA, as a control.")
    ] = False,
    pool: flags.PoolOption = None,
    name: flags.NameOption = None,
    out: Annotated[Path | None, flags.out_option("predictions/NAME.jsonl of the workspace", "file")] = None,
) -> None:
    """Answer users' queries with one model.

    The model is one of --base, --recipes (default: recipes/; one U.json is for all users), --sharer, --adapter
    and --own; the users are those of splits/target.txt by default. Answers go to predictions/NAME.jsonl, or with
    --out - to stdout; they are greedy, or with --decode-temperature drawn by seed, user and query. Queries of many
    users and recipes share batches, which changes no answer. A run that was stopped goes on where it was.
    """
    from perpcs_cli.steps.evaluate.predict import predict as step

    for flag, places in (("--recipes", recipes), ("--own", own)):
        if places and len(places) > 1:
            raise UsageError("choose one model", where=flag)
    with process.printed(out, "predictions.jsonl") as place:
        outcome = step(
            base.open(how),
            who.who(),
            base=plain_base,
            recipes=recipes[0] if recipes else None,
            sharer=sharer,
            adapter=adapter,
            own=own[0] if own else None,
            swap=swap,
            shown=asked.shown(),
            pool=pool,
            name=name,
            out=place,
            **write.mode(console),
        )
    if out == process.STREAM:
        return
    count = outcome.value.count if outcome.value else None
    show_outcome(console, outcome, [f"{count} predictions"], {"count": count})
