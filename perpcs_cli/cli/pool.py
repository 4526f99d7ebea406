"""`perpcs pool build|list|verify`: the manifest of what sharers give."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perpcs_cli.artifacts import store
from perpcs_cli.artifacts.pool import build_pool, open_pool, verify_pool
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.context import open_context
from perpcs_cli.cli.options import (
    ForceOption,
    JsonOption,
    OutOption,
    QuietOption,
    SeedOption,
    UsersOption,
    WorkspaceOption,
)
from perpcs_cli.cli.tables import Column, Table, render
from perpcs_cli.errors import DataError, UsageError

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Build, list and verify the manifest of what sharers give."
)

PoolOption = Annotated[Path | None, typer.Option("--pool", help="The pool. [default: pool.json of the workspace]")]


@app.command()
def build(
    sharers: Annotated[Path | None, typer.Option("--sharers", help="Directory of sharers. [default: sharers/]")] = None,
    users: UsersOption = None,
    share_ratio: Annotated[
        float, typer.Option("--share-ratio", min=0.0, max=1.0, help="Share of its pieces that each sharer gives.")
    ] = 1.0,
    no_gates: Annotated[bool, typer.Option("--no-gates", help="Without gates: no assembly from this pool.")] = False,
    out: OutOption = None,
    workspace: WorkspaceOption = Path(),
    seed: SeedOption = None,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Check the sharers against each other and write pool.json, with all gates stacked beside it.

    Which pieces a sharer gives with --share-ratio is drawn by the seed and the sharer's id.
    """
    console = Console(json=json, quiet=quiet)
    context = open_context(workspace, seed=seed)
    directory = sharers or context.sharers
    path = out or context.pool
    store.refuse_existing(path, force=force)
    names = [p.name for p in sorted(directory.glob("*")) if p.is_dir() and not p.name.startswith(".")]
    if users is not None:
        from perpcs_cli.artifacts.users import read_ids

        wanted = read_ids(Path(users[1:])) if users.startswith("@") else [n.strip() for n in users.split(",")]
        if missing := sorted(set(wanted) - set(names)):
            raise UsageError(f"no such sharer: {missing[0]!r}", where=directory)
        names = sorted(set(wanted))
    if not names:
        raise DataError("holds no sharers", where=directory, hint="Train them with `perpcs train-sharer`.")

    from perpcs_cli.artifacts.adapter import open_adapter

    order = open_adapter(directory / names[0]).modules
    settings = {"share_ratio": share_ratio, "gates": not no_gates}
    pool = build_pool(
        path,
        [directory / name for name in names],
        order,
        share_ratio=share_ratio,
        need_gates=not no_gates,
        provenance=context.provenance("pool build", settings),
    )
    shared = f", {round(share_ratio * len(order))} of {len(order)} pieces each" if share_ratio < 1 else ""
    console.result(pool, f"{path}\t{len(pool.sharers)} sharers{shared}, rank {pool.rank}, {len(order)} linear layers")


@app.command("list")
def list_(
    pool: PoolOption = None,
    workspace: WorkspaceOption = Path(),
    json: JsonOption = False,
) -> None:
    """List the sharers of a pool."""
    opened = open_pool(pool or workspace / "pool.json")
    pieces = len(opened.modules)
    columns = (Column("sharer"), Column("pieces"), Column("gates"), Column("path"))
    rows = [
        (s.user_id, str(pieces if s.shared is None else len(s.shared)), "yes" if s.gate else "no", s.path)
        for s in opened.manifest.sharers
    ]
    Console(json=json).result(opened.manifest.sharers, render(Table(columns, (rows,)), "table"))


@app.command()
def verify(
    pool: PoolOption = None,
    workspace: WorkspaceOption = Path(),
    json: JsonOption = False,
) -> None:
    """Read everything in a pool: digests, shapes, finite values, gates. Exit status 3 if anything is wrong."""
    opened = open_pool(pool or workspace / "pool.json")
    problems = verify_pool(opened)
    console = Console(json=json)
    if problems:
        if json:
            console.result({"ok": False, "problems": problems}, "")
        raise DataError(f"{len(problems)} problems:\n  " + "\n  ".join(problems), where=opened.path)
    console.result({"ok": True, "problems": []}, f"{opened.path}: {len(opened.ids)} sharers, all whole")
