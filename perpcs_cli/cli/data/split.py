"""`perpcs split`: draw base, target and candidate users."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perpcs_cli.cli import flags
from perpcs_cli.cli.command import command
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.rows import show_outcome


@command
def split(
    console: Console,
    write: flags.WriteFlags,
    here: flags.PlaceFlags,
    base_share: Annotated[
        float, typer.Option("--base-share", min=0, max=1, help="Share of the users that adapt the base model.")
    ] = 0.25,
    targets: flags.TargetsOption = 100,
    min_history: Annotated[
        int, typer.Option("--min-history", min=1, help="Fewest history items of a target or a candidate.")
    ] = 1,
    files: Annotated[
        bool, typer.Option("--files", help="Also write the users: base.jsonl, target.jsonl, candidate.jsonl.")
    ] = False,
    out: Annotated[Path | None, flags.out_option("splits of the workspace", "directory")] = None,
    users_file: flags.UsersFileOption = None,
    seed: flags.SeedOption = None,
) -> None:
    """Divide users into base users, targets and candidates.

    They are drawn by the seed. Only users with queries can be targets, and at most half of those that are not base
    users. Writes base.txt, target.txt and candidate.txt, one id a line, and split.json.
    """
    from perpcs_cli.steps.data.split import split as step

    outcome = step(
        here.places,
        base_share=base_share,
        targets=targets,
        min_history=min_history,
        files=files,
        users_file=users_file,
        seed=seed,
        out=out,
        **write.mode(console),
    )
    parts = outcome.value.parts if outcome.value else None
    counts: dict[str, object] = {
        name: len(getattr(parts, name)) if parts else None for name in ("base", "target", "candidate", "left_out")
    }
    words = [f"{counts['base']} base users", f"{counts['target']} targets", f"{counts['candidate']} candidates"]
    show_outcome(console, outcome, words, counts)
