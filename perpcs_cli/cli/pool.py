"""`perpcs pool build|list|verify`: the manifest of what sharers give."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perpcs_cli.artifacts import store
from perpcs_cli.artifacts.pool import open_pool
from perpcs_cli.artifacts.pooling import build_pool, verify_pool
from perpcs_cli.artifacts.provenance import Provenance
from perpcs_cli.artifacts.pseudonyms import Copies, copies_root
from perpcs_cli.artifacts.secret import workspace_secret
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.context import listed_ids, stored_seed
from perpcs_cli.cli.options import (
    ForceOption,
    JsonOption,
    PoolOption,
    QuietOption,
    SeedOption,
    UsersOption,
    WorkspaceOption,
)
from perpcs_cli.cli.privacy import spoken
from perpcs_cli.cli.revoke import revoke
from perpcs_cli.cli.tables import Column, Table, render
from perpcs_cli.errors import DataError, UsageError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Build, list, verify and undo what sharers give.",
)

app.command("revoke")(revoke)

SharersOption = Annotated[
    Path | None, typer.Option("--sharers", help="Directory of the sharers. [default: sharers of the workspace]")
]


def sharer_names(directory: Path) -> list[str]:
    """The sharers in a directory; what is being written has a name with a dot in front."""
    return sorted(path.name for path in directory.glob("*") if path.is_dir() and not path.name.startswith("."))


@app.command()
def build(
    sharers: SharersOption = None,
    users: UsersOption = None,
    share_ratio: Annotated[
        float, typer.Option("--share-ratio", min=0.0, max=1.0, help="Share of its pieces that each sharer gives.")
    ] = 1.0,
    no_gates: Annotated[bool, typer.Option("--no-gates", help="Without gates: no assembly from this pool.")] = False,
    pseudonymize: Annotated[
        bool,
        typer.Option("--pseudonymize", help="Copy what is shared under pseudonyms, keyed with the workspace's secret."),
    ] = False,
    no_embeddings: Annotated[
        bool,
        typer.Option("--no-embeddings", help="Without sharers' embeddings, with --pseudonymize: no similar sharers."),
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The manifest. [default: pool.json of the workspace]")
    ] = None,
    workspace: WorkspaceOption = Path(),
    seed: SeedOption = None,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Build a pool from trained sharers.

    Checks the sharers against each other and writes the manifest, with all gates stacked beside it. Which pieces a
    sharer gives with --share-ratio is drawn by the seed and the sharer's id.

    With --pseudonymize the pool consists of copies, of the shared pieces and gates alone, in pool-files/, and holds
    no id, no digest of a user's data and no training log. The same user has the same pseudonym in all such pools of
    a workspace, and only its secret.key tells which. Embeddings of the workspace are copied too.
    """
    console = Console(json=json, quiet=quiet)
    directory = sharers or workspace / "sharers"
    path = out or workspace / "pool.json"
    store.refuse_existing(path, force=force)
    names = sharer_names(directory)
    if users is not None:
        wanted = listed_ids(users, "--users")
        if missing := sorted(set(wanted) - set(names)):
            raise UsageError(
                f"no such sharer: {missing[0]!r}", where=directory, hint="Train it with `perpcs train-sharer`."
            )
        names = sorted(set(wanted))
    if not names:
        raise DataError("holds no sharers", where=directory, hint="Train them with `perpcs train-sharer`.")

    from perpcs_cli.artifacts.adapter import open_adapter

    order = open_adapter(directory / names[0]).modules
    settings = {"share_ratio": share_ratio, "gates": not no_gates, **({"pseudonymize": True} if pseudonymize else {})}
    provenance = Provenance(command="pool build", settings=settings, seed=stored_seed(workspace, seed))
    copies, embeddings = None, None
    if no_embeddings and not pseudonymize:
        raise UsageError("a pool carries embeddings only with --pseudonymize", where="--no-embeddings")
    if pseudonymize:
        if not round(share_ratio * len(order)):
            raise UsageError("there is nothing to copy", where="--share-ratio", hint="Share at least one piece.")
        copies = Copies(copies_root(path), workspace_secret(workspace), provenance)
        place = workspace / "embeddings.safetensors"
        if place.exists() and not no_embeddings:
            from perpcs_cli.artifacts.embeddings import read_embeddings

            embeddings = read_embeddings(place)
    pool = build_pool(
        path,
        [directory / name for name in names],
        order,
        share_ratio=share_ratio,
        need_gates=not no_gates,
        provenance=provenance,
        copies=copies,
        embeddings=embeddings,
    )
    if embeddings and any(sharer.privacy for sharer in pool.sharers):
        console.warn("differential privacy covers pieces and gates, not the embeddings; see --no-embeddings")
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
    Console(json=json).result(opened.manifest.sharers, render(Table(columns, (rows,)), "table"))


@app.command()
def verify(
    pool: PoolOption = None,
    workspace: WorkspaceOption = Path(),
    json: JsonOption = False,
) -> None:
    """Check every file of a pool.

    Reads all of it: digests, shapes, finite values and gates. The exit status is 3 if anything is wrong.
    """
    opened = open_pool(pool or workspace / "pool.json")
    problems = verify_pool(opened)
    console = Console(json=json)
    if problems:
        if json:
            console.result({"ok": False, "problems": problems}, "")
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise DataError(f"{count}:\n  " + "\n  ".join(problems), where=opened.path)
    console.result({"ok": True, "problems": []}, f"{opened.path}: {len(opened.ids)} sharers, all whole")
