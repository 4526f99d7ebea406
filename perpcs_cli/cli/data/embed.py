"""`perpcs embed`: user embeddings, which similar sharers are found by."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perpcs_cli.artifacts.embeddings import What
from perpcs_cli.cli.command import command
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.flags import (
    DeviceOption,
    DryRunOption,
    DtypeOption,
    EmbedFlags,
    ForceOption,
    TaskFlags,
    UserFlags,
    out_option,
)


@command
def embed(
    console: Console,
    flags: TaskFlags,
    who: UserFlags,
    how: EmbedFlags,
    what: Annotated[
        What, typer.Option("--what", help="The items of each history, or the text of each profile.")
    ] = "history",
    out: Annotated[Path | None, out_option("embeddings.safetensors, or profile-embeddings.safetensors")] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Embed the users' histories or profiles.

    A user's embedding is the mean over the history's items of the mean over an item's tokens, or with --what profile
    the mean over the tokens of the profile; see `perpcs profile`. All users are embedded
    by default. Users who are in the file already are skipped unless their history has changed, so a run that was
    stopped goes on where it was.
    """
    from perpcs_cli.steps.data.embed import embed as step

    outcomes = step(
        flags.open(device=device, dtype=dtype, embed=how.given),
        who.who(),
        what=what,
        out=out,
        force=force,
        dry_run=dry_run,
        report=console,
    )
    vectors = [one.value for one in outcomes if one.value is not None]
    size = len(vectors[0]) if vectors else None
    path = str(outcomes[0].path)
    made, left = (sum(one.state == state for one in outcomes) for state in ("made", "to do"))
    value = {"path": path, "users": len(vectors), "embedded": made, "to_do": left, "dimensions": size}
    text = f"{path}\t{len(vectors)} users\t{size} dimensions"
    console.result(value, f"{path}\t{len(vectors)} users\t{left} to do" if left else text)
