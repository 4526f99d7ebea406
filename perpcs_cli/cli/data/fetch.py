"""`perpcs fetch`: a benchmark's official data, from its own server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perpcs_cli.cli import flags
from perpcs_cli.cli.command import Command, command
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.data.import_ import AllowBrokenOption, tell
from perpcs_cli.tasks.importing.lamp_files import BASE_URL, Part, Separation

app = typer.Typer(
    name="fetch",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Fetch the official data of a benchmark, and import it.",
)


@app.callback()
def top() -> None:
    """Fetch the official data of a benchmark, and import it."""


@app.command("lamp", cls=Command)
@command
def lamp(
    console: Console,
    write: flags.WriteFlags,
    here: flags.PlaceFlags,
    task: flags.TaskOption = None,
    split: Annotated[
        Separation,
        typer.Option("--split", help="user: other users in each part; time: the same users' later items."),
    ] = "user",
    part: Annotated[
        list[Part] | None,
        typer.Option(
            "--part", metavar="<part>", help="train, dev or test; may be repeated.", show_default="train and dev"
        ),
    ] = None,
    base_url: Annotated[str, typer.Option("--base-url", help="Where LaMP's files lie.")] = BASE_URL,
    out: Annotated[Path | None, flags.out_option("users.jsonl of the workspace", "file")] = None,
    allow_broken: AllowBrokenOption = False,
) -> None:
    """Fetch LaMP's official files, and import them.

    They go to the cache; what is there is not fetched again, and what was stopped goes on. The test part has no
    answers. LaMP-6 is not fetched: its mails need a licence.
    """
    from perpcs_cli.steps.data.fetch_lamp import fetch_lamp

    files, found = fetch_lamp(
        here.places,
        task=task,
        separation=split,
        parts=part or (Part.train, Part.dev),
        base_url=base_url,
        allow_broken=allow_broken,
        out=out,
        **write.mode(console),
    )
    rows = [
        {"path": str(one.path), "url": one.url, "state": one.state, "bytes": one.size, "sha256": one.sha256}
        for one in files
    ]
    if found is None:
        console.result({"state": "to do", "files": rows}, "\n".join(f"{one.path}\t{one.state}" for one in files))
        return
    for one in files:
        console.note(f"{one.path}: {one.size:,} bytes, SHA-256 {one.sha256[:16]}…")
    tell(console, *found, {"files": rows})
