"""Optimizers: planted weights are found, the same seed asks the same, budgets smaller than a generation."""

from __future__ import annotations

import importlib.util
import sys

import msgspec
import numpy as np
import pytest

from perpcs_cli.artifacts.settings import PrimeSettings
from perpcs_cli.errors import PerpcsError
from perpcs_cli.methods.prime.optimizers import default_popsize, make_optimizer, optimizer_seed

PLANTED = np.array([0.6, -0.4, 0.2])
needs_nevergrad = pytest.mark.skipif(importlib.util.find_spec("nevergrad") is None, reason="nevergrad is not installed")
OPTIMIZERS = [
    "cma",
    "random",
    pytest.param("ngiohtuned", marks=needs_nevergrad),
    pytest.param("tbpsa", marks=needs_nevergrad),
    pytest.param("nevergrad-cma", marks=needs_nevergrad),
]


def settings(**changes) -> PrimeSettings:
    return PrimeSettings(**{"similar": 3, "budget": 50, "data_fraction": 1.0, **changes})


def run(chosen: PrimeSettings, seed: int = 1, target: np.ndarray = PLANTED) -> list[tuple[list[float], float]]:
    """Every candidate and its reward, the negated squared distance from `target`."""
    optimizer = make_optimizer(chosen, len(target), seed)
    seen = []
    while len(seen) < chosen.budget:
        asked = optimizer.ask(chosen.budget - len(seen))
        rewards = [-float(((one - target) ** 2).sum()) for one in asked]
        optimizer.tell(rewards)
        seen += [(one.tolist(), reward) for one, reward in zip(asked, rewards, strict=True)]
    return seen


def test_cma_finds_planted_weights() -> None:
    seen = run(settings(budget=300))
    best, reward = max(seen, key=lambda pair: pair[1])
    assert best == pytest.approx(PLANTED, abs=0.01)
    assert reward > 100 * max(reward for _, reward in run(settings(budget=300, optimizer="random")))


def test_cma_learns_within_a_published_budget() -> None:
    rewards = [reward for _, reward in run(settings(budget=50))]
    assert np.mean(rewards[-14:]) > 3 * np.mean(rewards[:14])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_same_seed_asks_the_same(optimizer: str) -> None:
    chosen = settings(optimizer=optimizer, budget=25)
    np.random.seed(7)
    first = run(chosen)
    np.random.seed(8)
    assert run(chosen) == first
    assert run(chosen, seed=2) != first


@pytest.mark.parametrize("optimizer", ["cma", "random"])
def test_nothing_global_is_seeded(optimizer: str) -> None:
    np.random.seed(7)
    expected = np.random.random()
    np.random.seed(7)
    run(settings(optimizer=optimizer, budget=10))
    assert np.random.random() == expected


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("budget", [1, 3, 7, 9])
def test_budgets_around_a_generation(optimizer: str, budget: int) -> None:
    assert len(run(settings(optimizer=optimizer, budget=budget))) == budget


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_candidates_stay_within_bounds(optimizer: str) -> None:
    seen = run(settings(optimizer=optimizer, bounds=(-0.25, 0.5), budget=40))
    assert all(-0.25 <= weight <= 0.5 for one, _ in seen for weight in one)


@pytest.mark.parametrize("size", [1, 2, 90])
def test_cma_takes_any_number_of_weights(size: int) -> None:
    target = np.full(size, 0.5)
    seen = run(settings(budget=60), target=target)
    assert all(len(one) == size for one, _ in seen)
    assert max(reward for _, reward in seen[-20:]) > max(reward for _, reward in seen[:4])


def test_a_generation_is_cmas_own_or_as_asked() -> None:
    assert [default_popsize(size) for size in (1, 3, 90)] == [6, 7, 17]
    assert len(make_optimizer(settings(popsize=4), 3, 1).ask(50)) == 4


def test_rewards_that_are_all_the_same() -> None:
    optimizer = make_optimizer(settings(), 3, 1)
    for _ in range(50):
        assert np.isfinite(optimizer.ask(7)).all()
        optimizer.tell([1.0] * 7)


def test_seeds_are_apart_and_never_zero() -> None:
    seeds = {optimizer_seed(seed, purpose, user) for seed in range(20) for purpose in ("a", "b") for user in ("u", "v")}
    assert len(seeds) == 80
    assert min(seeds) >= 1 and max(seeds) < 2**32


@needs_nevergrad
@pytest.mark.parametrize("size", [1, 2, 3, 5, 20])
def test_nevergrad_cma_asks_what_nevergrads_cma_does(size: int) -> None:
    """As PriME's published code runs it: one candidate at a time, with nothing but bounds, budget and start."""
    import nevergrad

    array = nevergrad.p.Array(init=[0.0] * size, upper=[1.5] * size, lower=[-1.5] * size)
    array.random_state = np.random.RandomState(3)
    theirs = nevergrad.optimizers.CMA(array, 30)
    target = np.resize(PLANTED, size)
    expected = []
    for _ in range(30):
        one = theirs.ask()
        expected.append(one.value.tolist())
        theirs.tell(one, float(((one.value - target) ** 2).sum()))
    assert [one for one, _ in run(settings(optimizer="nevergrad-cma", budget=30), 3, target)] == expected


@needs_nevergrad
@pytest.mark.parametrize(("size", "popsize", "deviation"), [(3, 5, 0.238), (7, 5, 0.238), (20, 6, 0.119)])
def test_nevergrad_cmas_generation_and_spread(size: int, popsize: int, deviation: float) -> None:
    assert make_optimizer(settings(optimizer="nevergrad-cma"), size, 1).popsize == popsize
    chosen = settings(optimizer="nevergrad-cma", popsize=2000, budget=2000)
    drawn = make_optimizer(chosen, size, 1).ask(2000)
    assert np.std(drawn) == pytest.approx(deviation, rel=0.03)
    wider = msgspec.structs.replace(chosen, sigma=0.6, bounds=(-9, 9))
    assert np.std(make_optimizer(wider, size, 1).ask(2000)) == pytest.approx(1.2 * deviation, rel=0.03)


@pytest.mark.parametrize("optimizer", ["ngiohtuned", "tbpsa", "nevergrad-cma"])
def test_nevergrad_is_missing(optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nevergrad", None)
    with pytest.raises(PerpcsError, match="needs nevergrad, which is not installed") as error:
        make_optimizer(settings(optimizer=optimizer), 3, 1)
    assert error.value.hint == "Install it with: pip install 'perpcs[nevergrad]', or take --optimizer cma."
