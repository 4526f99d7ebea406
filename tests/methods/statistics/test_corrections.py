"""Corrections for several comparisons, against their definitions and an example worked by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perpcs_cli.methods.statistics.corrections import corrected

P = st.lists(st.floats(0.0, 1.0), max_size=12)


def naive_holm(p: list[float]) -> list[float]:
    """A value is rejected at a level if all m - j + 1 times those up to it are below the level."""
    ranked = sorted(p)
    return [min(1.0, max((len(p) - j) * other for j, other in enumerate(ranked) if other <= one)) for one in p]


def naive_bh(p: list[float]) -> list[float]:
    """A value is rejected if some value from it on is below its rank's share of the level."""
    ranked = sorted(p)
    return [min(1.0, min(len(p) * other / (j + 1) for j, other in enumerate(ranked) if other >= one)) for one in p]


def test_an_example_by_hand() -> None:
    p = [0.04, 0.01, 0.03, 0.005]
    assert corrected(p, "holm") == pytest.approx([0.06, 0.03, 0.06, 0.02])
    assert corrected(p, "bh") == pytest.approx([0.04, 0.02, 0.04, 0.02])
    assert corrected(p, "none") == p


@given(P)
def test_the_definitions(p) -> None:
    assert corrected(p, "holm") == pytest.approx(naive_holm(p))
    assert corrected(p, "bh") == pytest.approx(naive_bh(p))


@given(P)
def test_never_below_the_value_and_holm_never_below_the_other(p) -> None:
    holm, bh = corrected(p, "holm"), corrected(p, "bh")
    assert all(one <= other + 1e-12 <= third + 2e-12 for one, other, third in zip(p, bh, holm, strict=True))
