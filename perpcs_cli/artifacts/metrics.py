"""`metrics/*.json`: metric values, counts, and what was compared with what."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from perpcs_cli.artifacts.io import typed_files
from perpcs_cli.artifacts.io.limits import Count, Fraction
from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.errors import DataError

ACCURACY = ("accuracy", "f1")
"""Of labels."""
ERROR = ("mae", "rmse")
"""Of ratings, in rating points: less is better."""
ROUGE = ("rouge-1", "rouge-L")
"""Of text."""
METRICS = (ACCURACY, ERROR, ROUGE)
"""A task has one of these pairs."""
SUM = "sum"


def objective(values: Mapping[str, float], metric: str = SUM) -> float:
    """PriME's U and P(s) from metrics: the chosen one or the sum of all, errors negated; larger is better."""
    chosen = values if metric == SUM else [metric]
    return sum(-values[name] if name in ERROR else values[name] for name in chosen)


class Source(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file that was read."""

    file: str
    sha256: str


class Interval(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A 95 % bootstrap interval, in the metric's unit."""

    low: float
    high: float


class Difference(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A system's metric minus the baseline's, on the same examples."""

    value: float
    interval: Interval
    p: Fraction
    """Two-sided; `methods.bootstrap` has the formula."""


class UserValues(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A system's metrics over one user's queries."""

    count: Count
    values: dict[str, float]


class SystemMetrics(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One predictions file; the dicts are by metric, `users` by user id."""

    predictions: Source
    model_label: str = ""
    values: dict[str, float]
    intervals: dict[str, Interval] = {}
    differences: dict[str, Difference] = {}
    """To the baseline; empty for the baseline itself and where nothing was resampled."""
    users: dict[str, UserValues] = {}


class Resampling(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the intervals were made."""

    unit: Literal["users", "examples"]
    units: Count
    resamples: Count
    seed: int


class Metrics(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="format",
    tag="perpcs.metrics/1",
):
    """An evaluation: systems side by side on the same examples."""

    task: str
    metrics: list[str]
    count: Count
    """Examples that every system was evaluated on."""
    user_count: Count
    """Users they belong to; 0 where the references do not name users."""
    left_out: Count
    """Examples left out because a prediction or a reference was missing; 0 without `--partial`."""
    references: Source
    baseline: str
    """The name of the system that the others are compared with."""
    systems: dict[str, SystemMetrics]
    resampling: Resampling | None
    """None where nothing was resampled."""
    provenance: Provenance


def read_metrics(path: Path) -> Metrics:
    """Read an evaluation. Raises DataError where it is broken or lacks its baseline or a metric."""
    metrics = typed_files.read_json(path, Metrics)
    if metrics.baseline not in metrics.systems:
        raise DataError(f"the baseline {metrics.baseline!r} is not among its systems", where=path)
    for name, system in metrics.systems.items():
        if set(system.values) != set(metrics.metrics):
            raise DataError(f"system {name!r} does not have the metrics {', '.join(metrics.metrics)}", where=path)
    return metrics
