"""Cosines, the nearest sharers and their weights, against the formulas."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import provenance
from sklearn.metrics.pairwise import cosine_similarity

from perpcs_cli.artifacts.embeddings import Embeddings, EmbeddingsCard
from perpcs_cli.errors import DataError, UsageError
from perpcs_cli.methods.per_pcs.similarity import Neighbour, Neighbourhood, weigh

VECTORS = {"u": [1.0, 0.0], "near": [2.0, 0.2], "far": [-1.0, 0.0], "twin": [4.0, 0.4], "zero": [0.0, 0.0]}


def embeddings(vectors: dict[str, list[float]] = VECTORS) -> Embeddings:
    card = EmbeddingsCard(encoder="e", users=dict.fromkeys(vectors, "digest"), provenance=provenance())
    return Embeddings(Path("embeddings.safetensors"), card, np.array(list(vectors.values()), np.float32))


def nearest(known: Embeddings, user: str, sharers: list[str], count: int | None) -> list[Neighbour]:
    return Neighbourhood(known, sharers).nearest(user, known.vector(user), {user}, count)


def test_cosine_by_hand() -> None:
    found = nearest(embeddings({"u": [3.0, 4.0], "a": [4.0, 3.0], "zero": [0.0, 0.0]}), "u", ["a", "zero"], 2)
    assert [one.user_id for one in found] == ["a", "zero"]
    assert [one.similarity for one in found] == pytest.approx([24 / 25, 0.0])


def test_the_nearest_come_first_and_ties_go_by_id() -> None:
    found = nearest(embeddings(), "u", ["zero", "twin", "far", "near"], 4)
    assert [one.user_id for one in found] == ["near", "twin", "zero", "far"]
    assert [one.similarity for one in found] == pytest.approx([1 / math.sqrt(1.01)] * 2 + [0.0, -1.0])


def test_a_user_is_never_its_own_neighbour() -> None:
    assert [one.user_id for one in nearest(embeddings(), "u", ["u", "far"], 1)] == ["far"]


def test_fewer_sharers_than_asked_for() -> None:
    with pytest.raises(UsageError, match="3 sharers are asked for, and there are 2 besides 'u'"):
        nearest(embeddings(), "u", ["u", "far", "near"], 3)


@pytest.mark.parametrize(("user", "sharers"), [("nobody", ["far"]), ("u", ["far", "nobody"])])
def test_an_embedding_is_missing(user: str, sharers: list[str]) -> None:
    with pytest.raises(DataError, match="no embedding of 'nobody'"):
        nearest(embeddings(), user, sharers, 1)


def test_weights() -> None:
    near = [Neighbour("a", 0.9), Neighbour("b", 0.1)]
    total = math.exp(0.9) + math.exp(0.1)
    assert dict(weigh(near, "softmax")) == pytest.approx({"a": math.exp(0.9) / total, "b": math.exp(0.1) / total})
    sharp = math.exp(9) + math.exp(1)
    assert weigh(near, "softmax", 1e-320) == [("a", 1.0), ("b", 0.0)]
    assert dict(weigh(near, "softmax", 0.1)) == pytest.approx({"a": math.exp(9) / sharp, "b": math.exp(1) / sharp})
    assert weigh(near, "uniform") == [("a", 0.5), ("b", 0.5)]
    assert weigh(near, "single") == [("a", 1.0)]


def test_one_neighbourhood_answers_for_many_users_what_each_alone_is_told() -> None:
    generator = torch.Generator().manual_seed(0)
    known = embeddings({f"u{place}": torch.randn(7, generator=generator).tolist() for place in range(60)})
    sharers = [f"u{place}" for place in range(40)]
    together = Neighbourhood(known, sharers)
    for place in (0, 39, 40, 59):
        user = f"u{place}"
        others = sorted(set(sharers) - {user})
        exact = cosine_similarity(
            known.vector(user).astype(float)[None], np.stack([known.vector(o).astype(float) for o in others])
        )[0]
        expected = sorted(zip(others, exact.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0]))
        # To the last bit: the weights of retrieval are written down as they are.
        assert together.nearest(user, known.vector(user), {user}, 5) == expected[:5]
        assert together.nearest(user, known.vector(user), {user}, None) == expected


def test_nobody_is_nearest_to_the_only_sharer() -> None:
    with pytest.raises(UsageError, match="1 sharers are asked for, and there are 0 besides 'u'"):
        nearest(embeddings(), "u", ["u"], None)
