"""`perpcs embed`: user embeddings, which similar sharers are found by."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perpcs_cli.artifacts.embeddings import What
from perpcs_cli.cli import flags, setting_flags
from perpcs_cli.cli.command import command
from perpcs_cli.cli.console import Console


@command
def embed(
    console: Console,
    write: flags.WriteFlags,
    here: flags.TaskFlags,
    who: flags.ShardFlags,
    how: setting_flags.EmbedFlags,
    what: Annotated[
        What, typer.Option("--what", help="The items of each history, or the text of each profile.")
    ] = "history",
    out: Annotated[
        Path | None, flags.out_option("embeddings.safetensors, or profile-embeddings.safetensors", "file")
    ] = None,
    device: flags.DeviceOption = None,
    dtype: flags.DtypeOption = None,
) -> None:
    """Embed the users' histories or profiles.

    A user's embedding is the mean over the history's items of the mean over an item's tokens, or with --what profile
    the mean over the tokens of the profile; see `perpcs profile`. All users are embedded
    by default. Users who are in the file already are skipped unless their history has changed, so a run that was
    stopped goes on where it was.
    """
    from perpcs_cli.steps.data.embed import embed as step

    outcomes = step(
        here.open(how, device=device, dtype=dtype),
        who.who(),
        what=what,
        out=out,
        **write.mode(console),
    )
    vectors = [one.value for one in outcomes if one.value is not None]
    size = len(vectors[0]) if vectors else None
    if not outcomes:
        console.result({"users": 0}, "no users in this shard")
        return
    path = str(outcomes[0].path)
    made, left = (sum(one.state == state for one in outcomes) for state in ("made", "to do"))
    value = {"path": path, "users": len(vectors), "embedded": made, "to_do": left, "dimensions": size}
    text = f"{path}\t{len(vectors)} users\t{size} dimensions"
    console.result(value, f"{path}\t{len(vectors)} users\t{left} to do" if left else text)
