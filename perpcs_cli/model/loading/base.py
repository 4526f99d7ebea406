"""Loading the base model: from safetensors only, with its task adapter merged."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from perpcs_cli.artifacts.adapter import Adapter
from perpcs_cli.errors import DataError, PerpcsError
from perpcs_cli.model.loading.checkpoint import load_checkpoint
from perpcs_cli.model.loading.four_bit import is_quantized, put_adapter, quantize
from perpcs_cli.model.loading.identity import Identity
from perpcs_cli.model.loading.tokenizer_info import longest_sequence, stop_tokens

ATTENTION = {"full_attention", "sliding_attention"}
"""The kinds of layers, as transformers calls them, that packed passes compute."""


@dataclass(frozen=True)
class Base:
    """A frozen decoder-only model ready to run, with what every other room needs to know of it."""

    identity: Identity
    model: Any
    tokenizer: Any
    targets: dict[str, nn.Linear]
    """The linear layers that carry pieces, in the order in which the model runs them."""
    context: int
    """Longest sequence that the model was made for, in tokens."""
    stop: tuple[int, ...]
    """End-of-sequence token ids; the first closes an answer in training."""

    @property
    def name(self) -> str:
        """As the settings name it."""
        return self.identity.name

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.identity.device

    @property
    def fingerprint(self) -> str:
        """Of the model with its task adapter."""
        return self.identity.fingerprint

    @property
    def dtype(self) -> torch.dtype:
        """Its numbers."""
        return self.identity.dtype

    @property
    def pad(self) -> int:
        """The token id that fills batches; it is always masked."""
        pad = self.tokenizer.pad_token_id
        embedded = pad is not None and pad < self.model.get_input_embeddings().num_embeddings
        return int(pad) if embedded else self.stop[0]

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
        return self.identity.describe()


def load_base(identity: Identity, *, targets: tuple[str, ...]) -> Base:
    """Load a model and merge its task adapter.

    Raises DataError for a model that is not whole or an adapter that does not fit, PerpcsError
    where the architecture has no such linear layers, or others that perpcs does not compute.
    """
    model, tokenizer = load_checkpoint(identity.directory, "model", identity.dtype)
    check_layers(model)
    if identity.quantize == "4bit":
        quantize(model, identity.device)
    model.to(identity.device)
    found = find_targets(model, targets)
    if identity.adapter:
        merge_adapter(model, identity.adapter)
    text = model.config.get_text_config(decoder=True)
    stop = stop_tokens(tokenizer, getattr(model, "generation_config", None), model.config, text)
    return Base(identity, model, tokenizer, found, longest_sequence(model.config), stop)


def with_task_adapter(base: Base, identity: Identity) -> Base:
    """`base`, which has none, as `load_base` would load it with the task adapter of `identity`, and beside it.

    They share the weights that the adapter does not change, so that both need little more memory than one. Raises
    DataError for an adapter that does not fit.
    """
    adapter = identity.adapter
    if adapter is None:
        return base
    modules = dict(base.model.named_modules())
    linears = [modules[name] for name in adapter.modules if name in modules]
    changed = {id(getattr(linear, "weight", None)) for linear in linears if not is_quantized(linear)}
    tensors = [*base.model.parameters(), *base.model.buffers()]
    model = copy.deepcopy(base.model, {id(one): one for one in tensors if id(one) not in changed})
    merge_adapter(model, adapter)
    targets = {name: model.get_submodule(name) for name in base.targets}
    return replace(base, identity=identity, model=model, targets=targets)


def check_layers(model: Any) -> None:
    """Raise PerpcsError, naming them, where the configuration says that layers do not attend as perpcs computes it.

    Others hold a state that goes from row to row in a packed pass, as Mamba's do, or see other tokens.
    """
    text = model.config.get_text_config(decoder=True)
    odd = sorted(set(getattr(text, "layer_types", None) or ()) - ATTENTION)
    if odd:
        raise PerpcsError(
            f"{type(model).__name__} has layers that perpcs does not compute: {', '.join(odd)}",
            hint="Use a model whose layers all have full or sliding-window attention.",
        )


def find_targets(model: Any, targets: tuple[str, ...]) -> dict[str, nn.Linear]:
    """The decoder's linear layers whose last name is in `targets`, in the model's order.

    Raises PerpcsError, naming what is there, where a target is missing or is no plain linear layer.
    """
    # A model that also sees or hears has layers of the same names in other parts.
    decoder = set(model.get_decoder().modules())
    inside = {name: module for name, module in model.named_modules() if module in decoder}
    found = {
        name: module
        for name, module in inside.items()
        if name.rsplit(".", 1)[-1] in targets and isinstance(module, nn.Linear)
    }
    missing = [t for t in targets if not any(name.rsplit(".", 1)[-1] == t for name in found)]
    if missing:
        leaves = {n.rsplit(".", 1)[-1]: type(m).__name__ for n, m in inside.items() if ".layers." in f".{n}"}
        leaves = leaves or {n.rsplit(".", 1)[-1]: type(m).__name__ for n, m in inside.items() if "." in n}
        shown = ", ".join(f"{n} ({kind})" for n, kind in sorted(leaves.items()) if not n.isdigit())
        raise PerpcsError(
            f"{type(model).__name__} has no linear layers named {', '.join(missing)}",
            hint=f"Its modules: {shown}. Set lora.targets in perpcs.toml to linear layers among them.",
        )
    return found


def merge_adapter(model: nn.Module, adapter: Adapter) -> None:
    """Add an adapter's update, scale · B A, to the model's own weights; computed in float32.

    In a quantized layer it stays beside them. Raises DataError for an adapter that does not fit.
    """
    merge_pieces(model, ((name, adapter.piece(name)) for name in adapter.modules), adapter.scale, where=adapter.path)


@torch.no_grad()
def merge_pieces(
    model: nn.Module, pieces: Iterable[tuple[str, tuple[Tensor, Tensor]]], scale: float, *, where: Path
) -> None:
    """The same of pieces (A [r, n], B [d, r]) by linear layer. Raises DataError where one has no place in the model."""
    modules = dict(model.named_modules())
    for name, (a, b) in pieces:
        linear = modules.get(name)
        if not isinstance(linear, nn.Linear):
            raise DataError(f"the adapter has a piece for {name!r}, which this model does not have", where=where)
        if (linear.out_features, linear.in_features) != (b.shape[0], a.shape[1]):
            raise DataError(
                f"the piece of {name!r} is for a {b.shape[0]} × {a.shape[1]} layer; the model's is "
                f"{linear.out_features} × {linear.in_features}",
                where=where,
            )
        if is_quantized(linear):
            put_adapter(linear, (a, b), scale)
            continue
        update = (b.float() @ a.float()) * scale
        weight = linear.weight
        weight.copy_((weight.float() + update.to(weight.device)).to(weight.dtype))


def save_model(base: Base, directory: Path) -> None:
    """Write the model as it is now, with its tokenizer, as a plain model directory."""
    base.model.save_pretrained(directory)
    base.tokenizer.save_pretrained(directory)
