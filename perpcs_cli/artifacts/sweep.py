"""The config of `perpcs sweep`: TOML that names a task, a model, data, and grids of settings for each method."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from perpcs_cli.artifacts.io import typed_files
from perpcs_cli.artifacts.settings import Paper, Preset
from perpcs_cli.errors import UsageError

FORMAT = "perpcs.sweep/1"
CELLS = 100_000
"""The most combinations of one experiment."""

Method = Literal["base", "adapted", "retrieval", "per-pcs", "prime", "oppu"]
METHODS: tuple[str, ...] = get_args(Method)

StepName = Literal[
    "import",
    "split",
    "profile",
    "adapt",
    "embed",
    "select",
    "train-sharer",
    "gate",
    "pool",
    "assemble",
    "retrieve",
    "prime",
    "oppu",
    "predict",
]
STEPS: tuple[str, ...] = get_args(StepName)
"""In the order in which they run. `oppu` is `train-sharer` on the targets, `pool` is `pool build`."""

Value = bool | int | float | str
"""What a flag is given."""


class Experiment(msgspec.Struct, frozen=True, kw_only=True):
    """A grid: every method with every combination of the values of the axes."""

    name: str
    methods: tuple[Method, ...]
    axes: dict[str, tuple[Value, ...]] = {}
    """`STEP.FLAG` or `settings.SECTION.KEY` → its values; a single value is an axis of one."""


class PlanSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Typical users, from whom `perpcs plan` estimates where there is no data. Tokens are means over all users.

    The defaults are for tasks without published statistics.
    """

    base_users: int = 100
    targets: int = 100
    candidates: int = 200
    items: int = 100
    """History items of a user."""
    target_items: int = 100
    """History items of a target."""
    queries: int = 1
    """Queries of a target or a base user."""
    prompt_tokens: int = 250
    """A plain prompt, without its answer."""
    retrieved_tokens: int = 150
    """A history item that is shown in a prompt."""
    answer_tokens: int = 10
    """An answer, with the end of sequence."""


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """A config as it was read and checked; flags are checked by the commands that have them."""

    task: str
    """A task's name, or the file of an own one: absolute, or relative like `data`."""
    model: str
    paper: Paper = "per-pcs"
    preset: Preset = "perpcs"
    data: tuple[str, ...] = ()
    """Directories or files for `perpcs import`: absolute, or relative to the config's directory, which is in front."""
    seeds: tuple[int, ...] = (0,)
    settings: dict[str, Any] = {}
    """A layer over the published settings, as `perpcs.toml` has them."""
    steps: dict[str, dict[str, Value]] = {}
    """The flags of each step that is named, without the dashes; a step may be named without flags."""
    experiments: tuple[Experiment, ...]
    plan: dict[str, int] = {}
    """What it says of typical users, by the fields of `PlanSettings`."""


class _Raw(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    task: str
    model: str
    paper: Paper = "per-pcs"
    preset: Preset = "perpcs"
    data: str | list[str] = []
    seed: int | None = None
    seeds: list[int] | None = None
    settings: dict[str, Any] = {}
    steps: dict[str, Any] = {}
    experiment: list[dict[str, Any]] = []
    plan: PlanSettings = PlanSettings()


def read_sweep(path: Path) -> Sweep:
    """Read and check a config. Raises DataError where it cannot be read, and UsageError that names what is unknown."""
    content = typed_files.read_toml(path, FORMAT)
    del content["format"]
    check_names(content, _Raw.__struct_fields__, "key", path)
    try:
        raw = msgspec.convert(content, _Raw)
    except msgspec.ValidationError as error:
        raise UsageError(str(error), where=path) from None
    if raw.seed is not None and raw.seeds is not None:
        raise UsageError("gives both seed and seeds", where=path)
    seeds = [raw.seed or 0] if raw.seeds is None else raw.seeds
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise UsageError(f"seeds are one or more different numbers from 0, not {seeds}", where=path)
    _refuse_top(raw.settings, path)
    if not raw.experiment:
        raise UsageError("has no experiment", where=path, hint="Add a table [[experiment]] with name and method.")
    experiments = tuple(_experiment(table, number, path) for number, table in enumerate(raw.experiment, start=1))
    names = [one.name for one in experiments]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"two experiments have the name {twice[0]!r}", where=path)
    return Sweep(
        task=str(path.parent / raw.task) if raw.task.endswith(".toml") else raw.task,
        model=raw.model,
        paper=raw.paper,
        preset=raw.preset,
        data=tuple(str(path.parent / one) for one in ([raw.data] if isinstance(raw.data, str) else raw.data)),
        seeds=tuple(seeds),
        settings=raw.settings,
        steps={step: _flags(step, flags, f"{path}, [steps]") for step, flags in raw.steps.items()},
        experiments=experiments,
        plan={name: number for name, number in _checked(raw.plan, path).items() if name in content.get("plan", {})},
    )


