"""`perpcs plan CONFIG`: what a sweep would need, before it runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import typer

from perpcs_cli.cli.options import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    OnlyOption,
    QuietOption,
    TaskOption,
    layer,
)

if TYPE_CHECKING:
    from perpcs_cli.artifacts.sweep import Sweep
    from perpcs_cli.artifacts.workspace import Settings
    from perpcs_cli.cli.console import Console
    from perpcs_cli.methods.crowd import Crowd
    from perpcs_cli.methods.devices import Device
    from perpcs_cli.methods.planning import Asked, Need
    from perpcs_cli.model.vocabulary import Reads

Profile = Literal["a100-80gb", "a100-40gb", "h100-80gb", "rtx-4090", "l4"]


def plan(
    config: Annotated[Path, typer.Argument(help="A config of `perpcs sweep`.", show_default=False)],
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", help="Directory or file to count tokens in; may be repeated. [default: the config's]"),
    ] = None,
    profile: Annotated[
        Profile, typer.Option("--device-profile", help="The GPU whose time is estimated.")
    ] = "a100-80gb",
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure this machine with the model, instead of --device-profile.")
    ] = False,
    only: OnlyOption = None,
    task: TaskOption = None,
    model: ModelOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Estimate a sweep's memory, time and disk.

    Lists the steps of the config's cells, each once: the tokens that the model processes, padding included, operations,
    memory at the peak and the smallest common GPU memory that suffices, time and disk. Tokens are counted in the data
    with the model's tokenizer where both are on this machine; else users are as the config's table [plan] says. Nothing
    is downloaded, and no model runs unless with --measure. All assumptions are printed.
    """
    from perpcs_cli.artifacts.sweep import check_names, read_sweep
    from perpcs_cli.cli.console import Console

    console = Console(json=json, quiet=quiet)
    sweep = read_sweep(config)
    check_names(only or [], [one.name for one in sweep.experiments], "experiment", "--only")
    given = layer({"task": task, "model": model, "device": device, "dtype": dtype})
    steps = _steps(sweep, config, only, given)
    settings = next(iter(steps.values()))[0].settings
    kind = dtype_of(settings, measure)
    reached, place = _device(settings, profile, kind, measure, console)
    users = [Path(one) for one in data or sweep.data]
    if not data and users and not all(path.exists() for path in users):
        console.note(f"the config's data is not there: {', '.join(map(str, users))}")
        users = []
    reader = _reader(settings) if users else None
    needs = estimate_steps(sweep, settings, steps, users, reader, reached, place, kind)
    notes = assumptions(sweep, users, reader, reached, kind)
    _show(needs, reached, notes, console)


def _steps(
    sweep: Sweep, config: Path, only: list[str] | None, given: dict[str, object]
) -> dict[str, tuple[Asked, list[str]]]:
    """Every step of the sweep once, in the order in which they run, and the cells that share it."""
    from perpcs_cli.cli.stepping import known_flags
    from perpcs_cli.methods.grid import cells, check_flags
    from perpcs_cli.methods.pipeline import Kit, pipeline
    from perpcs_cli.methods.planning import asked
    from perpcs_cli.tasks.presets import published_settings

    flags = known_flags()
    check_flags(sweep, flags, config)
    published = published_settings(str(given.pop("task", sweep.task)), sweep.preset)
    kit = Kit(Path("plan"), (), "", published, {"model": sweep.model, **given}, flags)
    steps: dict[str, tuple[Asked, list[str]]] = {}
    for cell in cells(sweep):
        if only and cell.experiment not in only:
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
    from perpcs_cli.model.base import choose_device, choose_dtype

    return str(choose_dtype("auto", choose_device(settings.device))).removeprefix("torch.")


def _device(settings: Settings, profile: Profile, dtype: str, here: bool, console: Console) -> tuple[Device, str]:
    """What the device reaches, and whether it is CUDA or a CPU."""
    from perpcs_cli.methods.devices import published_device

    if not here:
        return published_device(profile, dtype), "cuda"
    began = time.perf_counter()
    import torch  # noqa: F401
    import transformers  # noqa: F401

    from perpcs_cli.methods.measure import measure
    from perpcs_cli.model.base import load_base
    from perpcs_cli.model.shape import find_shape

    imported = time.perf_counter()
    base = load_base(settings.model, targets=settings.lora.targets, device=settings.device, dtype=settings.dtype)
    loaded = time.perf_counter()
    console.note(f"measuring {settings.model} in {dtype} on {base.device}")
    shape = find_shape(settings.model)
    reached = measure(base, shape, settings.lora, start=imported - began, load=loaded - imported)
    return reached, base.device.type


