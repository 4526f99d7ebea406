"""Choices against the equations, with the number of decisions, of sharers and of those on offer varied."""

from __future__ import annotations

import math

import pytest
import torch

from perpcs_cli.artifacts.settings import AssembleSettings
from perpcs_cli.methods.per_pcs.choice import best, choose
from perpcs_cli.model.engine.sampling import state_at


def settings(**changes):
    return AssembleSettings(**{"top_k": 2, "batch_size": 3, **changes})


def chosen(scores, wanted, seed=0):
    """The pieces of one decision, [(sharer, weight)]; the noise begins at `seed`."""
    found = choose(scores[None], wanted, torch.tensor([state_at(seed, 0)]))
    places, weights = found.places[0].tolist(), found.weights[0].tolist()
    count = sum(place >= 0 for place in places)
    assert all(place >= 0 for place in places[:count]), "those who are chosen stand in front"
    assert not any(weights[count:])
    return list(zip(places[:count], weights[:count], strict=True))


def softmax(scores):
    powers = [math.exp(score) for score in scores]
    return [power / sum(powers) for power in powers]


def approx(mix, abs=1e-5):
    """A mix whose weights may differ a little."""
    return [(sharer, pytest.approx(weight, abs=abs)) for sharer, weight in mix]


SCORES = torch.tensor([0.1, 2.0, -1.0, 1.5, 0.3])


def test_top_k():
    first, second = softmax([2.0, 1.5])
    assert chosen(SCORES, settings(top_k=2)) == approx([(1, first), (3, second)])
    assert chosen(SCORES, settings(top_k=1)) == [(1, 1.0)]
    assert [sharer for sharer, _ in chosen(SCORES, settings(top_k=9))] == [1, 3, 4, 0, 2]


def test_ties_go_to_the_first():
    assert chosen(torch.zeros(4), settings(top_k=2)) == [(0, 0.5), (1, 0.5)]


@pytest.mark.parametrize("seed", range(8))
def test_only_the_best_are_sorted_and_that_changes_nothing(seed):
    # Few values, so that many are equal, also where the k best end; some are not on offer.
    scores = torch.randint(6, (200,), generator=torch.Generator().manual_seed(seed)).float()
    scores[scores == 0] = -torch.inf
    ranked = sorted(range(200), key=lambda place: (-float(scores[place]), place))
    for k in (1, 3, 40, 150):
        assert [sharer for sharer, _ in chosen(scores, settings(top_k=k))] == ranked[:k]


def test_uniform():
    third = 1 / 3
    found = chosen(SCORES, settings(top_k=3, aggregate="uniform"))
    assert found == approx([(1, third), (3, third), (4, third)])


def test_temperature():
    first, second = softmax([2.0 / 0.5, 1.5 / 0.5])
    assert chosen(SCORES, settings(temperature=0.5)) == approx([(1, first), (3, second)])
    assert chosen(SCORES, settings(temperature=1e-320)) == [(1, 1.0), (3, 0.0)]


def test_top_p_takes_the_fewest_that_add_up():
    chances = sorted(softmax(SCORES.tolist()), reverse=True)
    order = [1, 3, 4, 0, 2]
    for count in range(1, 6):
        enough = settings(top_p=min(1.0, sum(chances[:count]) - 1e-6))
        found = chosen(SCORES, enough)
        assert [sharer for sharer, _ in found] == order[:count]
        assert found == approx(zip(order, softmax(SCORES[order[:count]].tolist()), strict=False))
    assert len(chosen(SCORES, settings(top_p=1e-9), 0)) == 1


def test_sampling_draws_from_the_best_and_by_their_softmax():
    draws = [chosen(SCORES, settings(top_k=1, sample=True, sample_from=3), n) for n in range(600)]
    counts = {s: sum(mix[0][0] == s for mix in draws) / len(draws) for s in range(5)}
    expected = softmax(SCORES[[1, 3, 4]].tolist())
    assert counts[0] == counts[2] == 0
    assert [counts[1], counts[3], counts[4]] == pytest.approx(expected, abs=0.07)


