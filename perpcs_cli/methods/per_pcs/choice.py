"""Which pieces are used, and how much, by the scores of sharers: of many decisions at once, on any device.

No size depends on what the scores are, so that nothing has to come back to the host before all layers are done.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from perpcs_cli.artifacts.settings import AssembleSettings
from perpcs_cli.model.engine.sampling import gumbel

SORTED = 64
"""Of so few sharers all are sorted, which is one kernel."""
LEAST = -1e300
"""What the logarithm of a chance is at least, so that one that vanishes can still be drawn where nothing else is."""


@dataclass(frozen=True)
class Choice:
    """Of G decisions, at most K pieces each."""

    places: Tensor
    """[G, K]: places among the sharers, the best or the first drawn in front; -1 where fewer were chosen."""
    weights: Tensor
    """[G, K], float64: they sum to 1 in each row, or to 0 where nothing is on offer; 0 where nothing was chosen."""


def choose(scores: Tensor, settings: AssembleSettings, states: Tensor | None = None) -> Choice:
    """The sharers whose pieces are used, with weights, from `scores` [G, S], float32; -inf is not on offer.

    top-k: the k best, of equal ones the first. top-p: the best whose softmax adds up to at least p. With sampling, k
    are drawn without replacement by their softmax among the `sample_from` best, or among the top-p, which are fewer
    where fewer reach p unless `keep_k`, as in the published code. Weights are the softmax of the chosen scores
    (Per-PCs, equation 6), or equal.

    `states` [G]: where the noise of each decision begins, needed for sampling. Those are drawn that have the largest
    log p + g, with Gumbel noise g for each: the first k of a draw without replacement (Kool et al., 2019,
    arXiv:1903.06059, section 3).
    """
    k, everyone = min(settings.top_k, scores.shape[1]), scores.shape[1]
    wide = max(k, min(settings.sample_from, everyone)) if settings.sample else k
    places = best(scores, everyone if settings.top_p is not None else wide)
    exact = scores.gather(1, places).double()
    if settings.top_p is not None:
        softmax = _softmax(exact, settings.temperature)
        # A sharer stays where those before it do not yet reach p.
        reached = (softmax.cumsum(1) - softmax < settings.top_p).sum(1, keepdim=True)
        reached = reached.clamp(min=k if settings.sample and settings.keep_k else 0)
        exact = exact.masked_fill(torch.arange(everyone, device=scores.device) >= reached, -torch.inf)
    if settings.sample:
        if states is None:
            raise ValueError("sampling needs the states of its noise")
        chances = _scaled(exact, settings.temperature).clamp(min=LEAST)
        noisy = (chances + gumbel(states, places.shape[1])).masked_fill(exact == -torch.inf, -torch.inf)
        drawn = noisy.sort(stable=True, dim=1, descending=True).indices[:, :k]
        places, exact = places.gather(1, drawn), exact.gather(1, drawn)
    out = exact == -torch.inf
    if settings.aggregate == "uniform":
        weights = (~out).double() / (~out).sum(1, keepdim=True).clamp(min=1)
    else:
        weights = _softmax(exact, settings.temperature)
    return Choice(places.masked_fill_(out, -1), weights)


def best(scores: Tensor, count: int) -> Tensor:
    """[G, count]: the places of the `count` largest of each row of `scores` [G, S], best first; of equal ones the
    first."""
    everyone = scores.shape[1]
    if count == everyone or everyone <= SORTED:
        return scores.sort(stable=True, dim=1, descending=True).indices[:, :count]
    # As integers in the order of the numbers, with the place below: no two are equal, and only the best are sorted.
    bits = (scores + 0.0).view(torch.int32)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    behind = torch.arange(everyone - 1, -1, -1, device=scores.device)
    return ((ordered.long() << 32) | behind).topk(count, dim=1).indices


def _scaled(exact: Tensor, temperature: float) -> Tensor:
    """Scores / temperature, the largest taken off first, so that however low the temperature none is infinite; NaN
    where all of a row's are -inf."""
    return (exact - exact.amax(1, keepdim=True)) / temperature


def _softmax(exact: Tensor, temperature: float) -> Tensor:
    """0 where a score is -inf."""
    return torch.softmax(_scaled(exact, temperature), dim=1).nan_to_num_(0.0)
