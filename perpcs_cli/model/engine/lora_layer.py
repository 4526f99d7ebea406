"""The pieces layer: how recipes run; pieces that are trained have `training.own_pieces`.

Every model that perpcs runs is the base plus a recipe, a weight for each (linear layer, sharer). Rows of one batch
may carry different recipes. The layer hangs on the linear layers as forward hooks, so that the transformers model
itself is never changed, and is taken off in every case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from perpcs_cli.artifacts.settings import Merge
from perpcs_cli.model.loading.base import Base


@dataclass(frozen=True)
class Pieces:
    """What one linear layer adds in one batch: U sharers' factors, side by side, and each row's weights.

    `a`: [U·r, n]; `b`: [d, U·r], with the scale alpha / r folded in; `weights`: [rows, U], or [1, tokens, U] where
    several rows lie side by side in one line of tokens; `gates`: [U, n], where pieces run as gated.

    Each may also differ from row to row, with the rows in front: `a` [rows, U·r, n], `gates` [rows, U, n].
    """

    a: Tensor
    b: Tensor
    weights: Tensor
    gates: Tensor | None = None
    product: Tensor | None = None
    """x Aᵀ, [rows, tokens, U·r], where it is there already."""


class Router(Protocol):
    """Decides what a linear layer adds, from the activations that reach it."""

    def __call__(self, module: str, x: Tensor) -> Pieces | None:
        """`x`: [rows, tokens, n], the layer's input. None adds nothing."""


def update(x: Tensor, pieces: Pieces, merge: Merge, dropped: Tensor | None = None) -> Tensor:
    """The pieces' contribution to a linear layer's output, [rows, tokens, d], for input `x` [rows, tokens, n].

    product: (rep(W) ⊙ (x Aᵀ)) Bᵀ, which is ΔW = Σ w B A, the papers' formula.
    factor: h = Σ_s W_s (x A_sᵀ); Σ_s W_s (h B_sᵀ), which is ΔW = (Σ w B)(Σ w A), the published code's.
    With gates: W_s is multiplied by σ(g_sᵀ x) for each token (Per-PCs, equation 3).
    `dropped`: what dropout leaves of `x` for the factors; gates see the whole of it.
    """
    b = pieces.b.to(x.dtype)
    sharers = pieces.weights.shape[-1]
    weights = pieces.weights.to(x.dtype)
    if weights.dim() == 2:
        weights = weights[:, None, :]
    if pieces.gates is not None:
        weights = weights * torch.sigmoid(x @ pieces.gates.to(x.dtype).mT)
    if pieces.product is not None and dropped is None:
        product = pieces.product
    else:
        product = (x if dropped is None else dropped) @ pieces.a.to(x.dtype).mT
    hidden = product.unflatten(-1, (sharers, -1)) * weights[..., None]
    if merge == "factor":
        hidden = hidden.sum(-2, keepdim=True) * weights[..., None]
    return hidden.flatten(-2) @ b.mT


@contextmanager
def attached(
    base: Base, router: Router, *, merge: Merge = "product", dropout: Callable[[str, Tensor], Tensor] | None = None
) -> Iterator[None]:
    """Run the base with pieces while the block lasts.

    `dropout`: what the pieces' factors see of a linear layer's input, as training drops numbers of it.
    """

    def hook(module: str) -> Any:
        def add(_layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            x = inputs[0]
            pieces = router(module, x)
            if pieces is None:
                return output
            return output + update(x, pieces, merge, dropout(module, x) if dropout else None)

        return add

    handles = []
    try:
        for name, layer in base.targets.items():
            handles.append(layer.register_forward_hook(hook(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()
