"""p-values of several comparisons at once, corrected for their number.

Holm, A Simple Sequentially Rejective Multiple Test Procedure (1979): the chance of any false finding stays below the
level. Benjamini and Hochberg, Controlling the False Discovery Rate (1995): the expected share of false findings does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Correction = Literal["holm", "bh", "none"]
NAMES: dict[Correction, str] = {"holm": "Holm", "bh": "Benjamini and Hochberg", "none": "none"}


def corrected(p: Sequence[float], correction: Correction) -> list[float]:
    """The corrected p-values in the order of `p`, to be compared with the level as they are.

    With the m values sorted, Holm's is max over j ≤ i of (m - j + 1) p_j, Benjamini and Hochberg's min over j ≥ i of
    m p_j / j; at most 1.
    """
    if correction == "none":
        return list(p)
    count, order = len(p), sorted(range(len(p)), key=lambda place: p[place])
    result = [1.0] * count
    if correction == "holm":
        last = 0.0
        for rank, place in enumerate(order):
            result[place] = last = min(1.0, max(last, (count - rank) * p[place]))
    else:
        last = 1.0
        for rank, place in reversed(list(enumerate(order, start=1))):
            result[place] = last = min(last, count / rank * p[place])
    return result
