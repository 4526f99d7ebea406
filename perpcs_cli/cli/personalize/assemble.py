"""`perpcs assemble --user u42`: from a target user's history to a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from perpcs_cli.cli.command import command
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.flags import (
    AssembleFlags,
    BaseFlags,
    DryRunOption,
    ExampleFlags,
    ForceOption,
    PoolOption,
    UserFlags,
    out_option,
)
from perpcs_cli.cli.personalize.recipe_rows import recipe_columns
from perpcs_cli.cli.rows import show_outcomes


@command
def assemble(
    console: Console,
    base: BaseFlags,
    who: UserFlags,
    how: AssembleFlags,
    asked: ExampleFlags,
    pool: PoolOption = None,
    out: Annotated[Path | None, out_option("recipes of the workspace")] = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Assemble users' recipes from the pool.

    Writes recipes/USER.json for each user of splits/target.txt, or as chosen. The history runs through the model
    once; at each linear layer gate scores choose and weight pieces, which shape what the next layer sees. Users
    whose recipe is finished are skipped.
    """
    from perpcs_cli.steps.personalize.assemble import assemble as step

    outcomes = step(
        base.open(how),
        who.who(),
        shown=asked.examples(),
        pool=pool,
        out=out,
        force=force,
        dry_run=dry_run,
        report=console,
    )
    show_outcomes(console, outcomes, recipe_columns)
