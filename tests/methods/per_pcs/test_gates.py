"""Gate scores against the equations in float64, and where answers stand in a batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from perpcs_cli.methods.per_pcs.gates import answer_tokens, answers_mean, gate_scores, normalize
from perpcs_cli.model.engine.batching import Encoded

SCORINGS = ["published", "paper"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def by_hand(vector, scoring):
    """One vector made comparable, in float64."""
    v = vector.double()
    if scoring == "published":
        return (v - v.mean()) / torch.sqrt(((v - v.mean()) ** 2).mean() + 1e-5)
    return v / v.norm()


@pytest.mark.parametrize("scoring", SCORINGS)
def test_normalize(scoring):
    vectors = torch.randn(2, 3, 16, generator=seeded()) * 5 + 1
    found = normalize(vectors.bfloat16(), scoring)
    assert found.dtype == torch.float32
    for row in range(2):
        for token in range(3):
            expected = by_hand(vectors.bfloat16()[row, token], scoring)
            torch.testing.assert_close(found[row, token].double(), expected, atol=1e-5, rtol=1e-5)


def test_a_zero_gate_scores_zero():
    for scoring in SCORINGS:
        assert not normalize(torch.zeros(4), scoring).any()


@pytest.mark.parametrize("scoring", SCORINGS)
def test_gate_scores(scoring):
    """published: the mean over an answer of x · g / √n; paper: the sum of cosines, divided by √n; of three rows, of
    which the first two are one decision, the mean."""
    n, rows = 16, [Encoded("", [5, 6], [7]), Encoded("", [5], [6, 7, 8]), Encoded("", [5, 6, 7], [8, 9])]
    x, gates = torch.randn(3, 5, n, generator=seeded(1)), torch.randn(4, n, generator=seeded(2))
    tokens = answer_tokens(rows, [0, 0, 1], scoring)
    means = answers_mean(x, torch.from_numpy(tokens.at), torch.from_numpy(tokens.shares), scoring)
    found = gate_scores(means, normalize(gates, scoring))
    for decision, mine in enumerate([[0, 1], [2]]):
        for sharer in range(4):
            expected = 0.0
            for row in mine:
                end = 4 if scoring == "published" else 5
                seen = x[row, end - len(rows[row].answer) : end]
                each = [float(by_hand(t, scoring) @ by_hand(gates[sharer], scoring)) / math.sqrt(n) for t in seen]
                expected += (sum(each) / len(each) if scoring == "published" else sum(each)) / len(mine)
            assert float(found[decision, sharer]) == pytest.approx(expected, abs=1e-5)


def test_answer_tokens():
    """Rows end together: [p p a], [p a a a], with padding on the left of the first."""
    rows = [Encoded("", [5, 6], [7]), Encoded("", [5], [6, 7, 8])]
    assert answer_tokens(rows, [0, 1], "paper").at.tolist() == [3, 5, 6, 7]
    found = answer_tokens(rows, [0, 1], "published")
    assert found.at.tolist() == [2, 4, 5, 6]
    np.testing.assert_allclose(found.shares, [[1, 0, 0, 0], [0, 1 / 3, 1 / 3, 1 / 3]])
    np.testing.assert_allclose(answer_tokens(rows, [0, 0], "published").shares, [[1 / 2, 1 / 6, 1 / 6, 1 / 6]])
    np.testing.assert_allclose(answer_tokens(rows, [0, 0], "paper").shares, [[1 / 2, 1 / 2, 1 / 2, 1 / 2]])
