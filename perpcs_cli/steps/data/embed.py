"""User embeddings, which similar sharers are found by."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perpcs_cli.artifacts.embeddings import What, read_embeddings, write_embeddings
from perpcs_cli.artifacts.io import atomic, hashing
from perpcs_cli.artifacts.io.provenance import Provenance, check_beside, check_same
from perpcs_cli.errors import DataError
from perpcs_cli.model.loading.known_identity import Asked
from perpcs_cli.steps.job import Outcome, Output, run
from perpcs_cli.steps.model_identity import ModelIdentity
from perpcs_cli.steps.report import SILENT, Report
from perpcs_cli.steps.shards import paths
from perpcs_cli.steps.similar_sharers import embedded_texts
from perpcs_cli.steps.workspace import EVERYONE, Who, Workspace

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
) -> list[Outcome[NDArray[Any]]]:
    """Embed users' histories or profiles into one file, by the section `embed` of the settings; [H] for each user.

    Users who are in the file already are finished unless their texts have changed. What has been embedded is saved
    every 30 seconds, and where the run is stopped. A shard writes a file of its own, and the step without one takes
    over what is in them.
    """
    settings = workspace.settings
    whole = out or workspace.embeddings(what)
    path = who.shard.path(whole) if who.shard else whole
    texts = {user.user_id: embedded_texts(workspace.task, user, what) for user in who.mine(who.select(workspace))}
    if empty := [user for user, items in texts.items() if not items]:
        report.warn(f"{len(empty)} users have no {what} to embed, {empty[0]!r} for example")
    digests = {user: hashing.digest_value(items) for user, items in texts.items() if items}
    if not digests and not who.shard:
        hint = {"profile": "Write the profiles with `perpcs profile`."}.get(what)
        raise DataError(f"no user has a {what} to embed", where=who.path(workspace), hint=hint)
    encoder = settings.embed.encoder
    identity = ModelIdentity(Asked(encoder, "", settings.device, settings.dtype))
    how = identity.describe()
    provenance = Provenance(
        command="embed",
        settings={
            **workspace.task.identity,
            "max_length": settings.embed.max_length,
            "dtype": how["dtype"],
            "device": how["device"],
        },
        seed=0,
        inputs={"encoder": identity.fingerprint},
    )

    @cache
    def there() -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
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
        kept = [user for user, digest in old.card.users.items() if known[user] == digest]
        return known, {user: old.vector(user) for user in kept}

    @cache
    def elsewhere() -> dict[str, NDArray[Any]]:
        """What shards have embedded; for a shard, what is in the file of all already."""
        found: dict[str, NDArray[Any]] = {}
        for place in [whole] if who.shard else paths(whole):
            if not place.exists():
                continue
            old = read_embeddings(place, what)
            if force and old.card.provenance != provenance:
                continue
            check_same(old.card.provenance, provenance, where=place)
            same = [user for user, digest in old.card.users.items() if digests.get(user) == digest]
            found |= {user: old.vector(user) for user in same}
        return found

    def vector_of(user: str) -> NDArray[Any] | None:
        found = there()[1].get(user)
        return elsewhere().get(user) if found is None and who.shard else found

    def tidy() -> None:
        """Of what shards have embedded there is nothing to wait for, where the file has all of it."""
        if not who.shard and elsewhere().keys() <= there()[1].keys():
            _delete(paths(whole))

    outputs = [Output(user, path, partial(vector_of, user), tidy) for user in digests]

    def make(todo: Sequence[Output[NDArray[Any]]], keep: Any) -> None:
        atomic.check_writable(path)
        known, vectors = there()
        asked = {one.name for one in todo}
        made = {name: vector for name, vector in vectors.items() if name not in asked}
        if not who.shard:
            made |= {name: vector for name, vector in elsewhere().items() if name in asked}
        for one in todo:
            if one.name in made:
                keep(one, made[one.name])
        left = [one for one in todo if one.name not in made]
        try:
            if left:
                from perpcs_cli.model.encoder import load_encoder

                model = load_encoder(identity.found, settings.embed.max_length)
                saved = time.monotonic()
            with report.progress("embedding", len(left)) as bar:
                for one in left:
                    made[one.name] = model.embed(texts[one.name], who=f"user {one.name}").numpy()
                    keep(one, made[one.name])
                    bar.advance(1, one.name)
                    if time.monotonic() - saved > SAVE_SECONDS:
                        write_embeddings(path, made, known, encoder, provenance, what)
                        saved = time.monotonic()
        finally:
            if made:
                write_embeddings(path, made, known, encoder, provenance, what)
        if not who.shard:
            _delete(paths(whole))

    return run(outputs, make, place=whole, shard=who.shard, force=force, dry_run=dry_run, report=report)


def _delete(files: Sequence[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)
