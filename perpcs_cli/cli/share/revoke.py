"""`perpcs pool revoke u17`: take sharers out of a pool, and out of everything that was made with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from perpcs_cli.artifacts.packed_recipes import check_places
from perpcs_cli.cli import flags
from perpcs_cli.cli.command import command
from perpcs_cli.cli.console import Console

if TYPE_CHECKING:
    from perpcs_cli.steps.share.revoke import Revoked


@command
def revoke(
    console: Console,
    here: flags.PlaceFlags,
    sharers: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SHARERS]...", help="Ids or pseudonyms; none to finish what was stopped.", show_default=False
        ),
    ] = None,
    pool: flags.PoolOption = None,
    recipes: flags.RecipesOption = None,
    recipes_then: Annotated[
        Literal["refuse", "renormalize", "delete", "reassemble"],
        typer.Option("--recipes-then", help="What becomes of recipes that use the sharers."),
    ] = "refuse",
    traces: flags.TracesOption = None,
    keep_files: Annotated[
        bool, typer.Option("--keep-files", help="Keep the sharers' own directories in sharers/.")
    ] = False,
    dry_run: flags.DryRunOption = False,
) -> None:
    """Take sharers out of a pool and its recipes.

    Removes their entries, gates, embeddings and copies, and their directories in sharers/, from which another pool
    would be built with them. Recipes that use them (in recipes* of the workspace by default) are renormalized (the
    other sharers' weights are scaled up), deleted, or reassembled: Per-PCs and retrieval with the settings they have,
    PriME by the commands that are shown.
    By default nothing happens where there are any. All other recipes are bound to the new pool; PriME's traces of the
    sharers are deleted. A run that was stopped is finished by the next; until then the pool is refused.
    """
    from perpcs_cli.steps.share.revoke import revoke as step

    check_places(recipes or (), "--recipes")
    flags.check_directories([traces] if traces else None, "--traces")
    result = step(
        here.places,
        sharers or (),
        pool=pool,
        recipes=recipes,
        recipes_then=recipes_then,
        traces=traces,
        keep_files=keep_files,
        dry_run=dry_run,
        report=console,
    )
    console.result(result, _lines(result, dry_run=dry_run))


def _lines(result: Revoked, *, dry_run: bool) -> str:
    if result.left is None or result.recipes_then is None:
        return f"{result.pool}\t{'what was stopped would be finished' if dry_run else 'finished what was stopped'}"
    would = "would be " if dry_run else ""
    lines = [f"{result.pool}\twithout {', '.join(result.revoked)}\t{result.left} sharers are left"]
    done = {"renormalize": "renormalized", "delete": "deleted", "reassemble": "reassembled", "refuse": "in the way"}
    lines += [f"{file}\t{would}{done[result.recipes_then]}" for file in result.recipes]
    lines += [f"{file}\t{would}deleted" for file in [*result.traces, *result.deleted]]
    return "\n".join([*lines, *(f"$ {line}" for line in [*result.commands, *result.by_hand] if dry_run)])
