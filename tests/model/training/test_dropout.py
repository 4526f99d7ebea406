"""The masks: how much they drop, and that nothing moves them but what they are keyed by."""

from __future__ import annotations

import pytest
import torch
from helpers import random_rows

from perpcs_cli.model.training.dropout import Drawn, Dropout

KEY = ("u", 3, 0)


def masks(drawn, *, rate=0.25, seed=0, module="m", width=9, n=64):
    """What is kept of ones [rows, width, n]."""
    rows = sum(len(one.rows) for one in drawn)
    return Dropout(rate, seed, drawn)(module, torch.ones(rows, width, n))


@pytest.fixture
def batch(tiny):
    """Three rows of 9, 5 and 7 tokens."""
    return random_rows(tiny, [(6, 3), (4, 1), (5, 2)])


def test_so_much_is_dropped(batch):
    kept = masks([Drawn(KEY, batch, [0, 1, 2])], n=4000)
    assert set(kept.unique().tolist()) == {0.0, 1.0}
    assert kept.mean().item() == pytest.approx(0.75, abs=0.005)
    assert not torch.equal(kept[0], kept[1])
    assert not torch.equal(kept[:, 0], kept[:, 1])


def test_a_wider_neighbour_and_a_narrower_part_move_nothing(batch):
    alone = masks([Drawn(KEY, batch, [0, 1, 2])])
    among = masks([Drawn(("v", 3, 0), batch[:1], [0]), Drawn(KEY, batch, [0, 1, 2])], width=14)
    assert torch.equal(among[1:, 5:], alone)
    part = masks([Drawn(KEY, batch, [1, 2])], width=7)
    assert torch.equal(part, alone[1:, 2:])


@pytest.mark.parametrize("key", [("v", 3, 0), ("u", 4, 0), ("u", 3, 1)])
def test_every_job_step_pass_layer_and_seed_draws_anew(batch, key):
    first = masks([Drawn(KEY, batch, [0, 1, 2])])
    assert torch.equal(first, masks([Drawn(KEY, batch, [0, 1, 2])]))
    others = [masks([Drawn(key, batch, [0, 1, 2])])]
    others += [masks([Drawn(KEY, batch, [0, 1, 2])], seed=1), masks([Drawn(KEY, batch, [0, 1, 2])], module="o")]
    assert not any(torch.equal(first, other) for other in others)


def test_what_is_dropped_has_no_gradient(batch):
    x = torch.ones(3, 9, 64, requires_grad=True)
    kept = Dropout(0.25, 0, [Drawn(KEY, batch, [0, 1, 2])])("m", x)
    kept.sum().backward()
    assert torch.equal(x.grad, kept.detach())
