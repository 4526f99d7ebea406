"""Pieces of several trainings in one line, against their formula and its automatic gradient."""

from __future__ import annotations

import pytest
import torch

from perpcs_cli.model.training.dropout import Drawn, Dropout
from perpcs_cli.model.training.own_pieces import _Add
from perpcs_cli.model.training.piece import Piece

SPANS = (slice(0, 4), slice(4, 9))


def factors(gated, seed=0):
    """A, B and gate of two trainings, of different ranks."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.double, requires_grad=True)  # noqa: E731
    return [(draw(rank, 6), draw(5, rank), draw(6) if gated else None) for rank in (2, 3)]


def naive(output, x, found, dropout, draws):
    kept = x if dropout is None else x * dropout.kept(draws, x.dtype)
    rows = []
    for span, scale, (a, b, gate) in zip(SPANS, (0.5, 2.0), found, strict=True):
        opened = 1.0 if gate is None else torch.sigmoid(x[0, span] @ gate)[:, None]
        rows.append(output[0, span] + scale * opened * (kept[0, span] @ a.T) @ b.T)
    return torch.cat(rows)[None]


def added(output, x, found, dropout, draws):
    pieces = [Piece(span, scale, *one) for span, scale, one in zip(SPANS, (0.5, 2.0), found, strict=True)]
    return _Add.apply(output, x, draws, dropout, pieces, *(factor for one in found for factor in one))


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_it_is_the_formula_and_its_gradient(gated, rate):
    generator = torch.Generator().manual_seed(3)
    x, output = (torch.randn(1, 9, n, generator=generator, dtype=torch.double, requires_grad=True) for n in (6, 5))
    dropout = Dropout(rate, 0, [Drawn(("u",), (4, 5), (0, 1))]) if rate else None
    draws = dropout.draw("m", x) if dropout else None
    found = factors(gated)
    inputs = [output, x, *(factor for one in found for factor in one if factor is not None)]
    slope = torch.randn(1, 9, 5, generator=generator, dtype=torch.double)
    results = [how(output, x, found, dropout, draws) for how in (added, naive)]
    torch.testing.assert_close(*results)
    ours, theirs = (torch.autograd.grad(result, inputs, slope) for result in results)
    for one, other in zip(ours, theirs, strict=True):
        assert one.is_contiguous(), "the fused optimizer takes it for granted"
        torch.testing.assert_close(one.double(), other, atol=1e-5, rtol=1e-5)


def test_what_is_frozen_gets_no_gradient():
    found = [(a.detach(), b.detach(), gate) for a, b, gate in factors(gated=True)]
    x, output = torch.ones(1, 9, 6, dtype=torch.double), torch.zeros(1, 9, 5, dtype=torch.double)
    result = added(output, x, found, None, None)
    result.sum().backward()
    assert all(gate.grad is not None for *_, gate in found)
    assert not any(factor.requires_grad for one in found for factor in one[:2])


def test_infinity_in_one_is_nothing_to_the_other():
    found = factors(gated=False)
    x, output = torch.ones(1, 9, 6, dtype=torch.double), torch.zeros(1, 9, 5, dtype=torch.double)
    bad = [(found[0][0].detach() * torch.inf, *found[0][1:]), found[1]]
    assert not added(output, x, bad, None, None)[0, SPANS[0]].isfinite().any()
    torch.testing.assert_close(
        added(output, x, bad, None, None)[0, SPANS[1]], added(output, x, found, None, None)[0, SPANS[1]]
    )
