"""Which model it is, before anything of it is loaded: its directory, device, number type and fingerprint."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from perpcs_cli.artifacts.adapter import Adapter, open_adapter
from perpcs_cli.artifacts.io import hashing, typed_files
from perpcs_cli.artifacts.io.tensors import open_tensors
from perpcs_cli.artifacts.settings import Quantize
from perpcs_cli.errors import DataError, PerpcsError, UsageError
from perpcs_cli.model.loading.fetch import resolve_model
from perpcs_cli.model.loading.four_bit import SCHEME, check_four_bit
from perpcs_cli.model.loading.number_type import choose_dtype, read_widths


@dataclass(frozen=True)
class Identity:
    """A model with its task adapter, where and in which numbers it will run."""

    name: str
    directory: Path
    adapter: Adapter | None
    device: torch.device
    dtype: torch.dtype
    fingerprint: str
    """Of the model, in 4 bits where it is quantized, and of what its task adapter adds."""
    quantize: Quantize = "none"

    def describe(self) -> dict[str, str]:
        """What changes results, for an artifact's provenance."""
        how = {"model": self.name, "dtype": str(self.dtype).removeprefix("torch."), "device": self.device.type}
        return how if self.quantize == "none" else {**how, "quantize": self.quantize}


def identify(
    name: str,
    task_adapter: str = "",
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantize: Quantize = "none",
    trains: bool = False,
) -> Identity:
    """Find a model by name, path or hub id, and its task adapter.

    With `trains` its number type is one to train in. Raises UsageError for a device or dtype that is not there,
    DataError for a model that is no safetensors model or an adapter that was trained on another one, and PerpcsError
    where it cannot be quantized.
    """
    place = choose_device(device)
    if quantize == "4bit":
        check_four_bit(place)
    directory = locate(name)
    plain = fingerprint_model(directory)
    kind = choose_dtype(dtype, place, read_widths(directory), trains=trains)
    quantized = hashing.digest_value([plain, SCHEME])
    fingerprint = quantized if quantize == "4bit" else plain
    adapter = open_adapter(Path(task_adapter)) if task_adapter else None
    if adapter:
        if adapter.base and adapter.base != fingerprint:
            other = {plain: "none", quantized: "4bit"}.get(adapter.base)
            whose = f"It belongs to {adapter.config.base_model_name_or_path!r}; this is {name!r}."
            raise DataError(
                "the task adapter was trained on another base model",
                where=task_adapter,
                hint=f"It was trained with --quantize {other}; this is --quantize {quantize}." if other else whose,
            )
        fingerprint = hashing.digest_value([fingerprint, adapter.digest()])
    return Identity(name, directory, adapter, place, kind, fingerprint, quantize)


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where it is there, else the CPU. Raises UsageError for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"the device {name!r} cannot be used: {reason}", where="--device") from None
    if device.type == "meta":
        raise UsageError("the device 'meta' computes nothing", where="--device")
    if device.type == "cuda":
        # Without room of its own for each stream, cuBLAS adds up in an order that changes from run to run.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # With a mask and 64, 192, 320 … tokens, its gradients can be NaN (pytorch/pytorch#196678).
        torch.backends.cuda.enable_cudnn_sdp(False)
    return device


def locate(name: str) -> Path:
    """The local directory of a model; a hub id is downloaded into the hub's cache, safetensors only."""
    found = resolve_model(name)
    if isinstance(found, Path):
        return found
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    patterns = ["*.json", "*.safetensors", "*.model", "*.jinja", "tokenizer*", "vocab.txt", "merges.txt"]
    try:
        return Path(snapshot_download(found, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PerpcsError(
            f"the model {name!r} is neither a local directory nor to be had from the hub: {reason}",
            hint="Give a directory, a name from `perpcs model list`, or check the network.",
        ) from None


VOLATILE = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache"}
"""Keys of configurations that say how a model was saved or is to be loaded."""
VOLATILE_TOKENIZER = {"name_or_path", "transformers_version", "backend", "is_local", "local_files_only"}
VOCABULARY = (
    *("tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt"),
    *("merges.txt", "added_tokens.json", "special_tokens_map.json"),
)
"""The files that a tokenizer may be made of, beside its configuration."""


def fingerprint_model(directory: Path) -> str:
    """SHA-256 over the configuration, the tokenizer with its chat template, the tokens at which generation stops, and
    the name, shape and samples of every tensor.

    Samples are 256 bytes at the start, the middle and the end of each tensor: any training changes them, and a
    model of many gigabytes is told apart in well under a second. Sharding does not matter.
    """
    config = typed_files.read_json(directory / "config.json", dict[str, Any])
    parts: dict[str, object] = {"config": {k: v for k, v in config.items() if k not in VOLATILE}}
    for name in VOCABULARY:
        if (directory / name).exists():
            parts[name] = hashing.digest_file(directory / name)
    tokenizer = _read(directory / "tokenizer_config.json")
    parts["tokenizer"] = {k: v for k, v in tokenizer.items() if k not in VOLATILE_TOKENIZER | {"chat_template"}}
    chat = directory / "chat_template.jinja"
    # Newer versions of transformers write it beside the configuration.
    parts["chat"] = hashing.digest_file(chat) if chat.exists() else _digest_chat(tokenizer.get("chat_template"))
    # Of how to generate, nothing else is looked at: the settings say it.
    parts["stop"] = _read(directory / "generation_config.json").get("eos_token_id")
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise DataError(
            "holds no safetensors file",
            where=directory,
            hint="Pickled weights (.bin, .pt) are never loaded; convert them to safetensors first.",
        )
    parts["tensors"] = {name: sample for file in files for name, sample in _samples(file)}
    return hashing.digest_value(parts)


def _read(path: Path) -> dict[str, Any]:
    """A configuration that need not be there."""
    return typed_files.read_json(path, dict[str, Any]) if path.exists() else {}


def _digest_chat(template: object) -> str | None:
    if template is None:
        return None
    return hashing.digest_bytes(template.encode()) if isinstance(template, str) else hashing.digest_value(template)


def _samples(path: Path) -> Iterator[tuple[str, str]]:
    open_tensors(path)  # Refuses what is no safetensors file or is cut off, so that the header can be trusted.
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
        read: Callable[[int, int], bytes] = lambda at, count: (file.seek(8 + size + at), file.read(count))[1]  # noqa: E731
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            start, end = entry["data_offsets"]
            count = min(256, end - start)
            blocks = [read(at, count) for at in (start, (start + end - count) // 2, end - count)]
            yield name, hashing.digest_bytes(json.dumps([entry["dtype"], entry["shape"]]).encode() + b"".join(blocks))
