"""`perpcs assemble --user u42`: from a target user's history to a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perpcs_cli.cli import flags, setting_flags
from perpcs_cli.cli.command import command
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.personalize.recipe_rows import show_recipes


@command
def assemble(
    console: Console,
    write: flags.WriteFlags,
    base: flags.BaseFlags,
    who: flags.ShardFlags,
    how: setting_flags.AssembleFlags,
    asked: flags.ExampleFlags,
    near: flags.SimilarityFlags,
    base_users: Annotated[
        str | None,
        typer.Option(
            "--base-users", metavar="<ids>", help="Whom --contrast tells from.", show_default="splits/base.txt"
        ),
    ] = None,
    out: Annotated[Path | None, flags.out_option("recipes of the workspace", "directory or file")] = None,
) -> None:
    """Assemble users' recipes from the pool.

    Writes recipes/USER.json for each user of splits/target.txt, or as chosen. The history runs through the model
    once; at each linear layer gate scores choose and weight pieces, which shape what the next layer sees. With
    --similar K only the pieces of the K sharers nearest by their embeddings are on offer. Users whose recipe is
    finished are skipped. --out NAME.jsonl packs all recipes into one file.
    """
    from perpcs_cli.steps.personalize.assemble import assemble as step

    outcomes = step(
        base.open(how),
        who.who(),
        shown=asked.examples(),
        pool=near.pool,
        embeddings=near.embeddings,
        base_users=flags.named(base_users, "--base-users") if base_users is not None else (),
        out=out,
        **write.mode(console),
    )
    show_recipes(console, outcomes)
