"""What this installation and this machine are like, to be read when something does not work: nothing is changed.

Nothing secret is in it: of variables only those of perpcs and a few others, of paths no home directory.
"""

from __future__ import annotations

import os
import platform
import sys
import threading
from collections.abc import Mapping
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from perpcs_cli import __version__
from perpcs_cli.artifacts.caches import cache_directory
from perpcs_cli.artifacts.settings import declared
from perpcs_cli.errors import PerpcsError
from perpcs_cli.steps.workspace import Places, open_workspace

if TYPE_CHECKING:
    import torch
    from packaging.requirements import Requirement

HUB_SECONDS = 2.0
OTHERS = ("CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "OMP_NUM_THREADS", "PYTHONHASHSEED")
"""Variables of others that change what perpcs does, and hold no secret."""
OWN = ("PERPCS_CACHE", "PERPCS_DEBUG", "PERPCS_WORKSPACE")
"""perpcs' variables that are no settings."""
UNKNOWN = "no variable of perpcs"
"""Shown instead of the value of one that it does not know."""


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """A distribution that perpcs needs."""

    name: str
    needs: str
    """The versions that will do."""
    installed: str | None
    fits: bool


class Extra(msgspec.Struct, frozen=True, kw_only=True):
    """An extra of perpcs, and what of it is not there, or not as it should be."""

    name: str
    missing: list[str]
    install: str


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A processor or GPU, its memory in bytes (0 where it does not tell), and what number types are worth on it."""

    name: str
    kind: str
    memory: int
    free: int
    cores: int | None = None
    threads: int | None = None
    """That torch uses."""
    seconds: dict[str, float] = {}
    """Number type → seconds of the same matrix products."""
    auto: str | None = None
    """What `--dtype auto` stands for; in training, where that differs, `auto_trains`."""
    auto_trains: str | None = None


class Cache(msgspec.Struct, frozen=True, kw_only=True):
    """What perpcs keeps for later, in bytes, by its directories; and the models fetched."""

    path: str
    bytes: int
    parts: dict[str, int]
    models: list[str]


class Hub(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the model hub may be, and can be, reached."""

    offline: bool
    answers: bool
    why: str


class Here(msgspec.Struct, frozen=True, kw_only=True):
    """The workspace, if there is one."""

    path: str
    task: str = ""
    model: str = ""
    problem: str = ""


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """All that was found."""

    perpcs: str
    python: str
    platform: str
    packages: list[Package]
    extras: list[Extra]
    devices: list[Device]
    cache: Cache
    hub: Hub
    variables: dict[str, str]
    workspace: Here | None


def examine(places: Places, environment: Mapping[str, str] = os.environ) -> Findings:
    """Look at everything. What cannot be told is left empty, and no error."""
    needed, extras = _requirements()
    return Findings(
        perpcs=__version__,
        python=f"{platform.python_version()} {platform.python_implementation()}",
        platform=platform.platform(),
        packages=[_package(one) for one in needed],
        extras=[
            Extra(
                name=name,
                missing=[found.name for found in map(_package, some) if not found.fits],
                install=f"pip install 'perpcs[{name}]'",
            )
            for name, some in extras.items()
        ],
        devices=_devices(),
        cache=_cache(),
        hub=_hub(),
        variables=_variables(environment),
        workspace=_workspace(places),
    )


def _requirements() -> tuple[list[Requirement], dict[str, list[Requirement]]]:
    """(what every installation needs, what each extra adds), as the installed perpcs declares it."""
    from packaging.requirements import Requirement

    own = _installed("perpcs")
    if own is None:
        return [], {}
    found = [Requirement(line) for line in own.requires or []]
    names = [name for name in own.metadata.get_all("Provides-Extra") or [] if name != "dev"]
    needed = [one for one in found if one.marker is None or one.marker.evaluate({"extra": ""})]
    return needed, {
        name: [one for one in found if one not in needed and one.marker and one.marker.evaluate({"extra": name})]
        for name in names
    }


@cache
def _installed(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def _package(wanted: Requirement) -> Package:
    found = _installed(wanted.name)
    version = found.version if found else None
    fits = version is not None and wanted.specifier.contains(version, prereleases=True)
    return Package(name=wanted.name, needs=str(wanted.specifier), installed=version, fits=fits)


def _devices() -> list[Device]:
    import torch

    found = [torch.device("cpu")]
    found += [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return [_device(one) for one in found]


def _device(device: torch.device) -> Device:
    import torch

    from perpcs_cli.model.engine.memory import free_bytes, total_bytes
    from perpcs_cli.model.loading.number_type import speeds

    try:
        measured = speeds(device)
        name, seconds = measured.device, {str(key): value for key, value in measured.seconds.items()}
        auto = {"auto": measured.best(), "auto_trains": measured.best(trains=True)}
    except RuntimeError as error:
        # A device that is there and does not work.
        name, seconds, auto = f"{device}: {str(error).splitlines()[0]}", {}, {}
    cpu = {"cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()}
    return Device(
        name=name,
        kind=str(device),
        memory=total_bytes(device),
        free=free_bytes(device),
        seconds=seconds,
        **auto,  # type: ignore[arg-type]
        **({**cpu, "threads": torch.get_num_threads()} if device.type == "cpu" else {}),  # type: ignore[arg-type]
    )


def _cache() -> Cache:
    from perpcs_cli.model.loading.catalogue import CATALOGUE
    from perpcs_cli.model.loading.fetch import is_fetched

    root = cache_directory()
    try:
        parts = {path.name: _bytes(path) for path in sorted(root.iterdir())} if root.is_dir() else {}
    except OSError:
        parts = {}
    return Cache(
        path=_homeless(str(root)),
        bytes=sum(parts.values()),
        parts=parts,
        models=[name for name in CATALOGUE if is_fetched(name)],
    )


def _bytes(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def _hub() -> Hub:
    """Ask the hub for an answer of any kind. Name servers keep no time, so the asking is left alone after a while."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

    if constants.HF_HUB_OFFLINE:
        return Hub(offline=True, answers=False, why="HF_HUB_OFFLINE is set")
    heard: list[str] = []

    def ask() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
            heard.append("")
        except Exception as error:  # the client raises its transport's errors, which differ between versions
            heard.append(type(error).__name__)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(HUB_SECONDS)
    why = heard[0] if heard else f"no answer within {HUB_SECONDS:g} s"
    return Hub(offline=False, answers=not why, why=why)


def _variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Those that are in force; of one that perpcs does not know its name alone."""
    known = {one.variable for one in declared().values()} | {*OWN, *OTHERS}
    names = sorted(name for name in environment if name.startswith("PERPCS_") or name in OTHERS)
    return {name: _homeless(environment[name]) if name in known else UNKNOWN for name in names}


def _workspace(places: Places) -> Here | None:
    if not places.settings_file.exists():
        return None
    path = _homeless(str(places.root.resolve()))
    try:
        settings = open_workspace(places.root).settings
    except PerpcsError as error:
        return Here(path=path, problem=_homeless(str(error)))
    return Here(path=path, task=_homeless(settings.task), model=_homeless(settings.model))


def _homeless(text: str) -> str:
    """Without the name of the user whose home it is in."""
    home = str(Path.home()) if "HOME" in os.environ or sys.platform == "win32" else ""
    return text.replace(home, "~") if len(home) > 1 else text
