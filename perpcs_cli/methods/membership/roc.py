"""How well scores tell members from non-members: AUC, ROC curve, rates at a threshold, intervals clustered by user.

`scores`: [examples], higher for members; `members`: [examples], booleans.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perpcs_cli.artifacts.metrics import Interval
from perpcs_cli.methods.statistics.bootstrap import LEVEL

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Curve(NamedTuple):
    """Rates when scores from `thresholds[i]` on are called members; the first threshold calls none."""

    thresholds: Floats
    fpr: Floats
    tpr: Floats


def auc(scores: Floats, members: Bools) -> float:
    """P(a member's score is higher than a non-member's) + ½ P(they are equal).

    Raises ValueError where there are no members or no non-members.
    """
    from sklearn.metrics import roc_auc_score

    _check_both(members)
    return float(roc_auc_score(members, scores))


def roc(scores: Floats, members: Bools) -> Curve:
    """The ROC curve, one point for each different score. Raises ValueError as `auc` does."""
    from sklearn.metrics import roc_curve

    _check_both(members)
    fpr, tpr, thresholds = roc_curve(members, scores, drop_intermediate=False)
    return Curve(thresholds, fpr, tpr)


def tpr_at(curve: Curve, fpr: float) -> float:
    """The highest true positive rate of a threshold with at most this false positive rate."""
    return float(curve.tpr[curve.fpr <= fpr].max())


def balanced_accuracy(curve: Curve) -> float:
    """Mean of the true positive and the true negative rate at the best threshold."""
    return float((curve.tpr + 1 - curve.fpr).max() / 2)


class Wins(NamedTuple):
    """One target's comparisons by user: all that AUCs of drawn users need.

    `mine`: [M] the users who have members, `theirs`: [N] those who have non-members, both rising; `wins`: [M, N], pairs
    of a member of one user and a non-member of another that the member wins, ties by half. Members are few sharers'.
    `members`, `others`: [users], counts of members and non-members.
    """

    mine: NDArray[np.int64]
    theirs: NDArray[np.int64]
    wins: Floats
    members: Floats
    others: Floats


def compare(scores: Floats, members: Bools, users: NDArray[np.int64], count: int) -> Wins:
    """The comparisons of one target's examples. `users`: [examples], numbers below `count`."""
    mine, theirs = np.unique(users[members]), np.unique(users[~members])
    wins = np.zeros((len(mine), len(theirs)))
    row = np.searchsorted(mine, users[members])
    order = np.argsort(scores[~members], kind="stable")
    rising, owners = scores[~members][order], users[~members][order]
    for column, owner in enumerate(theirs):
        below, above = rising[owners == owner], scores[members]
        beaten = (np.searchsorted(below, above, "left") + np.searchsorted(below, above, "right")) / 2
        np.add.at(wins[:, column], row, beaten)
    tallies = [np.bincount(users[side], minlength=count).astype(float) for side in (members, ~members)]
    return Wins(mine, theirs, wins, tallies[0], tallies[1])


def auc_interval(targets: Sequence[Wins], *, resamples: int, seed: int) -> Interval | None:
    """The 95 % percentile interval of the targets' mean AUC when users are drawn with replacement, with all items.

    All targets get the same draws; in the mean of one, a target counts as often as its members' users were drawn, by
    their members, so that a target with users of its own is drawn as they are. One without members or non-members in
    a draw is passed over in it. None where there are fewer than two users, or no draw has both members and
    non-members.
    """
    present = sum((one.members + one.others for one in targets), start=np.zeros(1)) > 0
    users = np.flatnonzero(present)
    if len(users) < 2 or resamples < 1:
        return None
    draws = np.random.default_rng(seed).multinomial(len(users), np.full(len(users), 1 / len(users)), size=resamples)
    sums, weights = np.zeros(resamples), np.zeros(resamples)
    for one in targets:
        rows, columns = np.searchsorted(users, one.mine), np.searchsorted(users, one.theirs)
        members = draws @ one.members[users]
        pairs = members * (draws @ one.others[users])
        found = pairs > 0
        weight = members[found] / one.members.sum()
        sums[found] += weight * _won(draws[found][:, rows], one.wins, draws[found][:, columns]) / pairs[found]
        weights[found] += weight
    if not weights.any():
        return None
    means = sums[weights > 0] / weights[weights > 0]
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(low=float(low), high=float(high))


def _won(mine: NDArray[np.int64], wins: Floats, theirs: NDArray[np.int64]) -> Floats:
    """[R] the pairs that members win in each draw; `mine`: [R, M] and `theirs`: [R, N] how often users were drawn."""
    found: Floats = np.einsum("ri,ij,rj->r", mine, wins, theirs, optimize=True)
    return found


def _check_both(members: Bools) -> None:
    if members.all() or not members.any():
        raise ValueError("an AUC needs members and non-members")
