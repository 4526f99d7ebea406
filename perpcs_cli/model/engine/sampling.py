"""Answers that are drawn by top-p sampling; the randomness belongs to a row and a place in its answer, not to a batch.

The token drawn is the one with the largest log p / T + g, where g is Gumbel noise (Maddison et al., 2014,
arXiv:1411.0030, section 2). Here g is a function of the seed, the row, the place in its answer and the token, so that
the model's logits alone decide the token: a draft is right or wrong as in greedy decoding, and what comes out depends
neither on drafts nor on the rows that share a pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from perpcs_cli.artifacts.io import hashing
from perpcs_cli.artifacts.settings import PredictSettings, ProfileSettings
from perpcs_cli.model.engine.batching import Encoded
from perpcs_cli.model.transfers import Upload, integers

UNITS = 1 << 40
"""Probabilities are added up as whole numbers of 1/UNITS: in any order, on any device, the sum is the same."""
AT_A_TIME = 1 << 22
"""Logits that are looked at in one go, which bounds the memory that it takes."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: by the softmax at `temperature`, among the most probable ones that reach `top_p`."""

    temperature: float
    top_p: float
    seed: int
    top_k: int | None = None
    """Only among so many of the most probable ones; None for all."""

    def stream(self, row: Encoded) -> int:
        """What the noise of a row depends on: seed, user, query and prompt."""
        return hashing.derive_seed(self.seed, "answers", row.who, row.key, *row.prompt)

    def draw(self, logits: Tensor, starts: Tensor) -> Tensor:
        """[N]: the tokens drawn by `logits` [N, vocabulary] with the noise of `starts` [N], `state_at` of each."""
        size = max(1, AT_A_TIME // logits.shape[-1])
        return torch.cat(
            [
                (truncated(some, self.temperature, self.top_p, self.top_k) + gumbel(start, some.shape[-1])).argmax(-1)
                for some, start in zip(logits.split(size), starts.split(size), strict=True)
            ]
        )


def sampling_of(settings: PredictSettings | ProfileSettings, seed: int) -> Sampling | None:
    """How a section of the settings draws answers; None where the most probable tokens are taken."""
    top_k = settings.top_k if isinstance(settings, ProfileSettings) else None
    return Sampling(settings.temperature, settings.top_p, seed, top_k) if settings.temperature else None


def drawing(
    sampling: Sampling | None, places: Sequence[tuple[int, int, int]], upload: Upload
) -> Callable[[Tensor], Tensor] | None:
    """How logits become tokens at some `places`, (a row's stream, the first place in its answer, how many), once
    `upload` was sent."""
    if sampling is None:
        return None
    states = [state_at(stream, first + at) for stream, first, count in places for at in range(count)]
    sent = upload.add(integers(states))
    return lambda logits: sampling.draw(logits, sent.tensor)


def state_at(stream: int, place: int) -> int:
    """Where the noise begins of one place in the answer of a row."""
    return hashing.derive_seed(stream, place)


def truncated(logits: Tensor, temperature: float, top_p: float, top_k: int | None = None) -> Tensor:
    """[N, vocabulary]: log p / T up to a constant, -∞ where the more probable tokens have more than `top_p` together,
    and for all but the `top_k` most probable.

    As in the published codes the token stays that reaches `top_p`, so there always is one, and the probabilities are
    those among the `top_k`.
    """
    scores = logits.float()
    # The largest is taken off first: however low the temperature, none is NaN.
    scores = (scores - scores.amax(-1, keepdim=True)) / temperature
    if top_p >= 1 and top_k is None:
        return scores
    ordered, places = scores.sort(stable=True, dim=-1, descending=True)
    chances = (ordered[:, :top_k].softmax(-1) * UNITS).long()
    beyond = torch.ones_like(places, dtype=torch.bool)
    beyond[:, :top_k] = chances.cumsum(-1) - chances > int(top_p * UNITS)
    return scores.masked_fill(torch.zeros_like(beyond).scatter(-1, places, beyond), -torch.inf)


def gumbel(states: Tensor, width: int) -> Tensor:
    """[N, width] standard Gumbel numbers: for each of `states` [N] the first `width` of its SplitMix64 stream.

    Integers wrap around alike on all devices; of each, 23 bits make a number between 0 and 1.
    """
    steps = torch.arange(1, width + 1, device=states.device)
    bits = states[:, None] + steps * _signed(0x9E3779B97F4A7C15)
    bits = (bits ^ _shifted(bits, 30)) * _signed(0xBF58476D1CE4E5B9)
    bits = (bits ^ _shifted(bits, 27)) * _signed(0x94D049BB133111EB)
    uniform = (_shifted(bits ^ _shifted(bits, 31), 41).float() + 0.5) * 2.0**-23
    return -torch.log(-torch.log(uniform))


def _signed(number: int) -> int:
    """The 64 bits of a number as torch's signed integers read them."""
    return number - (1 << 64) if number >= 1 << 63 else number


def _shifted(bits: Tensor, by: int) -> Tensor:
    """Shifted to the right, zeros coming in."""
    return (bits >> by) & ((1 << (64 - by)) - 1)
