"""Which candidates share: Per-PCs (Tan et al., 2024), sharer selection, and the strategies it is compared with."""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from perpcs_cli.artifacts.io import hashing
from perpcs_cli.artifacts.selection import Chosen, Skipped

Floats = NDArray[np.float64]

STARTS = 10
"""k-means runs, of which the best is taken."""
ITERATIONS = 3000
"""Most iterations of one run, as published."""


def cluster(vectors: Floats, count: int, seed: int, kmeans_seed: int | None = None) -> list[int]:
    """The cluster of each row of `vectors` [users, H], by k-means into at most `count` clusters.

    Equal rows are never divided, so there are no more clusters than different rows, and none is empty. Clusters are
    numbered by their first rows. The same rows and seed give the same clusters, on any number of cores. `kmeans_seed`:
    scikit-learn's `random_state` instead of one made from `seed`; 0 in the published codes.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    different = np.unique(vectors, axis=0)
    means = KMeans(
        n_clusters=min(count, len(different)),
        n_init=STARTS,
        max_iter=ITERATIONS,
        random_state=hashing.derive_seed(seed, "clusters") % 2**32 if kmeans_seed is None else kmeans_seed,
    )
    # Several threads would add up in any order.
    with threadpool_limits(1):
        labels = means.fit(vectors.astype(np.float64)).labels_
    numbers: dict[int, int] = {}
    return [numbers.setdefault(int(label), len(numbers)) for label in labels]


def by_activity(items: Mapping[str, int]) -> list[str]:
    """Users, those with the most history items first, ties by id."""
    return sorted(items, key=lambda user: (-items[user], user))


def best_of_clusters(
    clusters: Mapping[str, int], items: Mapping[str, int], least: int
) -> tuple[list[Chosen], list[Skipped]]:
    """The most active user of each cluster, and the clusters whose most active user has fewer than `least` items.

    `clusters`: user id → cluster; `items`: user id → history items. Both lists are in the order of the clusters. The
    published code takes users with more than 10 items, which is `least` = 11.
    """
    chosen: list[Chosen] = []
    skipped: list[Skipped] = []
    for number in sorted(set(clusters.values())):
        members = {user: items[user] for user, its in clusters.items() if its == number}
        best, size = by_activity(members)[0], len(members)
        if items[best] < least:
            why = f"its most active user has fewer than {least} items"
            skipped.append(Skipped(user_id=best, items=items[best], cluster=number, cluster_size=size, reason=why))
        else:
            users = "only user" if size == 1 else f"most active of {size} users"
            why = f"{users} of cluster {number}"
            chosen.append(Chosen(user_id=best, items=items[best], cluster=number, cluster_size=size, reason=why))
    return chosen, skipped


def most_active(items: Mapping[str, int], count: int) -> list[Chosen]:
    """The `count` users with the most history items, ties by id, or all where there are no more."""
    ranked = by_activity(items)[:count]
    return [
        Chosen(user_id=user, items=items[user], reason=f"rank {rank} of {len(items)} by history items")
        for rank, user in enumerate(ranked, start=1)
    ]


def drawn(items: Mapping[str, int], count: int, seed: int) -> list[Chosen]:
    """`count` users drawn without replacement, sorted by id, or all where there are no more.

    The same users and seed give the same draw, whatever the order of the users.
    """
    users = sorted(items)
    some = random.Random(hashing.derive_seed(seed, "sharers")).sample(users, min(count, len(users)))
    return [
        Chosen(user_id=user, items=items[user], reason=f"drawn at random from {len(users)} users")
        for user in sorted(some)
    ]
