"""RMS norms and rotary embeddings in a third of the passes over memory that transformers makes.

Between its products a model is bound by memory: transformers writes a norm as eight operators, and a rotation as five,
each of which reads and writes all of its input; their gradients are more. They are replaced while a block lasts, and
only where their source is the one that is known here: what a later version or another architecture computes otherwise
runs as it is. The numbers differ by rounding alone.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perpcs_cli.model.loading.base import Base

NORM = """
def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
    input_dtype = hidden_states.dtype
    hidden_states = hidden_states.to(torch.float32)
    variance = hidden_states.pow(2).mean(-1, keepdim=True)
    hidden_states = hidden_states * torch.rsqrt(variance + self.variance_epsilon)
    return self.weight * hidden_states.to(input_dtype)
"""
ROTATION = """
def apply_rotary_pos_emb(q, k, cos, sin, unsqueeze_dim=1):
    cos = cos.unsqueeze(unsqueeze_dim)
    sin = sin.unsqueeze(unsqueeze_dim)
    q_embed = (q * cos) + (rotate_half(q) * sin)
    k_embed = (k * cos) + (rotate_half(k) * sin)
    return q_embed, k_embed
"""
HALVES = """
def rotate_half(x):
    x1 = x[..., : x.shape[-1] // 2]
    x2 = x[..., x.shape[-1] // 2 :]
    return torch.cat((-x2, x1), dim=-1)
"""
ROTATE = "apply_rotary_pos_emb"


@contextmanager
def fused(base: Base) -> Iterator[None]:
    """Let the model's norms and rotations take fewer operators while the block lasts."""
    with ExitStack() as stack:
        for module in base.model.modules():
            kind: Any = type(module)
            if is_norm(kind):
                stack.enter_context(_replaced(module.__dict__, "forward", partial(_norm, module)))
        for home in sorted({type(module).__module__ for module in base.model.modules()}):
            names = sys.modules[home].__dict__
            if is_rotation(names.get(ROTATE), names.get("rotate_half")):
                stack.enter_context(_replaced(names, ROTATE, rotate))
        yield


@contextmanager
def _replaced(names: dict[str, Any], name: str, value: object) -> Iterator[None]:
    there, before = name in names, names.get(name)
    names[name] = value
    try:
        yield
    finally:
        if there:
            names[name] = before
        else:
            del names[name]


@cache
def is_norm(kind: type[nn.Module]) -> bool:
    """Whether a class of modules computes the RMS norm of Llama and most others, and nothing else."""
    return _says(kind.forward, NORM)


def is_rotation(function: object, halves: object) -> bool:
    """Whether two functions are the rotation of Llama and most others. What it was replaced by is none."""
    return function is not rotate and _says(function, ROTATION) and _says(halves, HALVES)


@cache
def _says(function: Any, known: str) -> bool:
    """Whether a function's source is the known one, whatever it says in comments."""
    try:
        source = textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
    except (TypeError, OSError):
        return False
    return _dump(source) == _dump(known)


def _dump(source: str) -> str:
    (function,) = ast.parse(source).body
    if not isinstance(function, ast.FunctionDef):
        return ""
    function.decorator_list = []
    if ast.get_docstring(function) is not None:
        del function.body[0]
    return ast.dump(function)


def _norm(module: Any, hidden_states: Tensor) -> Tensor:
    if hidden_states.device.type == "cuda":
        return F.rms_norm(hidden_states, module.weight.shape, module.weight, module.variance_epsilon)
    result: Tensor = _Norm.apply(hidden_states, module.weight, module.variance_epsilon)
    return result


class _Norm(torch.autograd.Function):
    """w ⊙ x / √(mean x² + ε), for weights that are not trained. [..., n]; computed in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = x.float()
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        inverse = length.square_().mul_(1 / x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        return (wide * inverse).to(x.dtype).mul_(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        x, weight, inverse = ctx.saved_tensors
        # r (g - x (g · x) r² / n), with g the gradient times the weight.
        wide, slope = x.float(), (gradient * weight).float()
        along = torch.linalg.vecdot(slope, wide).unsqueeze(-1).mul_(inverse.pow(3)).mul_(-1 / x.shape[-1])
        return slope.mul_(inverse).addcmul_(wide, along).to(x.dtype), None, None


def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
    """Queries and keys [..., dim] turned by their positions, two halves of the numbers against each other."""
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    apply: Callable[..., Tensor] = _Rotation.apply
    return apply(q, cos, sin), apply(k, cos, sin)


class _Rotation(torch.autograd.Function):
    """(x₁ c₁ - x₂ s₁, x₂ c₂ + x₁ s₂) of the halves of each [..., dim]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        first, second = sin.chunk(2, dim=-1)
        return _turned(x, cos, first, second, -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        first, second = sin.chunk(2, dim=-1)
        return _turned(gradient, cos, second, first, 1), None, None


def _turned(x: Tensor, cos: Tensor, first: Tensor, second: Tensor, sign: int) -> Tensor:
    """x ⊙ cos, to whose halves the other half times `first` or `second` is added, with `sign` and against it."""
    result = x * cos
    ones, others = x.chunk(2, dim=-1)
    left, right = result.chunk(2, dim=-1)
    left.addcmul_(others, first, value=sign)
    right.addcmul_(ones, second, value=-sign)
    return result
