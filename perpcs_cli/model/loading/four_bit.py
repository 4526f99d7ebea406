"""A base whose linear layers keep their weights in 4 bits: NF4 with quantized scales, as in QLoRA (Dettmers et al.)."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perpcs_cli.errors import PerpcsError, UsageError

SCHEME = "nf4, blocks of 64, scales quantized"
"""Which of the ways to use 4 bits it is; part of a quantized base's fingerprint."""
BLOCK = 64
"""Weights that share a scale."""
DEVICES = ("cpu", "cuda")


def check_four_bit(device: torch.device) -> None:
    """Raise UsageError for a device that has no such kernels, PerpcsError where the library is not installed."""
    if device.type not in DEVICES:
        raise UsageError(
            f"4-bit weights cannot be computed with on {device.type!r}",
            where="--quantize",
            hint=f"They need --device {' or '.join(DEVICES)}.",
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise PerpcsError(
            "--quantize 4bit needs the package bitsandbytes, which is not installed",
            hint="Install it with: pip install 'perpcs[4bit]'",
        )


@torch.no_grad()
def quantize(model: Any, device: torch.device) -> None:
    """Replace the decoder's linear layers by quantized ones on the device, one after the other.

    Embeddings, norms and the output layer stay as they are. Layers compute in the type of their inputs.
    """
    from bitsandbytes.nn import Linear4bit, Params4bit

    decoder = model.get_decoder()
    plain = [(name, one) for name, one in decoder.named_modules() if type(one) is nn.Linear]
    for name, linear in plain:
        with torch.device("meta"):
            small = Linear4bit(
                linear.in_features,
                linear.out_features,
                bias=linear.bias is not None,
                compute_dtype=linear.weight.dtype,
                quant_type="nf4",
            )
        # Its kernels for some processors pack the weights anew, and give no gradient to the input from then on.
        small.support_avx512bf16_for_cpu = False
        small.weight = Params4bit(
            linear.weight.data, requires_grad=False, quant_type="nf4", blocksize=BLOCK, compress_statistics=True
        )
        small.bias = linear.bias
        decoder.set_submodule(name, small.to(device).eval())


def is_quantized(layer: nn.Module) -> bool:
    """Whether a layer's weights are in 4 bits."""
    return hasattr(getattr(layer, "weight", None), "quant_state")


def put_adapter(linear: Any, piece: tuple[Tensor, Tensor], scale: float) -> None:
    """Add an adapter's update, scale · B A, to what a quantized layer gives.

    In its weights it would be lost: it is smaller than the step from one of their sixteen values to the next.
    """
    like: dict[str, Any] = {"device": linear.weight.device, "dtype": linear.compute_dtype}
    a, b = piece[0].to(**like), (piece[1].float() * scale).to(**like)

    def add(_layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + F.linear(F.linear(inputs[0], a), b)

    linear.register_forward_hook(add)
