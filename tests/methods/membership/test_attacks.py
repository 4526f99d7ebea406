"""Each attack against its definition written naively in float64, and the sign of each."""

from __future__ import annotations

import math
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perpcs_cli.methods.membership import attacks
from perpcs_cli.methods.membership.attacks import ATTACKS, Case, Observed, likelihood_ratio, rmia

LOGPROBS = st.lists(st.floats(-30, -1e-6), min_size=1, max_size=40)


def observed(logprobs, mean=-2.0, deviation=1.5):
    values = np.array(logprobs, dtype=float)
    return Observed(values, np.full(len(values), mean), np.full(len(values), deviation))


@given(LOGPROBS, LOGPROBS)
def test_attacks_are_their_definitions(logprobs, reference):
    case = Case(observed(logprobs), observed(reference), compressed=17)
    n = len(logprobs)
    least = sorted(logprobs)[: max(1, math.floor(0.2 * n))]
    standard = sorted((value + 2.0) / 1.5 for value in logprobs)[: max(1, math.floor(0.2 * n))]
    naive = {
        "loss": -(-math.fsum(logprobs) / n),
        "loss-sum": math.fsum(logprobs),
        "calibrated": math.fsum(logprobs) / n - math.fsum(reference) / len(reference),
        "zlib": -((-math.fsum(logprobs) / n) / 17),
        "min-k": math.fsum(least) / len(least),
        "min-k++": math.fsum(standard) / len(standard),
    }
    assert {name: attack(case) for name, attack in ATTACKS.items()} == pytest.approx(naive)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_better_known_answer_scores_higher(name):
    known = Case(observed([-0.1, -0.2, -0.1]), observed([-3.0, -3.0, -3.0]), 12)
    unknown = Case(observed([-2.9, -3.1, -3.0]), observed([-3.0, -3.0, -3.0]), 12)
    assert ATTACKS[name](known) > ATTACKS[name](unknown)


def test_rmia_scores_a_better_known_item_higher():
    population = np.array([0.8, 0.9, 1.1, 1.2])
    outs = np.log([0.2, 0.3])
    known, unknown = (likelihood_ratio(np.log([p, p]), outs) for p in (0.9, 0.1))
    assert known > unknown
    assert rmia(known, population) == 1.0 and rmia(unknown, population) == 0.0


@pytest.mark.parametrize(("tokens", "used"), [(1, 1), (4, 1), (5, 1), (9, 1), (10, 2), (14, 2), (15, 3)])
def test_short_answers_use_at_least_one_token(tokens, used):
    values = -np.arange(1.0, tokens + 1)
    assert attacks.min_k(values) == pytest.approx(np.mean(values[-used:]))


def test_tokens_that_were_certain_are_neither_infinite_nor_nan():
    sure = Observed(np.array([0.0, -0.5]), np.array([0.0, -0.5]), np.array([0.0, 0.5]))
    assert attacks.min_k_plus(sure) == 0.0


def test_min_k_plus_compares_with_what_the_model_expects():
    """A token that is as likely as the model's own are on average scores 0, however unlikely that is."""
    flat = Observed(np.array([-9.0]), np.array([-9.0]), np.array([2.0]))
    peaked = Observed(np.array([-1.0]), np.array([-0.2]), np.array([0.4]))
    assert attacks.min_k_plus(flat) == 0.0
    assert attacks.min_k_plus(peaked) == pytest.approx(-2.0)


def test_the_likelihood_ratio_is_offline_rmias():
    """Pr(x|θ) / (½ ((1 + a) · mean out + 1 − a)) with a = 0.3, by geometric means of the tokens."""
    logprobs, outs = np.log([0.5, 0.125]), np.log([0.1, 0.3])
    assert likelihood_ratio(logprobs, outs) == pytest.approx(0.25 / (0.5 * (1.3 * 0.2 + 0.7)))
    assert likelihood_ratio(logprobs, outs, a=1.0) == pytest.approx(0.25 / 0.2)


def test_rmia_is_a_share_of_the_population():
    population = np.array([0.5, 1.0, 1.0, 2.0])
    assert [rmia(ratio, population) for ratio in (0.4, 0.5, 1.0, 3.0)] == [0.0, 0.25, 0.75, 1.0]
    assert rmia(3.0, population, gamma=2.0) == 0.75


def test_compressed_size_is_zlibs():
    text = "ein wort ein wort ein wort"
    assert attacks.compressed_bytes(text) == len(zlib.compress(text.encode())) < len(text)
    assert attacks.compressed_bytes("") > 0


def test_without_the_recipe_the_reference_is_the_model():
    case = Case(observed([-1.0]), observed([-4.0]), 10)
    assert ATTACKS["loss"](case.without()) == -4.0
    assert ATTACKS["calibrated"](case.without()) == 0.0
