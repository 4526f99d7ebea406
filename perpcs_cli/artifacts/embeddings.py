"""`embeddings.safetensors`: one vector per user, [users, H], with the users' ids in the metadata.

`profile-embeddings.safetensors` is the same of the users' textual profiles.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from perpcs_cli.artifacts.io import safe_paths, tensors
from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

KEY = "embeddings"

What = Literal["history", "profile"]
"""Which texts of a user are embedded."""
MAKE: dict[What, str] = {"history": "perpcs embed", "profile": "perpcs embed --what profile"}
"""The command that embeds them."""


class EmbeddingsCard(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="format", tag="perpcs.embeddings/1"
):
    """The metadata: whose rows they are, of which texts, by which encoder. It holds no text."""

    encoder: str
    what: What = "history"
    users: dict[str, str]
    """User id → SHA-256 of the embedded texts, in the order of the rows."""
    provenance: Provenance
    """Its input `encoder` is the encoder's fingerprint."""


@dataclass(frozen=True)
class Embeddings:
    """Read embeddings: `vectors` is [users, H], float32. They need no torch."""

    path: Path
    card: EmbeddingsCard
    vectors: NDArray[Any]

    @cached_property
    def rows(self) -> dict[str, int]:
        """User id → row."""
        return {user: row for row, user in enumerate(self.card.users)}

    def vector(self, user_id: str) -> NDArray[Any]:
        """One user's embedding [H]. Raises DataError where the user has none."""
        if user_id not in self.rows:
            raise DataError(
                f"has no embedding of {user_id!r}",
                where=self.path,
                hint=f"Make it with `{MAKE[self.card.what]}`, which adds to the file.",
            )
        vector: NDArray[Any] = self.vectors[self.rows[user_id]]
        return vector

    def check_texts(self, user_id: str, digest: str) -> None:
        """Raise DataError where the user's embedding is missing, or of other texts than those with `digest`."""
        self.vector(user_id)
        if self.card.users[user_id] != digest:
            raise DataError(
                f"the {self.card.what} of {user_id!r} has changed since it was embedded",
                where=self.path,
                hint=f"Run `{MAKE[self.card.what]}`: it makes changed users again.",
            )


def write_embeddings(
    path: Path,
    vectors: Mapping[str, Tensor | NDArray[Any]],
    digests: Mapping[str, str],
    encoder: str,
    provenance: Provenance,
    what: What = "history",
) -> None:
    """Write embeddings by user id, [H] each, in the order of the ids: the same content gives the same bytes.

    Raises DataError for NaN or infinity.
    """
    import torch

    ids = sorted(vectors, key=lambda name: (tensors.natural(name), name))
    users = {name: digests[name] for name in ids}
    card = EmbeddingsCard(encoder=encoder, what=what, users=users, provenance=provenance)
    stacked = torch.stack([torch.as_tensor(vectors[name]).float() for name in ids])
    tensors.write_tensors(path, {KEY: stacked}, tensors.card_metadata(card))


def write_shared(path: Path, embeddings: Embeddings, names: Mapping[str, str]) -> None:
    """Write what a pool carries: the vectors of `names`, {user id: its name there}, without digests of their texts.

    Raises DataError where a user has no embedding.
    """
    vectors = {name: embeddings.vector(user) for user, name in names.items()}
    # The encoder may have been given as a directory of this machine; its fingerprint is in the provenance.
    card = embeddings.card
    write_embeddings(path, vectors, dict.fromkeys(vectors, ""), Path(card.encoder).name, card.provenance, card.what)


def without_users(path: Path, names: Collection[str], what: What = "history") -> None:
    """Take users' rows out of a file of embeddings, if it has them; without any rows left, the file goes too."""
    old = read_embeddings(path, what)
    kept = [user for user in old.card.users if user not in names]
    if not kept:
        path.unlink()
    elif len(kept) < len(old.card.users):
        vectors = {user: old.vector(user) for user in kept}
        write_embeddings(path, vectors, old.card.users, old.card.encoder, old.card.provenance, what)


def read_embeddings(path: Path, what: What = "history") -> Embeddings:
    """Read embeddings of histories or profiles. Raises DataError where the file is missing, broken, or another kind."""
    if not path.exists():
        raise DataError("there are no embeddings", where=path, hint=f"Make them with `{MAKE[what]}`.")
    file = tensors.open_tensors(path)
    card = tensors.read_card(file, EmbeddingsCard, "embeddings")
    if card.what != what:
        raise DataError(f"holds embeddings of each user's {card.what}, not {what}", where=path)
    vectors = file.read_array(KEY)
    if file.keys != [KEY] or vectors.ndim != 2 or len(vectors) != len(card.users):
        raise DataError(f"{len(card.users)} users have a tensor of shape {list(vectors.shape)}", where=path)
    for user in card.users:
        safe_paths.check_id(user, "user id", where=path)
    return Embeddings(path, card, vectors)
