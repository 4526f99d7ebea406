"""`perpcs import`: bring in LaMP's files, or the published Per-PCs layout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perpcs_cli.cli.options import ForceOption, JsonOption, QuietOption, TaskOption, WorkspaceOption

SHOWN = 20


def import_(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="SOURCE...",
            help="Files or directories: LaMP's questions and outputs, Per-PCs' users.json, or users.jsonl.",
            show_default=False,
        ),
    ],
    task: TaskOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The users file. [default: users.jsonl of the workspace]")
    ] = None,
    allow_broken: Annotated[
        bool, typer.Option("--allow-broken", help="Write the good records and leave out the broken ones.")
    ] = False,
    workspace: WorkspaceOption = Path(),
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Read users from LaMP's and other layouts.

    Checks every record and writes users.jsonl. Broken records are listed, and nothing is written then, unless with
    --allow-broken.
    """
    from perpcs_cli.artifacts import store
    from perpcs_cli.artifacts.users import write_users
    from perpcs_cli.artifacts.workspace import FILE, read_settings
    from perpcs_cli.cli.console import Console
    from perpcs_cli.errors import DataError, UsageError
    from perpcs_cli.tasks.importing import load
    from perpcs_cli.tasks.spec import get_task

    console = Console(json=json, quiet=quiet)
    settings = workspace / FILE
    task = task or (str(read_settings(settings).get("task", "")) if settings.exists() else "")
    if not task:
        raise UsageError(
            "no task is known", where=settings, hint="Give --task, or make a workspace with `perpcs init`."
        )
    path = out or workspace / "users.jsonl"
    store.refuse_existing(path, force=force)
    found = load(sources, get_task(task))
    if not found.users and not found.problems:
        raise DataError("the sources hold no users", where=", ".join(map(str, sources)))

    for problem in found.problems[:SHOWN]:
        console.warn(str(problem))
    if len(found.problems) > SHOWN:
        console.warn(f"and {len(found.problems) - SHOWN} more problems; --json lists them all")
    for note in found.notes:
        console.note(note)

    write = bool(found.users) and (allow_broken or not found.problems)
    if write:
        write_users(path, found.users)
    counts = {
        "users": len(found.users),
        "items": sum(len(user.history) for user in found.users),
        "queries": sum(len(user.queries) for user in found.users),
        "answered": sum(query.output is not None for user in found.users for query in user.queries),
    }
    if json:
        written = str(path) if write else None
        value = {"written": written, **counts, "problems": found.problems, "notes": found.notes}
        console.result(value, "")
    if not write:
        raise DataError(
            f"{len(found.problems)} problems; nothing was written",
            hint="Mend the records, or write the good ones with --allow-broken.",
        )
    if found.problems:
        console.warn(f"records with {len(found.problems)} problems were left out")
    console.note(
        f"wrote {path}: {counts['users']} users, {counts['items']} history items, "
        f"{counts['queries']} queries ({counts['answered']} with an answer)"
    )
