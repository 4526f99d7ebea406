"""Stacked pieces against their formula and its automatic gradient; what trains with them is in test_train."""

from __future__ import annotations

import pytest
import torch

from perpcs_cli.model.training.dropout import Drawn, Dropout
from perpcs_cli.model.training.piece import Piece
from perpcs_cli.model.training.stacked_pieces import COLUMNS, AddStacked, may_stack, whose

SPANS = (slice(0, 4), slice(4, 9), slice(9, 10))
TOKENS, N, D, RANK, SCALE = 10, 6, 5, 2, 0.5
CPU = torch.device("cpu")


def pieces_of(gated, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.double, requires_grad=True)  # noqa: E731
    return [Piece(span, SCALE, draw(RANK, N), draw(D, RANK), draw(N) if gated else None) for span in SPANS]


def factors(pieces):
    return [factor for one in pieces for factor in (one.a, one.b, one.gate)]


def stacked(output, x, pieces, dropout=None, draws=None):
    return AddStacked.apply(output, x, draws, dropout, whose(pieces, TOKENS, CPU), SCALE, *factors(pieces))


def naive(output, x, pieces, dropout=None, draws=None):
    kept = x if dropout is None else x * dropout.kept(draws, x.dtype)
    rows = []
    for one in pieces:
        opened = 1.0 if one.gate is None else torch.sigmoid(x[0, one.tokens] @ one.gate)[:, None]
        rows.append(output[0, one.tokens] + SCALE * opened * (kept[0, one.tokens] @ one.a.T) @ one.b.T)
    return torch.cat(rows)[None]


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_it_is_the_formula_and_its_gradient(gated, rate):
    generator = torch.Generator().manual_seed(3)
    x, output = (torch.randn(1, TOKENS, n, generator=generator, dtype=torch.double, requires_grad=True) for n in (N, D))
    dropout = Dropout(rate, 0, [Drawn(("u",), (4, 5, 1), (0, 1, 2))]) if rate else None
    draws = dropout.draw("m", x) if dropout else None
    pieces = pieces_of(gated)
    inputs = [output, x, *(factor for factor in factors(pieces) if factor is not None)]
    slope = torch.randn(1, TOKENS, D, generator=generator, dtype=torch.double)
    results = [how(output, x, pieces, dropout, draws) for how in (stacked, naive)]
    torch.testing.assert_close(*results)
    ours, theirs = (torch.autograd.grad(result, inputs, slope) for result in results)
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == other.shape
        assert one.is_contiguous(), "the fused optimizer takes it for granted"
        torch.testing.assert_close(one.double(), other, atol=1e-5, rtol=1e-5)


def test_what_is_frozen_gets_no_gradient():
    pieces = [Piece(one.tokens, SCALE, one.a.detach(), one.b.detach(), one.gate) for one in pieces_of(gated=True)]
    x, output = torch.ones(1, TOKENS, N, dtype=torch.double), torch.zeros(1, TOKENS, D, dtype=torch.double)
    stacked(output, x, pieces).sum().backward()
    assert all(one.gate.grad is not None for one in pieces)
    assert not any(factor.requires_grad for one in pieces for factor in (one.a, one.b))


@pytest.mark.parametrize("gated", [False, True])
def test_infinity_in_one_is_nothing_to_what_the_others_say_and_get_back(gated):
    """It does reach the gradients of their factors, which is why a step that is not finite is made again."""
    pieces = pieces_of(gated)
    output = torch.zeros(1, TOKENS, D, dtype=torch.double)
    results, slopes = [], []
    for number in (1.0, torch.inf):
        x = torch.ones(1, TOKENS, N, dtype=torch.double)
        x[0, SPANS[0]] = number
        x.requires_grad_()
        results.append(stacked(output, x, pieces))
        slopes.append(torch.autograd.grad(results[-1].sum(), [x, pieces[1].a]))
    assert not results[1][0, SPANS[0]].isfinite().all()
    torch.testing.assert_close(results[1][0, 4:], results[0][0, 4:])
    torch.testing.assert_close(slopes[1][0][0, 4:], slopes[0][0][0, 4:])
    assert slopes[1][1].isnan().any()


def test_what_may_be_stacked(stacked_pieces):
    pieces = pieces_of(gated=False)
    assert may_stack(pieces, CPU)
    assert not may_stack(pieces, torch.device("meta"))
    assert not may_stack(pieces[:1], CPU)
    assert not may_stack([*pieces, Piece(SPANS[0], 2 * SCALE, pieces[0].a, pieces[0].b)], CPU)
    assert not may_stack([*pieces, Piece(SPANS[0], SCALE, torch.zeros(3, N), torch.zeros(D, 3))], CPU)
    assert not may_stack([*pieces, pieces_of(gated=True)[0]], CPU)
    assert not may_stack(pieces * (COLUMNS // RANK // 2), CPU)
