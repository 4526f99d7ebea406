"""The masks: how much they drop, and that nothing moves them but what they are keyed by."""

from __future__ import annotations

import pytest
import torch

from perpcs_cli.model.training.dropout import Drawn, Dropout

KEY = ("u", 3, 0)
LENGTHS = (9, 5, 7)


def masks(drawn, *, rate=0.25, seed=0, module="m", n=64, dtype=torch.float32):
    """What is kept [tokens, n]."""
    tokens = sum(one.lengths[row] for one in drawn for row in one.rows)
    dropout = Dropout(rate, seed, drawn)
    draws = dropout.draw(module, torch.ones(1, tokens, n, dtype=dtype))
    assert draws.dtype == torch.int16
    return dropout.kept(draws, dtype)


@pytest.mark.parametrize("rate", [0.05, 0.25, 0.5, 0.9])
def test_so_much_is_dropped_and_what_is_kept_makes_up_for_it(rate):
    drawn = [Drawn(KEY, LENGTHS, [0, 1, 2])]
    kept = masks(drawn, rate=rate, n=20_000)
    assert set(kept.unique().tolist()) == {0.0, 1.0}
    assert kept.mean().item() == pytest.approx(1 - rate, abs=0.005)
    assert (kept.mean() * Dropout(rate, 0, drawn).scale).item() == pytest.approx(1, abs=0.02)
    for one in (kept[:, 0::4], kept[:, 1::4], kept[:, 2::4], kept[:, 3::4]):
        assert one.mean().item() == pytest.approx(1 - rate, abs=0.005), "each of the numbers that share a draw"
    assert not torch.equal(kept[0], kept[1])
    assert not torch.equal(kept[:, 0], kept[:, 1])


def test_numbers_that_share_a_draw_are_independent():
    kept = masks([Drawn(KEY, (1,), [0])], rate=0.5, n=400_000)[0].view(-1, 4)
    shares = torch.corrcoef(kept.T) - torch.eye(4)
    assert shares.abs().max() < 0.02


@pytest.mark.parametrize("rate", [1e-9, 0.99999])
def test_the_ends(rate):
    kept = masks([Drawn(KEY, (50,), [0])], rate=rate, n=1000)
    assert kept.mean().item() == pytest.approx(1 - rate, abs=1e-3)


def test_the_number_type_moves_nothing():
    drawn = [Drawn(KEY, LENGTHS, [0, 1, 2])]
    assert torch.equal(masks(drawn, dtype=torch.bfloat16).float(), masks(drawn))


def test_a_neighbour_and_a_part_move_nothing():
    alone = masks([Drawn(KEY, LENGTHS, [0, 1, 2])])
    among = masks([Drawn(("v", 3, 0), (14,), [0]), Drawn(KEY, LENGTHS, [0, 1, 2])])
    assert torch.equal(among[14:], alone)
    assert torch.equal(masks([Drawn(KEY, LENGTHS, [1, 2])]), alone[9:])
    assert torch.equal(masks([Drawn(KEY, LENGTHS, [0, 2])]), torch.cat([alone[:9], alone[14:]]))


@pytest.mark.parametrize("key", [("v", 3, 0), ("u", 4, 0), ("u", 3, 1)])
def test_every_job_step_pass_layer_and_seed_draws_anew(key):
    first = masks([Drawn(KEY, LENGTHS, [0, 1, 2])])
    assert torch.equal(first, masks([Drawn(KEY, LENGTHS, [0, 1, 2])]))
    others = [masks([Drawn(key, LENGTHS, [0, 1, 2])])]
    others += [masks([Drawn(KEY, LENGTHS, [0, 1, 2])], seed=1), masks([Drawn(KEY, LENGTHS, [0, 1, 2])], module="o")]
    assert not any(torch.equal(first, other) for other in others)


def test_masks_that_are_drawn_as_bits_are_applied_alike():
    """As a GPU draws them."""
    dropout = Dropout(0.5, 0, [])
    bits = torch.rand(6, 8) < 0.5
    x = torch.randn(6, 8, dtype=torch.bfloat16)
    assert torch.equal(dropout.applied(bits, x), torch.where(bits, x, 0))
    assert dropout.kept(bits, x.dtype) is bits
