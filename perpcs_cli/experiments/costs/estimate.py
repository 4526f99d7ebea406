"""What a sweep would need: its steps, each once, with tokens, memory, time and disk, and all that this rests on."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from perpcs_cli.artifacts.settings import Settings
from perpcs_cli.artifacts.sweep import Sweep, check_names
from perpcs_cli.errors import DataError
from perpcs_cli.experiments.costs.device_specs import RESERVE, SPARE, Device, ProfileName, published_device
from perpcs_cli.experiments.costs.model_shape import find_local, find_shape
from perpcs_cli.experiments.costs.planner import DRAFTED, Need, Planner, total
from perpcs_cli.experiments.costs.read_step import Asked, asked
from perpcs_cli.experiments.sweeps.grid import Flags, cells, check_flags
from perpcs_cli.experiments.sweeps.pipeline import Kit, pipeline
from perpcs_cli.steps.report import Report
from perpcs_cli.tasks.importing.import_users import load
from perpcs_cli.tasks.published_settings import published_settings
from perpcs_cli.tasks.published_statistics import SOURCE, TARGETS_OF
from perpcs_cli.tasks.spec import get_task

if TYPE_CHECKING:
    from perpcs_cli.experiments.costs.token_lengths import Participants
    from perpcs_cli.model.loading.tokenizer_info import Reads


@dataclass(frozen=True)
class Question:
    """What is to be estimated: a sweep, on a published device or, where `profile` is None, on this machine."""

    config: Path
    sweep: Sweep
    only: Collection[str]
    given: Mapping[str, Any]
    """Settings of the top over each cell's."""
    data: Sequence[Path] | None
    """To count tokens in; the config's where None."""
    profile: ProfileName | None


@dataclass(frozen=True)
class Estimate:
    """What each step needs and then the total, the device, and what the numbers rest on."""

    needs: list[Need]
    device: Device
    assumptions: list[str]


def estimate(question: Question, flags: Flags, report: Report) -> Estimate:
    """Estimate a sweep whose commands have `flags`. Nothing is downloaded; no model runs unless it is measured."""
    sweep = question.sweep
    check_names(question.only, [one.name for one in sweep.experiments], "experiment", "--experiment")
    steps = _steps(question, flags)
    settings = next(iter(steps.values()))[0].settings
    kind = dtype_of(settings, question.profile is None)
    reached, place = _device(settings, question.profile, kind, report)
    users = [Path(one) for one in question.data or sweep.data]
    if not question.data and users and not all(path.exists() for path in users):
        report.note(f"the config's data is not there: {', '.join(map(str, users))}")
        users = []
    reader = _reader(settings) if users else None
    needs = estimate_steps(sweep, settings, steps, users, reader, reached, place, kind)
    return Estimate(needs, reached, assumptions(sweep, get_task(settings.task).name, users, reader, reached, kind))


def _steps(question: Question, flags: Flags) -> dict[str, tuple[Asked, list[str]]]:
    """Every step of the sweep once, in the order in which they run, and the cells that share it."""
    sweep, given = question.sweep, dict(question.given)
    check_flags(sweep, flags, question.config)
    published = published_settings(str(given.pop("task", sweep.task)), sweep.paper, sweep.preset)
    kit = Kit(Path("plan"), (), "", published, {"model": sweep.model, **given}, flags)
    steps: dict[str, tuple[Asked, list[str]]] = {}
    for cell in cells(sweep):
        if question.only and cell.experiment not in question.only:
            continue
        for step in {one.digest: one for one in pipeline(cell, kit)}.values():
            if step.digest not in steps:
                steps[step.digest] = (asked(step, flags), [])
            steps[step.digest][1].append(str(cell))
    return steps


def dtype_of(settings: Settings, here: bool) -> str:
    """The number type that `auto` stands for, on this machine or on a GPU."""
    if settings.dtype != "auto" or not here:
        return "bfloat16" if settings.dtype == "auto" else settings.dtype
    from perpcs_cli.model.loading.identity import choose_device
    from perpcs_cli.model.loading.number_type import Widths, choose_dtype

    shape = find_shape(settings.model)
    found = choose_dtype("auto", choose_device(settings.device), Widths(shape.hidden, shape.intermediate))
    return str(found).removeprefix("torch.")


