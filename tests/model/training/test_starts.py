"""What LoRAs start from, everyone's A or their own, and what becomes of the two merges by that."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import random_rows

from perpcs_cli.artifacts.settings import LoraSettings, TrainSettings
from perpcs_cli.model.training.train import new_lora, train


def start(base, name, init, seed=0):
    """All of a new LoRA's A, in a row."""
    pieces = new_lora(base, name, [], LoraSettings(rank=4, init=init), seed).pieces
    return torch.cat([a.detach().flatten() for a, _ in pieces.values()])


def test_everyone_starts_from_one_a_of_the_seed(tiny):
    assert torch.equal(start(tiny, "u", "shared"), start(tiny, "v", "shared"))
    assert not torch.equal(start(tiny, "u", "shared"), start(tiny, "u", "shared", seed=1))


def test_or_each_from_an_own_of_seed_and_name(tiny):
    own = start(tiny, "u", "own")
    assert torch.equal(own, start(tiny, "u", "own"))
    for other in (start(tiny, "v", "own"), start(tiny, "u", "own", seed=1), start(tiny, "u", "shared")):
        assert abs(torch.cosine_similarity(own, other, dim=0)) < 0.05


@pytest.mark.parametrize("init", ["shared", "own"])
def test_both_are_kaimings(tiny, init):
    for a, b in new_lora(tiny, "u", [], LoraSettings(rank=4, init=init), 0).pieces.values():
        assert a.abs().max() <= 1 / math.sqrt(a.shape[1])
        assert a.std() > 0.4 / math.sqrt(a.shape[1])
        assert not b.any()


def trained(base, init, *, count=3):
    """LoRAs of some users who have nothing in common, after a few steps."""
    lengths = [(7, 5), (4, 6), (10, 4), (6, 5)]
    jobs = [
        new_lora(base, f"u{number}", random_rows(base, lengths, seed=number), LoraSettings(init=init), 0)
        for number in range(count)
    ]
    train(base, jobs, TrainSettings(batch_size=4, lr=1e-3, steps=10), seed=0, dropout=0.05)
    return [{module: (a.detach(), b.detach()) for module, (a, b) in job.pieces.items()} for job in jobs]


def likeness(sharers):
    """The cosine of both merges' ΔW with equal weights, the mean over linear layers."""
    found = []
    for module in sharers[0]:
        a, b = (torch.stack([one[module][side] for one in sharers]) for side in (0, 1))
        product, factor = (b @ a).mean(0), b.mean(0) @ a.mean(0)
        found.append(torch.cosine_similarity(product.flatten(), factor.flatten(), dim=0).item())
    return sum(found) / len(found)


def test_with_one_start_the_merges_are_nearly_one_and_else_they_are_not(tiny):
    """Weights sum to 1: with one A both are (Σ w B) A. With own ones the S² products B_i A_j are as long and
    point elsewhere, of which S are the product merge's: 1 / √S where the B have nothing in common."""
    shared, own = likeness(trained(tiny, "shared")), likeness(trained(tiny, "own"))
    assert shared > 0.99
    assert own == pytest.approx(1 / math.sqrt(3), abs=0.1)


def test_with_one_start_the_updates_of_a_can_be_computed(tiny):
    """Whoever knows the seed takes the start off; whoever does not compares two sharers, and it falls out."""
    first, second = trained(tiny, "shared", count=2)
    own = trained(tiny, "own", count=2)
    begun = {module: a.detach() for module, (a, _) in new_lora(tiny, "x", [], LoraSettings(), 0).pieces.items()}
    for module, a in begun.items():
        moved = (first[module][0] - a).norm()
        assert 0 < moved < 0.2 * a.norm()
        assert (first[module][0] - second[module][0]).norm() < 0.2 * a.norm()
        assert (own[0][module][0] - own[1][module][0]).norm() > a.norm()