def test_sampling_is_without_replacement_and_repeatable():
    drawn = settings(top_k=3, sample=True, sample_from=4)
    for seed in range(20):
        mix = chosen(SCORES, drawn, seed)
        sharers = [sharer for sharer, _ in mix]
        assert len(set(sharers)) == 3
        assert mix == approx(zip(sharers, softmax(SCORES[sharers].tolist()), strict=True))
        assert mix == chosen(SCORES, drawn, seed)
    assert len({tuple(s for s, _ in chosen(SCORES, drawn, seed)) for seed in range(20)}) > 1


def test_sampling_among_the_top_p():
    drawn = settings(top_k=2, sample=True, top_p=0.7)
    assert {s for seed in range(40) for s, _ in chosen(SCORES, drawn, seed)} == {1, 3}


def test_sampling_may_keep_as_many_as_it_draws():
    few = {"sample": True, "top_k": 2, "top_p": 1e-6}
    assert [s for s, _ in chosen(SCORES, settings(**few))] == [1], "top-p alone leaves the best"
    for seed in range(20):
        found = chosen(SCORES, settings(**few, keep_k=True), seed)
        assert sorted(s for s, _ in found) == [1, 3], "the two best, as the published code keeps"
    assert chosen(SCORES, settings(top_k=2, top_p=1e-6, keep_k=True)) == [(1, 1.0)], "only where it draws"
    wide = settings(sample=True, top_k=2, top_p=0.95, keep_k=True)
    assert {s for seed in range(80) for s, _ in chosen(SCORES, wide, seed)} > {1, 3}


def test_sampling_where_chances_vanish():
    """A softmax that underflows still draws as many as were asked for."""
    found = chosen(torch.tensor([0.0, 900.0, -900.0]), settings(top_k=2, sample=True))
    assert len(found) == 2
    assert found[0] == (1, 1.0)


@pytest.mark.parametrize(
    "changes",
    [{"top_k": 5}, {"top_p": 1.0}, {"sample": True, "top_k": 5}, {"aggregate": "uniform", "top_k": 5}],
    ids=str,
)
def test_what_is_not_offered_is_never_chosen(changes):
    withheld = SCORES.clone()
    withheld[[1, 4]] = -torch.inf
    found = chosen(withheld, settings(**changes))
    assert sorted(sharer for sharer, _ in found) == [0, 2, 3]
    assert sum(weight for _, weight in found) == pytest.approx(1)
    assert chosen(torch.full((5,), -torch.inf), settings(**changes)) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"top_k": 3},
        {"top_p": 0.6},
        {"sample": True, "sample_from": 4},
        {"sample": True, "top_p": 0.9, "keep_k": True},
        {"aggregate": "uniform"},
    ],
    ids=str,
)
def test_many_decisions_are_each_alone(changes):
    scores = torch.randn(7, 30, generator=torch.Generator().manual_seed(1))
    scores[0, 3:] = scores[1] = -torch.inf
    states = torch.arange(7) * 977
    together = choose(scores, settings(**changes), states)
    for row in range(7):
        alone = choose(scores[row : row + 1], settings(**changes), states[row : row + 1])
        assert alone.places[0].equal(together.places[row])
        assert alone.weights[0].equal(together.weights[row])


def test_the_best_in_the_order_of_numbers():
    tiny = torch.finfo(torch.float32).tiny
    scores = torch.tensor([[-0.0, 0.0, -tiny, tiny, -torch.inf, 3e38, -3e38, 0.0]])
    assert best(scores, 7).tolist() == [[5, 3, 0, 1, 7, 2, 6]]
    assert best(scores, 8).tolist() == [[5, 3, 0, 1, 7, 2, 6, 4]]


def test_a_draw_without_noise_is_refused():
    with pytest.raises(ValueError, match="states"):
        choose(torch.zeros(1, 3), settings(sample=True))
