"""Sharer selection on planted clusters, ties, clusters without an active user, and draws."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from perpcs_cli.artifacts.selection import Chosen, Skipped
from perpcs_cli.methods.per_pcs.selection import best_of_clusters, cluster, drawn, most_active


def planted(sizes: list[int], seed: int = 0) -> tuple[np.ndarray, list[int]]:
    """Rows around centres that are far apart, shuffled, and the centre of each."""
    generator = np.random.default_rng(seed)
    truth = [centre for centre, size in enumerate(sizes) for _ in range(size)]
    random.Random(seed).shuffle(truth)
    centres = 10 * np.eye(len(sizes), 12)
    return centres[truth] + 0.1 * generator.standard_normal((len(truth), 12)), truth


@pytest.mark.parametrize("seed", range(5))
def test_planted_clusters_are_found(seed: int) -> None:
    vectors, truth = planted([6, 1, 3, 8], seed)
    found = cluster(vectors, 4, seed)
    assert len(set(found)) == 4
    assert len(set(zip(found, truth, strict=True))) == 4


def test_clusters_are_numbered_by_their_first_rows() -> None:
    vectors = np.array([[5.0, 0.0], [0.0, 5.0], [5.1, 0.0], [-5.0, 0.0]])
    assert [cluster(vectors, 3, seed) for seed in range(8)] == [[0, 1, 0, 2]] * 8


def test_the_same_rows_and_seed_give_the_same_clusters() -> None:
    vectors = np.random.default_rng(1).standard_normal((40, 6))
    assert cluster(vectors, 7, 3) == cluster(vectors.copy(), 7, 3)
    assert len({tuple(cluster(vectors, 7, seed)) for seed in range(4)}) > 1


@pytest.mark.parametrize("kmeans_seed", [0, 5])
def test_k_means_may_have_a_seed_of_its_own(kmeans_seed: int) -> None:
    """As the published codes run it, with `random_state=0`."""
    vectors = np.random.default_rng(1).standard_normal((40, 6))
    theirs = KMeans(n_clusters=7, random_state=kmeans_seed, max_iter=3000, n_init=10).fit(vectors).labels_
    for seed in (0, 3):
        ours = cluster(vectors, 7, seed, kmeans_seed)
        assert len(set(zip(ours, theirs.tolist(), strict=True))) == len(set(ours)) == 7
    assert cluster(vectors, 7, 0, 0) != cluster(vectors, 7, 0)


@pytest.mark.filterwarnings("error")
def test_more_clusters_than_rows_or_than_different_rows() -> None:
    vectors = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert cluster(vectors, 50, 0) == [0, 1, 0]
    assert cluster(np.ones((5, 3)), 4, 0) == [0, 0, 0, 0, 0]
    assert cluster(np.ones((1, 3)), 1, 0) == [0]


def test_the_most_active_user_of_each_cluster() -> None:
    clusters = {"a": 0, "b": 1, "c": 0, "d": 1, "e": 2, "f": 4}
    items = {"a": 12, "b": 10, "c": 40, "d": 3, "e": 11, "f": 10}
    assert best_of_clusters(clusters, items, 11) == (
        [
            Chosen(user_id="c", items=40, cluster=0, cluster_size=2, reason="most active of 2 users of cluster 0"),
            Chosen(user_id="e", items=11, cluster=2, cluster_size=1, reason="only user of cluster 2"),
        ],
        [
            Skipped(
                user_id="b",
                items=10,
                cluster=1,
                cluster_size=2,
                reason="its most active user has fewer than 11 items",
            ),
            Skipped(
                user_id="f",
                items=10,
                cluster=4,
                cluster_size=1,
                reason="its most active user has fewer than 11 items",
            ),
        ],
    )


def test_ties_go_to_the_first_id() -> None:
    items = {"u2": 20, "u10": 20, "u1": 19}
    chosen, _ = best_of_clusters(dict.fromkeys(items, 0), items, 1)
    assert [one.user_id for one in chosen] == ["u10"]
    assert [one.user_id for one in most_active(items, 2)] == ["u10", "u2"]


@given(
    histories=st.lists(st.integers(0, 30), min_size=1, max_size=30),
    count=st.integers(1, 6),
    least=st.integers(1, 20),
    seed=st.integers(0, 9),
)
def test_every_cluster_gives_its_best_or_is_skipped(histories: list[int], count: int, least: int, seed: int) -> None:
    items = {f"u{number:02}": size for number, size in enumerate(histories)}
    labels = random.Random(seed).choices(range(count), k=len(items))
    clusters = dict(zip(items, labels, strict=True))
    chosen, skipped = best_of_clusters(clusters, items, least)
    assert sorted(one.cluster for one in [*chosen, *skipped]) == sorted(set(labels))
    for one in [*chosen, *skipped]:
        members = [items[user] for user, its in clusters.items() if its == one.cluster]
        assert (one.items, one.cluster_size) == (max(members), len(members))
        assert items[one.user_id] == one.items
        assert clusters[one.user_id] == one.cluster
        assert (one in chosen) == (one.items >= least)


def test_the_most_active_users() -> None:
    items = {"a": 5, "b": 9, "c": 7}
    assert most_active(items, 2) == [
        Chosen(user_id="b", items=9, reason="rank 1 of 3 by history items"),
        Chosen(user_id="c", items=7, reason="rank 2 of 3 by history items"),
    ]
    assert len(most_active(items, 9)) == 3


def test_a_draw_depends_on_the_seed_and_not_on_the_order() -> None:
    items = {f"u{number:02}": number for number in range(20)}
    backwards = dict(reversed(items.items()))
    draws = [[one.user_id for one in drawn(items, 5, seed)] for seed in range(6)]
    assert [[one.user_id for one in drawn(backwards, 5, seed)] for seed in range(6)] == draws
    assert len({tuple(draw) for draw in draws}) > 1
    assert all(len(set(draw)) == 5 and draw == sorted(draw) for draw in draws)
    assert [one.user_id for one in drawn(items, 99, 0)] == list(items)
    assert drawn(items, 1, 0)[0].reason == "drawn at random from 20 users"
