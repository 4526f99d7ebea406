"""Optimizers that do not need gradients, behind one protocol: ask for candidates, tell their rewards.

Candidates lie within bounds and start around 0; larger rewards are better. The same seed always asks the same.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from perpcs_cli.artifacts.io import hashing
from perpcs_cli.artifacts.settings import Optimizer as OptimizerName
from perpcs_cli.artifacts.settings import PrimeSettings
from perpcs_cli.errors import PerpcsError

Floats = NDArray[np.float64]


class Optimizer(Protocol):
    """One search. `popsize` candidates are a generation; the last one of a budget may be smaller."""

    popsize: int

    def ask(self, count: int) -> list[Floats]:
        """The next candidates, at most `popsize`, [n] each."""

    def tell(self, rewards: Sequence[float]) -> None:
        """The rewards of the candidates that were asked last."""


def optimizer_seed(seed: int, *names: str) -> int:
    """A seed of its own for each user or purpose: from 1 to 2³² − 1. Never 0, which pycma reads as "by the time"."""
    return 1 + int(hashing.digest_value([seed, *names])[:12], 16) % (2**32 - 1)


def default_popsize(size: int, optimizer: OptimizerName = "cma") -> int:
    """CMA-ES's own population for `size` weights, 4 + ⌊3 ln n⌋ (Hansen, 2016), or that of nevergrad's CMA."""
    if optimizer == "nevergrad-cma":
        return 4 + math.floor(math.log(size)) if size > 1 else 1
    return 4 + math.floor(3 * math.log(max(2, size)))


def make_optimizer(settings: PrimeSettings, size: int, seed: int) -> Optimizer:
    """The optimizer that the settings name, for `size` weights.

    Raises PerpcsError where it needs nevergrad, which is not installed.
    """
    kinds: dict[OptimizerName, Callable[[PrimeSettings, int, int], Optimizer]] = {
        "cma": Cma,
        "random": Random,
        "nevergrad-cma": NevergradCma,
        "ngiohtuned": lambda *given: Nevergrad("NgIohTuned", *given),
        "tbpsa": lambda *given: Nevergrad("TBPSA", *given),
    }
    return kinds[settings.optimizer](settings, size, seed)


class Cma:
    """CMA-ES by pycma, on a random stream of its own."""

    def __init__(self, settings: PrimeSettings, size: int, seed: int) -> None:
        with warnings.catch_warnings():
            # It warns that it could not plot.
            warnings.simplefilter("ignore")
            import cma

        self.popsize = settings.popsize or default_popsize(size)
        self._size = size
        options = {
            "bounds": list(settings.bounds),
            "popsize": self.popsize,
            "randn": np.random.RandomState(seed).randn,
            # With its own stream, pycma shall not seed the global one.
            "seed": math.nan,
            "verbose": -9,
        }
        # pycma has no search in one dimension: a second one is added, and ignored.
        self._search: Any = cma.CMAEvolutionStrategy(np.zeros(max(2, size)), settings.sigma, options)
        self._asked: list[Floats] = []

    def ask(self, count: int) -> list[Floats]:
        self._asked = self._search.ask(min(count, self.popsize))
        return [one[: self._size] for one in self._asked]

    def tell(self, rewards: Sequence[float]) -> None:
        # A smaller generation is the last of a budget, and says too little to learn from.
        if len(rewards) == self.popsize:
            self._search.tell(self._asked, [-reward for reward in rewards])


class Random:
    """Uniform draws within the bounds."""

    def __init__(self, settings: PrimeSettings, size: int, seed: int) -> None:
        self.popsize = settings.popsize or default_popsize(size)
        self._bounds = settings.bounds
        self._size = size
        self._stream = np.random.RandomState(seed)

    def ask(self, count: int) -> list[Floats]:
        return list(self._stream.uniform(*self._bounds, (min(count, self.popsize), self._size)))

    def tell(self, rewards: Sequence[float]) -> None:
        """Rewards teach it nothing."""


class Nevergrad:
    """One of nevergrad's optimizers, which evaluates a generation at a time."""

    def __init__(self, name: str, settings: PrimeSettings, size: int, seed: int) -> None:
        self.popsize = settings.popsize or default_popsize(size)
        nevergrad = _nevergrad(settings)
        array = _array(nevergrad, settings, size, seed)
        self._search: Any = nevergrad.optimizers.registry[name](array, settings.budget, num_workers=self.popsize)
        self._asked: list[Any] = []

    def ask(self, count: int) -> list[Floats]:
        self._asked = [self._search.ask() for _ in range(min(count, self.popsize))]
        return [np.asarray(one.value) for one in self._asked]

    def tell(self, rewards: Sequence[float]) -> None:
        with warnings.catch_warnings():
            # pycma warns where a parent that was kept fell out of a generation, as may be.
            warnings.filterwarnings("ignore", "orphanated injected solution")
            for one, reward in zip(self._asked, rewards, strict=True):
                self._search.tell(one, -reward)


class NevergradCma(Nevergrad):
    """What nevergrad's `CMA` is for weights with bounds (its CMAbounded, the same from 1.0.1 to 1.0.12).

    pycma's CMA-ES with a covariance that stays diagonal and the best candidate kept among the parents, in generations
    of 4 + ⌊ln n⌋. The first standard deviation is 0.477 · sigma, 0.238 by default and for fewer than 18 weights, else
    half of it. What falls beyond a bound is reflected from it. A single weight is left to its (1 + 1) strategy.
    """

    def __init__(self, settings: PrimeSettings, size: int, seed: int) -> None:
        nevergrad = _nevergrad(settings)
        array = _array(nevergrad, settings, size, seed)
        self.popsize = settings.popsize or default_popsize(size, "nevergrad-cma")
        if size > 1:
            kind = nevergrad.families.ParametrizedCMA(scale=1.5884, elitist=True, diagonal=True, popsize=self.popsize)
        else:
            kind = nevergrad.optimizers.registry["OnePlusOne"]
        # Its generations do not depend on the number of workers: a generation is drawn at once.
        self._search = kind(array, settings.budget)
        self._asked = []


def _nevergrad(settings: PrimeSettings) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import nevergrad
    except ImportError:
        raise PerpcsError(
            f"the optimizer {settings.optimizer!r} needs nevergrad, which is not installed",
            where="--optimizer",
            hint="Install it with: pip install 'perpcs[nevergrad]', or take --optimizer cma.",
        ) from None
    return nevergrad


def _array(nevergrad: Any, settings: PrimeSettings, size: int, seed: int) -> Any:
    """The weights as nevergrad's parameter, on a random stream of its own."""
    low, high = settings.bounds
    array = nevergrad.p.Array(init=np.zeros(size), lower=low, upper=high)
    array.set_mutation(sigma=settings.sigma)
    array.random_state = np.random.RandomState(seed)
    return array
