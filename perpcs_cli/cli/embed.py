"""`perpcs embed`: user embeddings, which similar sharers are found by."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perpcs_cli.artifacts import store
from perpcs_cli.artifacts.embeddings import What
from perpcs_cli.artifacts.provenance import Provenance, check_same
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.context import open_context
from perpcs_cli.cli.neighbours import embedded_texts
from perpcs_cli.cli.options import (
    DeviceOption,
    DtypeOption,
    ForceOption,
    JsonOption,
    QuietOption,
    TaskOption,
    UserFlags,
    WorkspaceOption,
    layer,
    takes,
)
from perpcs_cli.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

SAVE_SECONDS = 30.0


@takes(UserFlags)
def embed(
    who: UserFlags,
    what: Annotated[
        What, typer.Option("--what", help="The items of each history, or the text of each profile.")
    ] = "history",
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder", help="A name, directory or hub id of an encoder. [default: perpcs.toml, else minilm]"
        ),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option("--max-length", min=8, help="Tokens read of each item. [default: perpcs.toml, else 512]"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The file. [default: embeddings.safetensors, or profile-embeddings.…]"),
    ] = None,
    workspace: WorkspaceOption = Path(),
    task: TaskOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Embed the users' histories or profiles.

    A user's embedding is the mean over the history's items of the mean over an item's tokens, or with --what profile
    the mean over the tokens of the profile; see `perpcs profile`. All users are embedded
    by default. Users who are in the file already are skipped unless their history has changed, so a run that was
    stopped goes on where it was.
    """
    console = Console(json=json, quiet=quiet)
    section = {"encoder": encoder, "max_length": max_length}
    context = open_context(workspace, task=task, device=device, dtype=dtype, embed=layer(section))
    settings = context.settings
    path = out or context.embeddings_of(what)
    texts = {user.user_id: embedded_texts(context.task, user, what) for user in who.select(context)}
    empty = [user for user, items in texts.items() if not items]
    if empty:
        console.warn(f"{len(empty)} users have no {what} to embed, {empty[0]!r} for example")
    digests = {user: store.digest_value(items) for user, items in texts.items() if items}
    if not digests:
        hint = {"profile": "Write the profiles with `perpcs profile`."}.get(what)
        raise DataError(f"no user has a {what} to embed", where=who.users_file or context.users, hint=hint)

    from perpcs_cli.artifacts.embeddings import read_embeddings, write_embeddings
    from perpcs_cli.model.base import choose_device, choose_dtype
    from perpcs_cli.model.encoder import fingerprint_encoder, load_encoder

    place = choose_device(settings.device)
    numbers = str(choose_dtype(settings.dtype, place)).removeprefix("torch.")
    provenance = Provenance(
        command="embed",
        settings={
            "task": settings.task,
            "max_length": settings.embed.max_length,
            "dtype": numbers,
            "device": place.type,
        },
        seed=0,
        inputs={"encoder": fingerprint_encoder(settings.embed.encoder)},
    )
    known = digests
    vectors: dict[str, Tensor] = {}
    if path.exists() and not force:
        old = read_embeddings(path, what)
        check_same(old.card.provenance, provenance, where=path)
        known = {**old.card.users, **digests}
        # An embedding of an older history is dropped, so that it never stands beside the new one's digest.
        vectors = {user: old.vector(user) for user, digest in old.card.users.items() if known[user] == digest}
    todo = [user for user in digests if user not in vectors]
    if len(todo) < len(digests):
        console.note(f"{len(digests) - len(todo)} of {len(digests)} users are embedded already")
    if todo:
        store.check_writable(path)
        model = load_encoder(
            settings.embed.encoder, device=settings.device, dtype=settings.dtype, max_length=settings.embed.max_length
        )
        saved = time.monotonic()
        try:
            with console.progress("embedding", len(todo)) as bar:
                for user in todo:
                    vectors[user] = model.embed(texts[user])
                    bar.advance(1, user)
                    if time.monotonic() - saved > SAVE_SECONDS:
                        write_embeddings(path, vectors, known, settings.embed.encoder, provenance, what)
                        saved = time.monotonic()
        finally:
            if vectors:
                write_embeddings(path, vectors, known, settings.embed.encoder, provenance, what)
    size = len(next(iter(vectors.values())))
    console.result(
        {"path": str(path), "users": len(vectors), "embedded": len(todo), "dimensions": size},
        f"{path}\t{len(vectors)} users\t{size} dimensions",
    )
