"""User embeddings, which similar sharers are found by."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perpcs_cli.artifacts.embeddings import What
from perpcs_cli.artifacts.io import atomic, hashing
from perpcs_cli.artifacts.io.provenance import Provenance, check_beside, check_same
from perpcs_cli.errors import DataError
from perpcs_cli.steps.job import Outcome, Output, run
from perpcs_cli.steps.report import SILENT, Report
from perpcs_cli.steps.similar_sharers import embedded_texts
from perpcs_cli.steps.workspace import EVERYONE, Who, Workspace

if TYPE_CHECKING:
    from torch import Tensor

SAVE_SECONDS = 30.0


def embed(
    workspace: Workspace,
    who: Who = EVERYONE,
    *,
    what: What = "history",
    out: Path | None = None,
    force: bool = False,
    dry_run: bool = False,
    report: Report = SILENT,
) -> list[Outcome[Tensor]]:
    """Embed users' histories or profiles into one file, by the section `embed` of the settings; [H] for each user.

    Users who are in the file already are finished unless their texts have changed. What has been embedded is saved
    every 30 seconds, and where the run is stopped.
    """
    from perpcs_cli.artifacts.embeddings import read_embeddings, write_embeddings
    from perpcs_cli.model.encoder import encoder_dtype, fingerprint_encoder, load_encoder
    from perpcs_cli.model.loading.identity import choose_device

    settings = workspace.settings
    path = out or workspace.embeddings(what)
    texts = {user.user_id: embedded_texts(workspace.task, user, what) for user in who.select(workspace)}
    if empty := [user for user, items in texts.items() if not items]:
        report.warn(f"{len(empty)} users have no {what} to embed, {empty[0]!r} for example")
    digests = {user: hashing.digest_value(items) for user, items in texts.items() if items}
    if not digests:
        hint = {"profile": "Write the profiles with `perpcs profile`."}.get(what)
        raise DataError(f"no user has a {what} to embed", where=who.path(workspace), hint=hint)
    place = choose_device(settings.device)
    encoder = settings.embed.encoder
    numbers = str(encoder_dtype(encoder, settings.dtype, place)).removeprefix("torch.")
    provenance = Provenance(
        command="embed",
        settings={
            **workspace.task.identity,
            "max_length": settings.embed.max_length,
            "dtype": numbers,
            "device": place.type,
        },
        seed=0,
        inputs={"encoder": fingerprint_encoder(encoder)},
    )

    @cache
    def there() -> tuple[dict[str, str], dict[str, Tensor]]:
        """(digests of all texts, what is embedded of them already). Looked at when the file is locked."""
        if not path.exists():
            return dict(digests), {}
        old = read_embeddings(path, what)
        if not force:
            check_same(old.card.provenance, provenance, where=path)
        check_beside(old.card.provenance, provenance, old.card.users.keys() - digests.keys(), where=path)
        if old.card.provenance != provenance:
            return dict(digests), {}
        known = {**old.card.users, **digests}
        # An embedding of an older history is dropped, so that it never stands beside the new one's digest.
        return known, {user: old.vector(user) for user, digest in old.card.users.items() if known[user] == digest}

    def vector_of(user: str) -> Tensor | None:
        return there()[1].get(user)

    outputs = [Output(user, path, partial(vector_of, user)) for user in digests]

    def make(todo: Sequence[Output[Tensor]], keep: Any) -> None:
        atomic.check_writable(path)
        model = load_encoder(
            encoder, device=settings.device, dtype=settings.dtype, max_length=settings.embed.max_length
        )
        saved = time.monotonic()
        known, vectors = there()
        made = {name: vector for name, vector in vectors.items() if name not in {one.name for one in todo}}
        try:
            with report.progress("embedding", len(todo)) as bar:
                for one in todo:
                    made[one.name] = model.embed(texts[one.name], who=f"user {one.name}")
                    keep(one, made[one.name])
                    bar.advance(1, one.name)
                    if time.monotonic() - saved > SAVE_SECONDS:
                        write_embeddings(path, made, known, encoder, provenance, what)
                        saved = time.monotonic()
        finally:
            if made:
                write_embeddings(path, made, known, encoder, provenance, what)

    return run(outputs, make, place=path, force=force, dry_run=dry_run, report=report)
