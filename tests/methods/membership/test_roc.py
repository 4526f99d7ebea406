"""AUC and curve against scikit-learn, ties included; rates at thresholds; intervals clustered by user."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, roc_auc_score, roc_curve

from perpcs_cli.methods.membership.roc import auc, auc_interval, balanced_accuracy, compare, roc, tpr_at

SIDES = st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=2, max_size=60).filter(
    lambda rows: len({side for _, side in rows}) == 2
)


def arrays(rows):
    scores, members = zip(*rows, strict=True)
    return np.array(scores, dtype=float), np.array(members)


@given(SIDES)
def test_the_area_and_the_curve_are_scikit_learns(rows):
    scores, members = arrays(rows)
    assert auc(scores, members) == pytest.approx(roc_auc_score(members, scores))
    fpr, tpr, thresholds = roc_curve(members, scores, drop_intermediate=False)
    curve = roc(scores, members)
    for ours, theirs in zip((curve.fpr, curve.tpr, curve.thresholds), (fpr, tpr, thresholds), strict=True):
        np.testing.assert_allclose(ours, theirs)


@given(SIDES)
def test_balanced_accuracy_is_scikit_learns_best(rows):
    scores, members = arrays(rows)
    best = max(balanced_accuracy_score(members, scores >= at) for at in [np.inf, *scores])
    assert balanced_accuracy(roc(scores, members)) == pytest.approx(best)


@given(SIDES)
def test_comparisons_by_user_add_up_to_the_area(rows):
    scores, members = arrays(rows)
    users = np.arange(len(scores)) % 3
    found = compare(scores, members, users, 3)
    assert found.wins.sum() / (found.members.sum() * found.others.sum()) == pytest.approx(auc(scores, members))
    mine, others = members & (users == 1), ~members & (users == 0)
    pairs = [(x > y) + (x == y) / 2 for x in scores[mine] for y in scores[others]]
    own, their = found.mine.tolist(), found.theirs.tolist()
    assert (set(own), set(their)) == (set(users[members]), set(users[~members]))
    if 1 in own and 0 in their:
        assert found.wins[own.index(1), their.index(0)] == sum(pairs)


def test_comparisons_take_the_room_of_those_who_are_compared():
    users = np.arange(3000)
    found = compare(np.arange(3000.0), users < 2, users, 3000)
    assert found.wins.shape == (2, 2998)


def test_equal_scores_tell_nothing():
    scores, members = np.zeros(10), np.arange(10) < 4
    assert auc(scores, members) == 0.5
    curve = roc(scores, members)
    assert (balanced_accuracy(curve), tpr_at(curve, 0.01)) == (0.5, 0.0)


def test_true_positives_at_few_false_ones():
    """200 non-members from 0 to 199: three members lie above all of them, one above all but two."""
    scores = np.array([*range(200), 500, 501, 502, 197.5, 3])
    members = np.array([False] * 200 + [True] * 5)
    curve = roc(scores, members)
    assert tpr_at(curve, 0.001) == pytest.approx(3 / 5)
    assert tpr_at(curve, 0.01) == pytest.approx(4 / 5)


@pytest.mark.parametrize("members", [[True, True], [False, False], []])
def test_one_side_is_empty(members):
    with pytest.raises(ValueError, match="members and non-members"):
        auc(np.zeros(len(members)), np.array(members, dtype=bool))


def test_the_interval_is_that_of_drawn_users():
    """The same draws with the examples themselves repeated."""
    rng = np.random.default_rng(3)
    users = np.repeat(np.arange(5), 6)
    members = np.tile([True, False], 15)
    scores = rng.normal(size=30) + members * 0.5 + users * 0.3
    found = auc_interval([compare(scores, members, users, 5)], resamples=200, seed=7)
    draws = np.random.default_rng(7).multinomial(5, np.full(5, 0.2), size=200)
    areas = []
    for draw in draws:
        picked = np.concatenate([np.flatnonzero(users == user) for user in range(5) for _ in range(draw[user])])
        areas.append(roc_auc_score(members[picked], scores[picked]))
    low, high = np.quantile(areas, [0.025, 0.975])
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_scores_that_know_nothing_have_one_half_in_their_interval():
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(20), 10)
    members = rng.random(200) < 0.5
    wins = [compare(rng.normal(size=200), members, users, 20) for _ in range(3)]
    found = auc_interval(wins, resamples=500, seed=0)
    assert found.low < 0.5 < found.high
    assert found.high - found.low < 0.2


def test_targets_with_one_user_each_are_drawn_as_their_users_are():
    """The interval is that of the mean of independent AUCs; a target that is drawn twice counts twice."""
    rng = np.random.default_rng(5)
    members = np.arange(20) < 10
    parts = [rng.normal(size=20) + members * rng.normal() for _ in range(12)]
    wins = [compare(scores, members, np.full(20, user), 12) for user, scores in enumerate(parts)]
    found = auc_interval(wins, resamples=300, seed=1)
    draws = np.random.default_rng(1).multinomial(12, np.full(12, 1 / 12), size=300)
    areas = draws @ np.array([roc_auc_score(members, scores) for scores in parts]) / 12
    low, high = np.quantile(areas, [0.025, 0.975])
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_a_draw_without_one_side_counts_for_the_other_targets_only():
    members = np.array([True, False])
    users = np.array([0, 1])
    right, wrong = (compare(np.array(scores), members, users, 2) for scores in ([1.0, 0.0], [0.0, 1.0]))
    found = auc_interval([right, wrong], resamples=50, seed=0)
    assert (found.low, found.high) == (0.5, 0.5)


def test_there_is_no_interval_for_one_user_or_without_draws():
    one = compare(np.array([1.0, 0.0]), np.array([True, False]), np.array([0, 0]), 1)
    two = compare(np.array([1.0, 0.0]), np.array([True, False]), np.array([0, 1]), 2)
    assert auc_interval([one], resamples=10, seed=0) is None
    assert auc_interval([two], resamples=0, seed=0) is None
    assert auc_interval([], resamples=10, seed=0) is None
