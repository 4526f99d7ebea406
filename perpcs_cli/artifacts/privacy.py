"""What differential privacy promises of a trained artifact, and the accounting behind it.

The accountant is Opacus's for Rényi differential privacy, with its own orders: its bound for the sampled Gaussian
mechanism is proven for items added and for items removed, and curves of several mechanisms add up (Mironov, Talwar
and Zhang, 2019, arXiv:1908.10530; conversion to (ε, δ) by Balle et al., 2020, arXiv:1905.09982, theorem 21).
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

from perpcs_cli.artifacts.io.limits import Count, Fraction, FromZero, Positive
from perpcs_cli.errors import UsageError

if TYPE_CHECKING:
    from opacus.accountants import RDPAccountant

RELATION = (
    "one training example (one item of the sharer's history) is added or removed; everything else is known, "
    "the number of examples and the settings too"
)


class Mechanism(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One training by DP-SGD: a Gaussian mechanism on Poisson samples, `steps` times."""

    what: Literal["lora", "gate"]
    noise_multiplier: Positive
    """Standard deviation of the noise as a multiple of `clip`."""
    clip: Positive
    """Largest norm of one example's gradient."""
    sample_rate: Fraction
    """The chance of each example to be in a step's batch."""
    steps: Count


class Guarantee(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """(ε, δ)-differential privacy of everything that `mechanisms` made from the same examples, taken together."""

    epsilon: FromZero
    delta: Fraction
    unit: Literal["item"] = "item"
    relation: str = RELATION
    accountant: Literal["rdp"] = "rdp"
    mechanisms: tuple[Mechanism, ...]


def guarantee(mechanisms: Sequence[Mechanism], delta: float) -> Guarantee:
    """What the mechanisms spend together on the examples that they share, at `delta`.

    Raises UsageError without Opacus, and where the noise is too small for any finite ε.
    """
    epsilon = _epsilon(_accountant(), [(m.noise_multiplier, m.sample_rate, m.steps) for m in mechanisms], delta)
    if not math.isfinite(epsilon):
        raise UsageError("so little noise guarantees nothing", hint="Give a larger --dp-noise, or --dp-epsilon.")
    return Guarantee(epsilon=epsilon, delta=delta, mechanisms=tuple(mechanisms))


def compose(parts: Iterable[Guarantee | None]) -> Guarantee | None:
    """The guarantee of several artifacts that were trained on the same examples, at the smallest of their δ.

    None where one of the parts has no guarantee: what it reveals has no bound, however private the others are.
    """
    given = list(parts)
    known = [part for part in given if part]
    if not known or len(known) < len(given):
        return None
    if len(known) == 1:
        return known[0]
    return guarantee([m for part in known for m in part.mechanisms], min(part.delta for part in known))


def noise_multiplier(epsilon: float, delta: float, sample_rate: float, steps: int) -> float:
    """The least noise, by Opacus's search, with which `steps` steps spend at most `epsilon`.

    Raises UsageError without Opacus, and where no noise is enough: the accountant's orders end at 63.
    """
    accountant = _accountant()
    from opacus.accountants.utils import get_noise_multiplier

    try:
        with warnings.catch_warnings():
            # A bound at the largest order holds like any other; it is only less tight.
            warnings.simplefilter("ignore", UserWarning)
            return float(
                get_noise_multiplier(
                    target_epsilon=epsilon,
                    target_delta=delta,
                    sample_rate=sample_rate,
                    steps=steps,
                    accountant=accountant.mechanism(),
                )
            )
    except ValueError:
        raise UsageError(
            f"no noise is enough for epsilon {epsilon:g} at delta {delta:g}",
            where="--dp-epsilon",
            hint="Give a larger --dp-epsilon or a larger --dp-delta.",
        ) from None


def _epsilon(accountant: RDPAccountant, history: list[tuple[float, float, int]], delta: float) -> float:
    accountant.history = history
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return float(accountant.get_epsilon(delta=delta))


def check_installed() -> None:
    """Raise UsageError where Opacus is not installed."""
    if importlib.util.find_spec("opacus") is None:
        raise UsageError("differential privacy needs Opacus", hint="Install it: pip install 'perpcs[dp]'")


def _accountant() -> RDPAccountant:
    check_installed()
    from opacus.accountants import RDPAccountant

    return RDPAccountant()


def spoken(spent: Guarantee | None) -> str:
    """A guarantee in short: `epsilon 7.99, delta 1e-05`, or `none`."""
    if not spent:
        return "none"
    # Rounded up: less than what was spent must not be claimed.
    return f"epsilon {math.ceil(spent.epsilon * 100) / 100:.2f}, delta {spent.delta:g}"
