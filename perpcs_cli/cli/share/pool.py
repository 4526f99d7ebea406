"""`perpcs pool build|list|verify`: the manifest of what sharers give."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perpcs_cli.artifacts.pool import open_pool
from perpcs_cli.artifacts.privacy import spoken
from perpcs_cli.cli import flags
from perpcs_cli.cli.command import Command, command
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.rows import fields_of
from perpcs_cli.cli.share.revoke import revoke
from perpcs_cli.cli.tables import Column, Table, render
from perpcs_cli.errors import DataError, counted

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Build, list, verify and undo what sharers give.",
)


MaxNormOption = Annotated[
    float | None,
    typer.Option("--max-norm", help="Refuse pieces with a larger Frobenius norm of scale · B A.", show_default="any"),
]


@app.command(cls=Command)
@command
def build(
    console: Console,
    write: flags.WriteFlags,
    here: flags.PlaceFlags,
    sharers: flags.SharersOption = None,
    users: Annotated[
        str | None,
        typer.Option("--users", metavar="<ids>", help="Users, separated by commas, or @FILE with one id a line."),
    ] = None,
    share_ratio: Annotated[
        float, typer.Option("--share-ratio", min=0.0, max=1.0, help="Share of its pieces that each sharer gives.")
    ] = 1.0,
    no_gates: Annotated[bool, typer.Option("--no-gates", help="Without the sharers' gates.")] = False,
    pseudonymize: Annotated[
        bool,
        typer.Option("--pseudonymize", help="Copy what is shared under pseudonyms, keyed with the workspace's secret."),
    ] = False,
    no_embeddings: Annotated[
        bool,
        typer.Option("--no-embeddings", help="Without sharers' embeddings, with --pseudonymize: no similar sharers."),
    ] = False,
    max_norm: MaxNormOption = None,
    out: Annotated[Path | None, flags.out_option("pool.json of the workspace", "file")] = None,
    seed: flags.SeedOption = None,
) -> None:
    """Build a pool from trained sharers.

    Checks the sharers against each other and writes the manifest, with all gates stacked beside it, unless without
    gates: no recipe is assembled from such a pool. Which pieces a sharer gives with --share-ratio is drawn by the seed
    and the sharer's id.

    With --pseudonymize the pool consists of copies, of the shared pieces and gates alone, in pool-files/, and holds
    no id, no digest of a user's data and no training log. The same user has the same pseudonym in all such pools of
    a workspace, and only its secret.key tells which. Embeddings of the workspace are copied too.
    """
    from perpcs_cli.steps.share.pool import build_pool

    outcome = build_pool(
        here.places,
        sharers=sharers,
        names=None if users is None else flags.named(users, "--users"),
        share_ratio=share_ratio,
        gates=not no_gates,
        pseudonymize=pseudonymize,
        with_embeddings=not no_embeddings,
        max_norm=max_norm,
        seed=seed,
        out=out,
        **write.mode(console),
    )
    value: dict[str, object] = {"path": str(outcome.path), "state": outcome.state, **fields_of(outcome.value)}
    if outcome.value is None:
        console.result(value, f"{outcome.path}\tto do")
        return
    pool, count = outcome.value, len(outcome.value.modules)
    shared = f", {round(share_ratio * count)} of {count} pieces each" if share_ratio < 1 else ""
    text = f"{outcome.path}\t{len(pool.sharers)} sharers{shared}, rank {pool.rank}, {count} linear layers"
    console.result(value, text)


@app.command("list", cls=Command)
@command
def list_(console: Console, here: flags.PlaceFlags, pool: flags.PoolOption = None) -> None:
    """List the sharers of a pool."""
    opened = open_pool(pool or here.places.pool)
    pieces = len(opened.modules)
    columns = (Column("sharer"), Column("pieces"), Column("gates"), Column("privacy"), Column("path"))
    rows = [
        (
            s.user_id,
            str(pieces if s.shared is None else len(s.shared)),
            "yes" if s.gate else "no",
            spoken(s.privacy),
            s.path,
        )
        for s in opened.manifest.sharers
    ]
    console.result(opened.manifest.sharers, render(Table(columns, (rows,)), "table"))


@app.command(cls=Command)
@command
def verify(
    console: Console, here: flags.PlaceFlags, pool: flags.PoolOption = None, max_norm: MaxNormOption = None
) -> None:
    """Check every file of a pool.

    Reads all of it: digests, shapes, finite values, gates, and norms, by the bound that the pool was built with and by
    --max-norm. Without either, it warns of sharers with a piece of more than 10 times the pool's median norm. The
    exit status is 3 if anything is wrong.
    """
    from perpcs_cli.artifacts.pools.norms import check_bound, far_from_others
    from perpcs_cli.artifacts.pools.verify import verify_pool

    check_bound(max_norm)
    opened = open_pool(pool or here.places.pool)
    problems = verify_pool(opened, max_norm)
    if problems:
        if console.json:
            console.result({"ok": False, "problems": problems, "warnings": []}, "")
        count = counted(len(problems), "problem")
        raise DataError(f"{count}:\n  " + "\n  ".join(problems), where=opened.path)
    far = far_from_others(opened) if max_norm is None and opened.manifest.max_norm is None else []
    for sentence in far:
        console.warn(f"{sentence}; --max-norm refuses it")
    console.result(
        {"ok": True, "problems": [], "warnings": far}, f"{opened.path}: {len(opened.ids)} sharers, all whole"
    )


app.command("revoke", cls=Command)(revoke)
