"""Loading the base model: from safetensors only, with its task adapter merged, and with a fingerprint."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from perpcs_cli.artifacts import store
from perpcs_cli.artifacts.adapter import Adapter, open_adapter
from perpcs_cli.artifacts.tensors import open_tensors
from perpcs_cli.errors import DataError, PerpcsError, UsageError
from perpcs_cli.model.vocabulary import longest_sequence, stop_tokens
from perpcs_cli.model.zoo import resolve_model

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Base:
    """A frozen decoder-only model ready to run, with what every other room needs to know of it."""

    name: str
    model: Any
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    fingerprint: str
    targets: dict[str, nn.Linear]
    """The linear layers that carry pieces, in the order in which the model runs them."""
    context: int
    """Longest sequence that the model was made for, in tokens."""
    stop: tuple[int, ...]
    """End-of-sequence token ids; the first closes an answer in training."""

    @property
    def pad(self) -> int:
        """The token id that fills batches; it is always masked."""
        pad = self.tokenizer.pad_token_id
        return int(pad) if pad is not None else self.stop[0]

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """(d, n) of each target layer, its outputs and inputs."""
        return {name: (linear.out_features, linear.in_features) for name, linear in self.targets.items()}

    def wait(self) -> None:
        """Wait until the device has done what it was asked for, so that a clock tells the truth."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def describe(self) -> dict[str, str]:
        """What changes results, for an artifact's provenance."""
        return {"model": self.name, "dtype": str(self.dtype).removeprefix("torch."), "device": self.device.type}


def load_base(
    name: str,
    *,
    targets: tuple[str, ...],
    task_adapter: str = "",
    device: str = "auto",
    dtype: str = "auto",
) -> Base:
    """Load a model by name, path or hub id and merge its task adapter.

    Raises UsageError for a device or dtype that is not there, DataError for a model that cannot be loaded from
    safetensors or an adapter that does not fit, PerpcsError where the architecture has no such linear layers.
    """
    place = choose_device(device)
    kind = choose_dtype(dtype, place)
    directory = locate(name)
    fingerprint = fingerprint_model(directory)
    model, tokenizer = _load(directory, kind)
    model.requires_grad_(False).eval().to(place)
    if broken := next((name for name, weight in model.named_parameters() if not weight.isfinite().all()), None):
        raise DataError(
            f"the model's weight {broken!r} holds NaN or infinity",
            where=directory,
            hint="Fetch the model again; if it is whole, its values may be too large for this --dtype.",
        )
    found = find_targets(model, targets)
    if task_adapter:
        adapter = open_adapter(Path(task_adapter))
        if adapter.base and adapter.base != fingerprint:
            raise DataError(
                "the task adapter was trained on another base model",
                where=task_adapter,
                hint=f"It belongs to {adapter.config.base_model_name_or_path!r}; this is {name!r}.",
            )
        merge_adapter(model, adapter)
        fingerprint = store.digest_value([fingerprint, adapter.digest()])
    stop = stop_tokens(tokenizer, getattr(model, "generation_config", None), model.config)
    return Base(name, model, tokenizer, place, kind, fingerprint, found, longest_sequence(model.config), stop)


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
        torch.use_deterministic_algorithms(True, warn_only=True)
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where the device computes in it, else float32."""
    if name == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
        fast = device.type == "cpu" and getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
        return torch.bfloat16 if fast else torch.float32
    if name not in DTYPES:
        raise UsageError(f"no such dtype: {name!r}", where="--dtype", hint=f"There are auto, {', '.join(DTYPES)}.")
    return DTYPES[name]


def locate(name: str) -> Path:
    """The local directory of a model; a hub id is downloaded into the hub's cache, safetensors only."""
    found = resolve_model(name)
    if isinstance(found, Path):
        return found
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    patterns = ["*.json", "*.safetensors", "*.model", "*.jinja", "tokenizer*"]
    try:
        return Path(snapshot_download(found, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PerpcsError(
            f"the model {name!r} is neither a local directory nor to be had from the hub: {reason}",
            hint="Give a directory, a name from `perpcs model list`, or check the network.",
        ) from None


def _load(directory: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            directory, dtype=dtype, use_safetensors=True, local_files_only=True
        )
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise DataError(f"the model cannot be loaded: {str(error).splitlines()[0]}", where=directory) from None
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        raise DataError(f"the model's weights are broken: {error}", where=directory) from None
    return model, tokenizer


def find_targets(model: nn.Module, targets: tuple[str, ...]) -> dict[str, nn.Linear]:
    """The linear layers whose last name is in `targets`, in the model's order.

    Raises PerpcsError, naming what is there, where a target is missing or is no plain linear layer.
    """
    found = {
        name: module
        for name, module in model.named_modules()
        if name.rsplit(".", 1)[-1] in targets and isinstance(module, nn.Linear)
    }
    missing = [t for t in targets if not any(name.rsplit(".", 1)[-1] == t for name in found)]
    if missing:
        leaves = {n.rsplit(".", 1)[-1]: type(m).__name__ for n, m in model.named_modules() if ".layers." in f".{n}"}
        leaves = leaves or {n.rsplit(".", 1)[-1]: type(m).__name__ for n, m in model.named_modules() if "." in n}
        shown = ", ".join(f"{n} ({kind})" for n, kind in sorted(leaves.items()) if not n.isdigit())
        raise PerpcsError(
            f"{type(model).__name__} has no linear layers named {', '.join(missing)}",
            hint=f"Its modules: {shown}. Set lora.targets in perpcs.toml to linear layers among them.",
        )
    return found


@torch.no_grad()
def merge_adapter(model: nn.Module, adapter: Adapter) -> None:
    """Add an adapter's update, scale · B A, to the model's own weights; computed in float32."""
    modules = dict(model.named_modules())
    for name in adapter.modules:
        linear = modules.get(name)
        if not isinstance(linear, nn.Linear):
            raise DataError(f"the adapter has a piece for {name!r}, which this model does not have", where=adapter.path)
        a, b = adapter.piece(name)
        if tuple(linear.weight.shape) != (b.shape[0], a.shape[1]):
            raise DataError(
                f"the piece of {name!r} is for a {b.shape[0]} × {a.shape[1]} layer; the model's is "
                f"{linear.weight.shape[0]} × {linear.weight.shape[1]}",
                where=adapter.path,
            )
        update = (b.float() @ a.float()) * adapter.scale
        weight = linear.weight
        weight.copy_((weight.float() + update.to(weight.device)).to(weight.dtype))


VOLATILE = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache"}


def fingerprint_model(directory: Path) -> str:
    """SHA-256 over the configuration, the tokenizer, and the name, shape and samples of every tensor.

    Samples are 256 bytes at the start, the middle and the end of each tensor: any training changes them, and a
    model of many gigabytes is told apart in well under a second. Sharding does not matter.
    """
    config = store.read_json(directory / "config.json", dict[str, Any])
    parts: dict[str, object] = {"config": {k: v for k, v in config.items() if k not in VOLATILE}}
    for name in ("tokenizer.json", "tokenizer.model"):
        if (directory / name).exists():
            parts[name] = store.digest_file(directory / name)
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise DataError(
            "holds no safetensors file",
            where=directory,
            hint="Pickled weights (.bin, .pt) are never loaded; convert them to safetensors first.",
        )
    parts["tensors"] = {name: sample for file in files for name, sample in _samples(file)}
    return store.digest_value(parts)


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
            yield name, store.digest_bytes(json.dumps([entry["dtype"], entry["shape"]]).encode() + b"".join(blocks))
