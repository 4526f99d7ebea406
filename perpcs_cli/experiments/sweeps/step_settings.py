"""Flags of steps as settings: a flag and the same value in `perpcs.toml` are one thing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perpcs_cli.artifacts.settings import declared
from perpcs_cli.artifacts.sweep import Value
from perpcs_cli.errors import UsageError
from perpcs_cli.experiments.sweeps.grid import READS

ALPHAS = "each alpha is a cell of its own"


def as_settings(flags: Mapping[str, Value], name: str) -> tuple[dict[str, Any], dict[str, Value]]:
    """(the layer over the settings that a step's flags stand for, the flags that stand for none).

    A flag and the same value in `perpcs.toml` are one setting, so they must give one digest.
    """
    layer: dict[str, Any] = {}
    rest: dict[str, Value] = {}
    read = [one for one in declared().values() if one.path in READS[name] or one.section in READS[name]]
    for flag, value in flags.items():
        one = next((one for one in read if one.flag == flag), None)
        if one is None:
            rest[flag] = value
        elif one.section:
            layer.setdefault(one.section, {})[one.key] = _plain(one.path, value)
        else:
            layer[one.path] = value
    for section in ("adapt", "train", "gate"):
        # As on the command line: epochs that are given win over steps that are stored.
        if {"epochs", "steps"} & layer.get(section, {}).keys() == {"epochs"}:
            layer[section]["steps"] = None
    return layer, rest


def _plain(path: str, value: Value) -> Any:
    """What a flag's value is in `perpcs.toml`."""
    if path == "prime.alpha":
        if isinstance(value, str):
            raise UsageError(ALPHAS, where=path, hint="Give numbers: [0, 0.2, 1].")
        return [value]
    if path == "prime.bounds":
        try:
            ends = [float(end) for end in str(value).split(",")]
        except ValueError:
            raise UsageError(f"not numbers separated by commas: {value!r}", where=path) from None
        return [-ends[0], ends[0]] if len(ends) == 1 else ends
    return value
