"""`embeddings.safetensors`: one vector per user, [users, H], with the users' ids in the metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from perpcs_cli.artifacts import store, tensors
from perpcs_cli.artifacts.provenance import Provenance
from perpcs_cli.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

KEY = "embeddings"
META = "perpcs"


class EmbeddingsCard(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="format", tag="perpcs.embeddings/1"
):
    """The metadata: whose rows they are, of which texts, by which encoder. It holds no text."""

    encoder: str
    users: dict[str, str]
    """User id → SHA-256 of the history's texts, in the order of the rows."""
    provenance: Provenance
    """Its input `encoder` is the encoder's fingerprint."""


@dataclass(frozen=True)
class Embeddings:
    """Opened embeddings: `vectors` is [users, H], float32."""

    path: Path
    card: EmbeddingsCard
    vectors: Tensor

    @cached_property
    def rows(self) -> dict[str, int]:
        """User id → row."""
        return {user: row for row, user in enumerate(self.card.users)}

    def vector(self, user_id: str) -> Tensor:
        """One user's embedding [H]. Raises DataError where the user has none."""
        if user_id not in self.rows:
            raise DataError(
                f"has no embedding of {user_id!r}",
                where=self.path,
                hint="Make it with `perpcs embed`, which adds to the file.",
            )
        return self.vectors[self.rows[user_id]]

    def check_history(self, user_id: str, digest: str) -> None:
        """Raise DataError where the user's embedding is missing, or of another history than that with `digest`."""
        self.vector(user_id)
        if self.card.users[user_id] != digest:
            raise DataError(
                f"the history of {user_id!r} has changed since it was embedded",
                where=self.path,
                hint="Run `perpcs embed`: it makes changed users again.",
            )


def write_embeddings(
    path: Path, vectors: Mapping[str, Tensor], digests: Mapping[str, str], encoder: str, provenance: Provenance
) -> None:
    """Write embeddings by user id, [H] each, in the order of the ids: the same content gives the same bytes.

    Raises DataError for NaN or infinity.
    """
    import torch

    ids = sorted(vectors, key=lambda name: (tensors.natural(name), name))
    card = EmbeddingsCard(encoder=encoder, users={name: digests[name] for name in ids}, provenance=provenance)
    stacked = torch.stack([vectors[name].float() for name in ids])
    tensors.write_tensors(path, {KEY: stacked}, {META: msgspec.json.encode(card).decode()})


def read_embeddings(path: Path) -> Embeddings:
    """Read embeddings. Raises DataError where the file is missing, broken, or another kind."""
    if not path.exists():
        raise DataError("there are no embeddings", where=path, hint="Make them with `perpcs embed`.")
    file = tensors.open_tensors(path)
    try:
        card = msgspec.json.decode(file.metadata.get(META, ""), type=EmbeddingsCard)
    except msgspec.DecodeError as error:
        raise DataError(f"its metadata is not that of embeddings: {error}", where=path) from None
    vectors = file.read(KEY)
    if file.keys != [KEY] or vectors.dim() != 2 or len(vectors) != len(card.users):
        raise DataError(f"{len(card.users)} users have a tensor of shape {list(vectors.shape)}", where=path)
    for user in card.users:
        store.check_id(user, "user id", where=path)
    return Embeddings(path, card, vectors)
