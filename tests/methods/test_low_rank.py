"""A recipe's update as one pair of factors, beside the papers' formulas in full matrices."""

from __future__ import annotations

import pytest
import torch

from perpcs_cli.methods.low_rank import combined, nearest, padded, side_by_side

D, N = 7, 5


def piece(seed, rank):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rank, N, generator=generator), torch.randn(D, rank, generator=generator)


PIECES = [piece(0, 2), piece(1, 4), piece(2, 3)]
SCALES, WEIGHTS = [1.0, 2.0, 0.5], [0.5, -1.25, 0.75]


def full(factors):
    a, b = factors
    return b.double() @ a.double()


def test_the_product_merge_is_the_sum_of_updates():
    a, b = combined(PIECES, SCALES, WEIGHTS, "product")
    assert (a.shape, b.shape) == ((9, N), (D, 9))
    expected = sum(w * s * full(p) for p, s, w in zip(PIECES, SCALES, WEIGHTS, strict=True))
    assert torch.allclose(full((a, b)), expected, rtol=0, atol=1e-12)


def test_the_factor_merge_is_the_product_of_sums():
    a, b = combined(PIECES, SCALES, WEIGHTS, "factor")
    assert (a.shape, b.shape) == ((4, N), (D, 4))
    a_sum, b_sum = torch.zeros(4, N, dtype=torch.double), torch.zeros(D, 4, dtype=torch.double)
    for (x, y), scale, weight in zip(PIECES, SCALES, WEIGHTS, strict=True):
        a_sum[: len(x)] += weight * x.double()
        b_sum[:, : len(x)] += weight * scale * y.double()
    assert torch.allclose(full((a, b)), b_sum @ a_sum, rtol=0, atol=1e-12)


def test_sums_and_zeros():
    assert torch.allclose(full(side_by_side(PIECES[:2])), full(PIECES[0]) + full(PIECES[1]), rtol=0, atol=1e-5)
    a, b = padded(PIECES[0], 6)
    assert (a.shape, b.shape) == ((6, N), (D, 6))
    assert torch.equal(full((a, b)), full(PIECES[0]))


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_the_nearest_of_a_rank_is_that_of_the_whole_matrix(rank):
    pair = combined(PIECES, SCALES, WEIGHTS, "product")
    near, error = nearest(pair, rank)
    whole = full(pair)
    u, values, v = torch.linalg.svd(whole)
    assert torch.allclose(full(near), (u[:, :rank] * values[:rank]) @ v[:rank], rtol=0, atol=1e-10)
    assert error == pytest.approx(float((full(near) - whole).norm() / whole.norm()), abs=1e-9)
    assert near[0].shape == (rank, N)


def test_what_has_the_rank_already_stays():
    pair = PIECES[0]
    assert nearest(pair, 2) == (pair, 0.0)
    assert nearest((torch.zeros(3, N), torch.zeros(D, 3)), 1)[1] == 0.0
