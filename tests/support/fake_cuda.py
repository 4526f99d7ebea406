"""A CUDA device without one: torch's fake tensors have shapes, types and devices, but no numbers.

What would make the host wait for the device raises, and so does what mixes devices. `transfers.fetch` alone may bring
numbers back; here it makes some up, of the right shape.

Two things cannot be had in a build of torch without CUDA: its engine of backward passes, which wants a thread for each
device that there is, so that `gradients` goes through the same operations from Python; and the device's generators, so
that no dropout is drawn. What runs in other threads is not fake.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from perpcs_cli.model import transfers
from perpcs_cli.model.loading.base import Base, find_targets
from perpcs_cli.model.loading.identity import Identity

CUDA = torch.device("cuda", 0)
EVERYWHERE = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TOKEN = 5
"""What every fetched choice is."""
FREE = {"aten::_unsafe_view", "aten::detach", "aten::empty", "aten::new_empty", "aten::lift_fresh", "aten::empty_like"}
"""Operators that start no kernel and are no views by their schema."""

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama-2-7B": (
        "LlamaForCausalLM",
        {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "vocab_size": 32000},
    ),
    "Llama-3.1-8B": (
        "LlamaForCausalLM",
        {
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "vocab_size": 128256,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
            "max_position_embeddings": 131072,
        },
    ),
    "Qwen3-8B": (
        "Qwen3ForCausalLM",
        {
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 151936,
        },
    ),
    "Gemma-3-4B": (
        "Gemma3ForCausalLM",
        {
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"],
            "vocab_size": 262208,
        },
    ),
}
"""Published models, two layers of each, with windows that short rows fill."""


@dataclass
class Counts:
    """What a stretch of a program asked of the device."""

    to_device: int = 0
    fetched: int = 0
    kernels: int = 0

    def since(self, before: Counts) -> Counts:
        """The difference."""
        return Counts(*(now - then for now, then in zip(vars(self).values(), vars(before).values(), strict=True)))

    def copy(self) -> Counts:
        """As it is now."""
        return Counts(**vars(self))


class Counter(TorchDispatchMode):
    """Counts what is dispatched while it is entered."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "aten" and func.name() != "aten::scaled_dot_product_attention":
            # In inference mode operators come as they were called, and are made of others.
            with self:
                whole = func.decompose(*args, **kwargs)
            if whole is not NotImplemented:
                return whole
        result = func(*args, **kwargs)
        crosses = func.name() == "aten::_to_copy" or func.name().startswith("aten::copy_")
        if crosses:
            source = args[1] if len(args) > 1 else args[0]
            devices = (source.device.type, result.device.type)
            assert devices != ("cuda", "cpu"), "numbers come back outside of transfers.fetch"
            self.counts.to_device += devices == ("cpu", "cuda")
        if isinstance(result, Tensor) and result.device.type == "cuda" and not func.is_view:
            self.counts.kernels += func.name().split(".")[0] not in FREE
        return result


CUDA_TYPE, META_TYPE, TYPES = 1, 14, 22
"""torch's own numbers of kinds of devices (c10/core/DeviceType.h)."""


@contextmanager
def guard() -> Iterator[None]:
    """What torch calls to make a device the current one: a build without CUDA has none, not even for fake tensors.

    The one of its meta device, which does nothing, is lent.
    """
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    guards = (ctypes.c_void_p * TYPES).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    before = guards[CUDA_TYPE]
    if not torch.cuda.is_available():
        guards[CUDA_TYPE] = guards[META_TYPE]
    try:
        yield
    finally:
        guards[CUDA_TYPE] = before


@contextmanager
def fake_cuda(monkeypatch: Any) -> Iterator[Counts]:
    """All tensors are fake while the block lasts; the counts go on."""
    counts = Counts()

    def fetch(tensor: Tensor) -> Any:
        assert tensor.device == CUDA, "only what is on the device is fetched"
        counts.fetched += 1
        return np.full(tuple(tensor.shape), TOKEN, np.float32 if tensor.is_floating_point() else np.int64)

    monkeypatch.setattr(transfers, "fetch", fetch)
    monkeypatch.setattr(torch.autograd, "grad", gradients)
    with guard(), mode(), Counter(counts):
        yield counts


@cache
def mode() -> FakeTensorMode:
    """One for all tests: tensors of different ones do not mix."""
    return FakeTensorMode()


@torch.no_grad()
def gradients(output: Tensor, inputs: Tensor | Sequence[Tensor], slope: Tensor, **_: object) -> tuple[Tensor, ...]:
    """What `torch.autograd.grad` returns, by the operations that it does. Every input must have a gradient."""
    found: dict[tuple[Any, int], Tensor] = {(output.grad_fn, output.output_nr): slope}
    nodes, left = set(), [output.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in nodes:
            nodes.add(node)
            left += [before for before, _ in node.next_functions]
    ends = {node.variable: node for node in nodes if hasattr(node, "variable")}
    # The later of two operations cannot be an input of the earlier one.
    for node in sorted(nodes - set(ends.values()), key=lambda node: -node._sequence_nr()):
        slopes = [found.pop((node, number), None) for number in range(len(node._input_metadata))]
        edges = list(node.next_functions)
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            # Written in Python: one result for each argument, tensor or not.
            results = [one for one, needed in zip(node.apply(*slopes), node.needs_input_grad, strict=True) if needed]
            edges = [edge for edge in edges if edge[0] is not None]
        else:
            results = node(*slopes)
            results = results if isinstance(results, tuple) else (results,)
        for (before, number), result in zip(edges, results, strict=True):
            if before is not None and result is not None:
                assert result.device == output.device, "a gradient is on another device"
                like, known = before._input_metadata[number], found.get((before, number))
                result = result.sum_to_size(like.shape).to(like.dtype)
                found[before, number] = result if known is None else known + result
    wanted = (inputs,) if isinstance(inputs, Tensor) else inputs
    return tuple(found[ends[one], 0] for one in wanted)


@cache
def fake_base(name: str) -> Base:
    """A published model's first two layers on the device that is not there, in bfloat16. Call it in `fake_cuda`."""
    import transformers
    from transformers.initialization import no_init_weights

    kind, shape = SHAPES[name]
    cls = getattr(transformers, kind)
    config = cls.config_class(num_hidden_layers=2, pad_token_id=0, **shape)
    with no_init_weights(), CUDA:
        model = cls._from_config(config, dtype=torch.bfloat16).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    identity = Identity(name, Path(name), None, CUDA, torch.bfloat16, name)
    return Base(identity, model, Sized(shape["vocab_size"]), find_targets(model, EVERYWHERE), 4096, (2,))


@dataclass(frozen=True)
class Sized:
    """What the engine asks of a tokenizer once texts are encoded."""

    size: int
    pad_token_id: int = 0

    def __len__(self) -> int:
        return self.size


def fake_pieces(base: Base, rank: int = 8) -> dict[str, tuple[Tensor, Tensor]]:
    """A piece for every target, on the host."""
    return {
        module: (torch.empty(rank, linear.in_features), torch.empty(linear.out_features, rank))
        for module, linear in base.targets.items()
    }