def _reader(settings: Settings) -> Reads | None:
    """The model's tokenizer, where it is on this machine."""
    from perpcs_cli.model.shape import find_local
    from perpcs_cli.model.vocabulary import load_vocabulary

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
    from perpcs_cli.errors import DataError
    from perpcs_cli.methods.crowd import Data, Typical
    from perpcs_cli.methods.planning import Planner, total
    from perpcs_cli.model.shape import find_shape
    from perpcs_cli.tasks.importing import load
    from perpcs_cli.tasks.spec import get_task

    task = get_task(settings.task)
    users = {user.user_id: user for user in load(data, task).users} if data else {}
    if data and not users:
        raise DataError("the data holds no users", where=", ".join(map(str, data)))
    made: dict[str, Crowd] = {}

    def crowd(split: Asked) -> Crowd:
        if split.step.digest not in made:
            flags = {
                name.replace("-", "_"): split.flags[name]
                for name in ("base", "targets", "min-history")
                if name in split.flags
            }
            seed = int(split.flags.get("seed", settings.seed))
            made[split.step.digest] = (
                Data(users, task, reader, settings.max_length, seed, flags)
                if users
                else Typical(sweep.plan, settings.max_length)
            )
        return made[split.step.digest]

    planner = Planner(crowd, find_shape, dtype, place, device)
    needs = [planner.need(one, cells) for one, cells in steps.values()]
    return [*needs, total(needs, device)]


def assumptions(sweep: Sweep, data: list[Path], reader: Reads | None, device: Device, dtype: str) -> list[str]:
    """What the numbers rest on, a line each."""
    from perpcs_cli.methods.crowd import COUNTED, SPREAD, TOKENS_PER_WORD
    from perpcs_cli.methods.devices import RESERVE, SPARE
    from perpcs_cli.methods.planning import DRAFTED

    if not data:
        typical = ", ".join(f"{name} {value}" for name, value in msgspec.to_builtins(sweep.plan).items())
        counted = (
            f"no data: users as [plan] says ({typical}), prompts from {min(SPREAD)} to {max(SPREAD)} times the mean"
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


def _show(needs: list[Need], device: Device, notes: list[str], console: Console) -> None:
    from perpcs_cli.cli.tables import Column, Table, render
    from perpcs_cli.methods.devices import GIB, SIZES, fits

    def enough(need: Need) -> str:
        return next((f"{size} GB" for size in SIZES if fits(need.peak, size)), "more") if need.peak else ""

    columns = (
        Column("step"),
        Column("of"),
        Column("users"),
        Column("tokens (M)", key="tokens_millions", digits=2),
        Column("TFLOP", key="teraflop", digits=1),
        Column("peak (GiB)", key="peak_gib", digits=1),
        Column("fits", key="fits"),
        Column("time (s)", key="seconds", digits=0),
        Column("disk (MB)", key="disk_megabytes", digits=1),
    )
    rows = [
        (
            need.step,
            need.of[0] if len(need.of) == 1 else f"{len(need.of)} cells",
            need.users,
            need.tokens / 1e6 if need.tokens else None,
            need.flops / 1e12 if need.tokens else None,
            need.peak / GIB if need.peak else None,
            enough(need),
            need.seconds,
            need.disk / 1e6,
        )
        for need in needs
    ]
    value: dict[str, Any] = {
        "steps": [{**msgspec.to_builtins(need), "peak": need.peak, "fits": enough(need)} for need in needs[:-1]],
        "total": {**msgspec.to_builtins(needs[-1]), "peak": needs[-1].peak, "fits": enough(needs[-1])},
        "device": device,
        "assumptions": notes,
    }
    text = render(Table(columns, [rows[:-1], rows[-1:]]), "table")
    console.result(value, text + "\n" + "\n".join(f"- {note}" for note in notes))
