"""Membership attacks: scores of one answer under a model. Higher says: rather a member of its training data.

`logprobs`: [tokens], log-probability of each token of the answer, end of sequence included as in training, in nats.
"""

from __future__ import annotations

import zlib as zlib_module
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

K = 0.2
"""Share of an answer's tokens that Min-K% and Min-K%++ look at."""
A = 0.3
"""RMIA's interpolation between what reference models that never saw an item say of it, and 1."""
GAMMA = 1.0
"""RMIA's threshold of the likelihood ratio."""
LEAST_DEVIATION = 1e-6


@dataclass(frozen=True)
class Observed:
    """What a model says of one answer.

    `means` and `deviations`: [tokens], of log p over the model's next-token distribution at each token's place.
    """

    logprobs: Floats
    means: Floats
    deviations: Floats


def mean_loss(logprobs: Floats) -> float:
    """Minus the mean loss per token (Yeom et al., 2018, arXiv:1709.01604, adversary 2)."""
    return float(logprobs.mean())


def summed_loss(logprobs: Floats) -> float:
    """Minus the loss summed over the tokens, as the published code of Per-PCs and PriME takes it: short answers
    look like members."""
    return float(logprobs.sum())


def calibrated(logprobs: Floats, reference: Floats) -> float:
    """Minus the mean loss, less the reference model's (Watson et al., 2022, arXiv:2111.08440, equation 2)."""
    return float(logprobs.mean() - reference.mean())


def zlib(logprobs: Floats, compressed: int) -> float:
    """Minus the mean loss by the length of the compressed text, in bytes (Carlini et al., 2021, arXiv:2012.07805,
    section 5.2)."""
    return float(logprobs.mean() / compressed)


def compressed_bytes(text: str) -> int:
    """Length of a text under zlib; never 0."""
    return len(zlib_module.compress(text.encode()))


def min_k(logprobs: Floats, k: float = K) -> float:
    """Mean log-probability of the ⌊k · tokens⌋ least probable tokens, at least one (Shi et al., 2024, arXiv:2310.16789,
    equation 1)."""
    return float(np.sort(logprobs)[: max(1, int(k * len(logprobs)))].mean())


def min_k_plus(observed: Observed, k: float = K) -> float:
    """Min-K% of the log-probabilities standardized by mean and standard deviation of log p under the model's own
    next-token distribution (Zhang et al., 2025, arXiv:2404.02936, equation 3)."""
    deviations = np.maximum(observed.deviations, LEAST_DEVIATION)
    return min_k((observed.logprobs - observed.means) / deviations, k)


def likelihood_ratio(logprobs: Floats, outs: Floats, a: float = A) -> float:
    """RMIA's Pr(x|θ) / Pr(x), offline (Zarifzadeh et al., 2024, arXiv:2312.03262, equation 10).

    Pr(x|θ) is the geometric mean of the tokens' probabilities, so that answers of any length compare; Pr(x) is
    ½ ((1 + a) · Pr(x)_out + 1 − a), where Pr(x)_out is the mean over the reference models, none of which saw x.
    `outs`: [references], each one's mean log-probability per token.
    """
    out = np.exp(outs).mean()
    return float(np.exp(logprobs.mean()) / (0.5 * ((1 + a) * out + 1 - a)))


def rmia(ratio: float, population: Floats, gamma: float = GAMMA) -> float:
    """The share of a population z whose likelihood ratio x exceeds γ times: Pr_z(LR(x, z) ≥ γ) (Zarifzadeh et al.,
    2024, equation 4).

    `ratio`: of x; `population`: [z], the ratios of items that the model was not trained on.
    """
    return float((ratio >= gamma * population).mean())


@dataclass(frozen=True)
class Case:
    """One answer under attack: under the model, under the reference (base with task adapter), and its text's size."""

    observed: Observed
    reference: Observed
    compressed: int

    def without(self) -> Case:
        """The same answer under the reference, as if that were the model."""
        return Case(self.reference, self.reference, self.compressed)


ATTACKS: dict[str, Callable[[Case], float]] = {
    "loss": lambda case: mean_loss(case.observed.logprobs),
    "loss-sum": lambda case: summed_loss(case.observed.logprobs),
    "calibrated": lambda case: calibrated(case.observed.logprobs, case.reference.logprobs),
    "zlib": lambda case: zlib(case.observed.logprobs, case.compressed),
    "min-k": lambda case: min_k(case.observed.logprobs),
    "min-k++": lambda case: min_k_plus(case.observed),
}
"""The attacks that look at one answer at a time; RMIA needs a population, too."""
RMIA = "rmia"
NAMES = (*ATTACKS, RMIA)
COMPARING = ("calibrated", RMIA)
"""Attacks that compare with other models: on the model without the recipe they say nothing."""
