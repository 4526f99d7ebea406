"""`perpcs split`: draw base, target and candidate users."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perpcs_cli.cli.options import (
    ForceOption,
    JsonOption,
    QuietOption,
    SeedOption,
    UsersFileOption,
    WorkspaceOption,
)


def split(
    base: Annotated[
        float, typer.Option("--base", min=0, max=1, help="Share of the users that adapt the base model.")
    ] = 0.25,
    targets: Annotated[
        int,
        typer.Option("--targets", min=1, help="Most targets; at most half of the users that are not base users."),
    ] = 100,
    min_history: Annotated[
        int, typer.Option("--min-history", min=1, help="Fewest history items of a target or a candidate.")
    ] = 1,
    files: Annotated[
        bool, typer.Option("--files", help="Also write the users: base.jsonl, target.jsonl, candidate.jsonl.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Directory. [default: splits of the workspace]")
    ] = None,
    users_file: UsersFileOption = None,
    workspace: WorkspaceOption = Path(),
    seed: SeedOption = None,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Divide users into base users, targets and candidates.

    They are drawn by the seed. Only users with queries can be targets. Writes base.txt, target.txt and
    candidate.txt, one id a line, and split.json.
    """
    from perpcs_cli.artifacts import store
    from perpcs_cli.artifacts.provenance import Provenance
    from perpcs_cli.artifacts.selection import FILE as SELECTION
    from perpcs_cli.artifacts.selection import IDS as SELECTED
    from perpcs_cli.artifacts.split import FILE, Split, draw_parts, write_split
    from perpcs_cli.artifacts.users import read_users, write_users
    from perpcs_cli.cli.console import Console
    from perpcs_cli.cli.context import stored_seed

    console = Console(json=json, quiet=quiet)
    directory = out or workspace / "splits"
    stale = [directory / SELECTED, directory / SELECTION]
    user_files = {name: directory / f"{name}.jsonl" for name in ("base", "target", "candidate")}
    for path in (
        directory / FILE,
        *user_files.values(),
        *(p.with_suffix(".txt") for p in user_files.values()),
        *stale,
    ):
        store.refuse_existing(path, force=force)
    seed = stored_seed(workspace, seed)
    source = users_file or workspace / "users.jsonl"
    users = read_users(source)
    parts = draw_parts(users.values(), base=base, targets=targets, min_history=min_history, seed=seed)
    provenance = Provenance(
        command="split",
        settings={"base": base, "targets": targets, "min_history": min_history},
        seed=seed,
        inputs={source.name: store.digest_file(source)},
    )
    for path in stale:
        # Sharers who were selected from another split may be targets in this one.
        path.unlink(missing_ok=True)
    for name, path in user_files.items():
        if files:
            write_users(path, [users[user_id] for user_id in getattr(parts, name)])
        else:
            path.unlink(missing_ok=True)
    write_split(directory, Split(parts=parts, provenance=provenance))

    if len(parts.target) < targets:
        console.note(
            f"{len(parts.target)} targets instead of {targets}: "
            "only users with queries can be targets, and at least as many stay candidates"
        )
    if parts.left_out:
        console.note(f"{len(parts.left_out)} users left out, with fewer than {min_history} history items")
    counts = {name: len(getattr(parts, name)) for name in ("base", "target", "candidate", "left_out")}
    if json:
        console.result({"written": str(directory), **counts}, "")
    console.note(
        f"wrote {directory}: {counts['base']} base users, {counts['target']} targets, {counts['candidate']} candidates"
    )
