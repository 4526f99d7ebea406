"""The cells of a sweep: each method of an experiment with each combination of the values of its axes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from perpcs_cli.artifacts.sweep import Experiment, Method, Sweep, Value, check_names, flat
from perpcs_cli.errors import UsageError

SHARERS = ("import", "split", "profile", "adapt", "embed", "select", "train-sharer", "pool")
STEPS_OF: dict[Method, tuple[str, ...]] = {
    "base": ("import", "split", "profile", "predict"),
    "adapted": ("import", "split", "profile", "adapt", "predict"),
    "retrieval": (*SHARERS, "retrieve", "predict"),
    "per-pcs": (*SHARERS, "gate", "assemble", "predict"),
    "prime": (*SHARERS, "prime", "predict"),
    # The flags of train-sharer are oppu's unless it has its own.
    "oppu": ("import", "split", "profile", "adapt", "train-sharer", "oppu", "predict"),
}
"""The steps whose flags a method's predictions can depend on."""

BASE = ("task", "model", "device", "dtype", "quantize", "max_length", "white_space", "lora.targets")
READS: dict[str, tuple[str, ...]] = {
    "import": ("task",),
    "split": (),
    "profile": (*BASE, "profile"),
    "adapt": (*BASE, "adapt", "lora"),
    "embed": ("task", "device", "dtype", "white_space", "embed"),
    "select": ("task", "select"),
    "train-sharer": (*BASE, "train", "lora"),
    "gate": (*BASE, "gate"),
    "pool": (),
    "assemble": (*BASE, "assemble"),
    "retrieve": ("task", "prime.similar", "prime.merge"),
    "prime": (*BASE, "prime", "predict"),
    "oppu": (*BASE, "train", "lora"),
    "predict": (*BASE, "predict"),
}
"""The settings that each step reads: keys of `perpcs.toml`, or sections of it."""


@dataclass(frozen=True)
class Cell:
    """A method with one value for each of the axes that concern it."""

    experiment: str
    method: Method
    seed: int
    settings: dict[str, Value]
    """The axes' values, by `STEP.FLAG` or `settings.SECTION.KEY`."""
    flags: dict[str, dict[str, Value]]
    """All flags by step: the sweep's, then the axes'."""
    layer: dict[str, Any]
    """The layer over the published settings: the sweep's, then the axes'."""

    @property
    def common(self) -> dict[str, Any]:
        """What the sweep sets for all cells and this one's predictions can depend on, by the names of axes."""
        flags = {f"{step}.{flag}": value for step, given in self.flags.items() for flag, value in given.items()}
        layer = {f"settings.{path}": value for path, value in flat(self.layer).items()}
        return {
            axis: value
            for axis, value in {**flags, **layer}.items()
            if axis not in self.settings and concerns(axis, self.method)
        }

    def __str__(self) -> str:
        """The cell in a few words, for people."""
        values = [f"{name}={spelled(value)}" for name, value in self.settings.items()]
        return " ".join([self.experiment, self.method, f"seed={self.seed}", *values])


def spelled(value: Value) -> str:
    """A value as TOML and the command line have it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def cells(sweep: Sweep) -> list[Cell]:
    """Every cell of a sweep: all experiments for the first seed, then for the next.

    The last axis runs fastest. An axis counts only for the methods whose steps it concerns. Raises UsageError for an
    axis that concerns no method of its experiment.
    """
    for experiment in sweep.experiments:
        for axis in experiment.axes:
            if not any(concerns(axis, method) for method in experiment.methods):
                methods = ", ".join(experiment.methods)
                raise UsageError(f"no step of {methods} reads it", where=f"experiment {experiment.name!r}, {axis}")
    return [
        _cell(sweep, experiment, method, seed, dict(zip(axes, values, strict=True)))
        for seed in sweep.seeds
        for experiment in sweep.experiments
        for method in experiment.methods
        for axes in [_axes(experiment, method)]
        for values in product(*axes.values())
    ]


def concerns(axis: str, method: Method) -> bool:
    """Whether the predictions of a method can depend on an axis."""
    step, _, flag = axis.partition(".")
    if step != "settings":
        return step in STEPS_OF[method]
    return any(covers(path, flag) for one in STEPS_OF[method] for path in READS[one])


def covers(path: str, key: str) -> bool:
    """Whether a section or key of `perpcs.toml` holds another one or is it."""
    return key == path or key.startswith(f"{path}.") or path.startswith(f"{key}.")


def _axes(experiment: Experiment, method: Method) -> dict[str, tuple[Value, ...]]:
    return {axis: values for axis, values in experiment.axes.items() if concerns(axis, method)}


def _cell(sweep: Sweep, experiment: Experiment, method: Method, seed: int, settings: dict[str, Value]) -> Cell:
    flags = {step: dict(given) for step, given in sweep.steps.items()}
    layer: dict[str, Any] = {
        key: dict(value) if isinstance(value, dict) else value for key, value in sweep.settings.items()
    }
    for axis, value in settings.items():
        step, _, flag = axis.partition(".")
        if step == "settings":
            section, _, key = flag.partition(".")
            inner = layer.get(section, {}) if key else {}
            if not isinstance(inner, dict):
                raise UsageError(
                    f"{section} is a table, as {{ {key} = {spelled(value)} }}, not {inner!r}", where="[settings]"
                )
            layer = {**layer, section: {**inner, key: value} if key else value}
        else:
            flags.setdefault(step, {})[flag] = value
    return Cell(experiment.name, method, seed, settings, flags, layer)


@dataclass(frozen=True)
class Flag:
    """A flag of a command as a config may give it, its name without the dashes."""

    name: str
    default: Value | None
    """None where it comes from the settings or there is none."""
    switch: bool
    """It takes no value."""
    off: str = ""
    """What turns a switch off, as `no-sample`; empty where nothing does."""


Flags = Mapping[str, Mapping[str, Flag]]
"""The flags of each step by name."""

PLACED = frozenset(
    {
        *("workspace", "users-file", "user", "users", "shard", "base-users", "task", "task-adapter", "model"),
        *("embeddings", "pool", "recipes", "own", "adapter", "sharer", "traces", "out", "name", "record"),
        *("no-gates", "pareto", "save-merged", "force", "dry-run", "json", "quiet"),
    }
)
"""Flags that the sweep gives itself, and those that would only write something beside."""
PLACED_OF = frozenset(
    {
        ("embed", "what"),
        ("gate", "sharers"),
        ("predict", "base"),
        *(("pool", flag) for flag in ("sharers", "pseudonymize", "no-embeddings")),
    }
)
FREE = frozenset({("profile", "model")})
"""Another model may write the profiles."""


def check_flags(sweep: Sweep, known: Flags, where: object) -> None:
    """Raise UsageError for the first flag of a config that its step does not have or that the sweep gives itself."""
    given = [("[steps]", step, flag) for step, flags in sweep.steps.items() for flag in flags]
    given += [
        (f"experiment {experiment.name!r}", axis.partition(".")[0], axis.partition(".")[2])
        for experiment in sweep.experiments
        for axis in experiment.axes
        if not axis.startswith("settings.")
    ]
    for place, step, flag in given:
        spot = f"{where}, {place}, {step}.{flag}"
        if (flag in PLACED and (step, flag) not in FREE) or (step, flag) in PLACED_OF:
            raise UsageError("the sweep gives this flag itself", where=spot)
        check_names([flag], list(known[step]), f"flag of {step}:", spot)