def _refuse_top(settings: Collection[str], where: object) -> None:
    """Raise UsageError for what is no setting of a step: it would be overridden, or mix two tasks."""
    top = [key for key in ("task", "model", "paper", "preset", "seed", "task_adapter") if key in settings]
    if top:
        hint = "`adapt` makes the task adapter." if top[0] == "task_adapter" else f"Give {top[0]} at the top."
        raise UsageError(f"{top[0]} is not for settings", where=where, hint=hint)


def _checked(plan: PlanSettings, path: Path) -> dict[str, int]:
    numbers: dict[str, int] = msgspec.structs.asdict(plan)
    if wrong := [name for name, number in numbers.items() if number < (0 if name in ("base_users", "queries") else 1)]:
        raise UsageError(f"plan.{wrong[0]} is too small: {numbers[wrong[0]]}", where=path)
    return numbers


def check_names(given: Collection[str], known: Collection[str], what: str, where: object) -> None:
    """Raise UsageError for the first name that is not known, with the nearest one that is."""
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known are {', '.join(known)}."
            raise UsageError(f"unknown {what} {name!r}", where=where, hint=hint)


def _flags(step: str, flags: object, where: str) -> dict[str, Value]:
    check_names([step], STEPS, "step", where)
    if not isinstance(flags, dict):
        raise UsageError(f"the flags of {step} are a table, as {{ max-examples = 96 }}, not {flags!r}", where=where)
    return {flag: _value(value, f"{where}, {step}.{flag}") for flag, value in flags.items()}


def _experiment(table: Mapping[str, Any], number: int, path: Path) -> Experiment:
    name = table.get("name")
    if not isinstance(name, str) or not name.strip():
        raise UsageError("an experiment has a name", where=f"{path}, experiment {number}")
    where = f"{path}, experiment {name!r}"
    methods = table.get("method")
    methods = [methods] if isinstance(methods, str) else methods
    if not isinstance(methods, list) or not methods or len(set(map(str, methods))) < len(methods):
        raise UsageError("method is a name or a list of different names", where=where)
    check_names([str(method) for method in methods], METHODS, "method", where)
    axes: dict[str, tuple[Value, ...]] = {}
    for step, flags in table.items():
        if step in ("name", "method"):
            continue
        check_names([step], [*STEPS, "settings"], "step or key", where)
        if not isinstance(flags, dict):
            raise UsageError(f"{step} is a table, as {{ top-k = [1, 2] }}, not {flags!r}", where=where)
        if step == "settings":
            flags = flat(flags)
            _refuse_top(flags, where)
        for flag, values in flags.items():
            place = f"{where}, {step}.{flag}"
            several = values if isinstance(values, list) else [values]
            if not several:
                raise UsageError("has no values", where=place)
            axis = tuple(_value(value, place) for value in several)
            if len({(type(value), value) for value in axis}) < len(axis):
                raise UsageError("has a value twice", where=place)
            axes[f"{step}.{flag}"] = axis
    if math.prod(map(len, axes.values())) > CELLS:
        raise UsageError(f"has more than {CELLS} combinations", where=where)
    return Experiment(name=name, methods=tuple(methods), axes=axes)


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"assemble": {"recent": 8}} and {"assemble.recent": 8} → {"assemble.recent": 8}."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def _value(value: object, where: str) -> Value:
    if not isinstance(value, bool | int | float | str) or (isinstance(value, float) and not math.isfinite(value)):
        raise UsageError(f"must be a number, text, true or false, and is {value!r}", where=where)
    return value