def _device(settings: Settings, profile: ProfileName | None, dtype: str, report: Report) -> tuple[Device, str]:
    """What the device reaches, and whether it is CUDA or a CPU."""
    if profile is not None:
        return published_device(profile, dtype), "cuda"
    began = time.perf_counter()
    import torch  # noqa: F401
    import transformers  # noqa: F401

    from perpcs_cli.experiments.costs.device_speed import measure
    from perpcs_cli.model.loading.base import load_base
    from perpcs_cli.model.loading.identity import identify

    imported = time.perf_counter()
    which = identify(settings.model, device=settings.device, dtype=settings.dtype, quantize=settings.quantize)
    base = load_base(which, targets=settings.lora.targets)
    loaded = time.perf_counter()
    report.note(f"measuring {settings.model} in {dtype} on {base.device}")
    shape = find_shape(settings.model)
    reached = measure(base, shape, settings.lora, start=imported - began, load=loaded - imported)
    return reached, base.device.type


def _reader(settings: Settings) -> Reads | None:
    """The model's tokenizer, where it is on this machine."""
    from perpcs_cli.model.loading.tokenizer_info import load_vocabulary

    directory = find_local(settings.model)
    if directory is None or not any((directory / name).exists() for name in ("tokenizer.json", "tokenizer.model")):
        return None
    return load_vocabulary(directory)


def estimate_steps(
    sweep: Sweep,
    settings: Settings,
    steps: dict[str, tuple[Asked, list[str]]],
    data: list[Path],
    reader: Reads | None,
    device: Device,
    place: str,
    dtype: str,
) -> list[Need]:
    """What each step needs, then the total."""
    from perpcs_cli.experiments.costs.token_lengths import Data, Typical, typical_users

    task = get_task(settings.task)
    users = {user.user_id: user for user in load(data, task).users} if data else {}
    if data and not users:
        raise DataError("the data holds no users", where=", ".join(map(str, data)))
    made: dict[str, Participants] = {}

    def participants(split: Asked) -> Participants:
        if split.step.digest not in made:
            flags = {
                name.removesuffix("-share").replace("-", "_"): split.flags[name]
                for name in ("base-share", "targets", "min-history")
                if name in split.flags
            }
            seed = int(split.flags.get("seed", settings.seed))
            made[split.step.digest] = (
                Data(users, task, reader, settings.max_length, seed, flags)
                if users
                else Typical(typical_users(task.name, sweep.plan), settings.max_length)
            )
        return made[split.step.digest]

    planner = Planner(participants, find_shape, dtype, place, device)
    needs = [planner.need(one, cells) for one, cells in steps.values()]
    return [*needs, total(needs, device)]


def assumptions(
    sweep: Sweep, task: str, data: list[Path], reader: Reads | None, device: Device, dtype: str
) -> list[str]:
    """What the numbers rest on, a line each."""
    from perpcs_cli.experiments.costs.token_lengths import COUNTED, SPREAD, TOKENS_PER_WORD, typical_users

    if not data:
        plan = msgspec.to_builtins(typical_users(task, sweep.plan))
        typical = ", ".join(f"{name} {value}" for name, value in plan.items())
        known = f", else as {SOURCE} says of {task}" if task in TARGETS_OF else ""
        counted = (
            f"no data: users as [plan] says{known} ({typical}), "
            f"prompts from {min(SPREAD)} to {max(SPREAD)} times the mean"
        )
    elif reader is None:
        counted = f"tokens are {TOKENS_PER_WORD} times the data's words: the model's tokenizer is not on this machine"
    else:
        counted = f"tokens are counted in the data; of more than {COUNTED} prompts of a step, in {COUNTED} drawn ones"
    return [
        counted,
        f"device: {device.name}, {dtype}; {device.source}",
        f"memory: {RESERVE:g} GiB of a GPU are the driver's and {SPARE:.0%} are lost in gaps; training peaks with the "
        "longest examples in one batch",
        f"decoding: answers are as long as the references; drafts know {DRAFTED:.0%} of PriME's, none of predict's",
        "sharers of clusters: the most active candidates stand for them, which have the longest histories",
        "embeddings: an encoder with plain MLPs; steps without a model have no time",
    ]
