"""Pieces of several trainings in one line of tokens, each for tokens of its own, with gradients.

No training's numbers ever meet another's: what is infinite in one is nothing to the others. On a GPU, where so many
operators take the host longer than the device, pieces that are alike are stacked instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from perpcs_cli.model.loading.base import Base
from perpcs_cli.model.training.dropout import Dropout
from perpcs_cli.model.training.piece import Piece
from perpcs_cli.model.training.stacked_pieces import AddStacked, may_stack, whose


@contextmanager
def attached(base: Base, pieces: Callable[[str], Sequence[Piece]], dropout: Dropout | None = None) -> Iterator[None]:
    """Run the base with the `pieces` of each linear layer while the block lasts; they cover all tokens.

    `dropout`: drops numbers of what the factors see of a layer's input; a gate sees the whole of it.
    """

    own: Tensor | None = None

    def hook(module: str) -> Any:
        def add(_layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            nonlocal own
            x, found = inputs[0], pieces(module)
            draws = dropout.draw(module, x) if dropout else None
            factors = [factor for one in found for factor in (one.a, one.b, one.gate)]
            if may_stack(found, x.device):
                own = whose(found, x.shape[-2], x.device) if own is None else own
                stacked: Tensor = AddStacked.apply(output, x, draws, dropout, own, found[0].scale, *factors)
                return stacked
            result: Tensor = _Add.apply(output, x, draws, dropout, found, *factors)
            return result

        return add

    with ExitStack() as stack:
        for name, layer in base.targets.items():
            stack.enter_context(layer.register_forward_hook(hook(name)))
        yield


class _Add(torch.autograd.Function):
    """A linear layer's output with the pieces', and its gradient; of what is kept for it, only the input is large."""

    @staticmethod
    def forward(
        ctx: Any,
        output: Tensor,
        x: Tensor,
        draws: Tensor | None,
        dropout: Dropout | None,
        pieces: Sequence[Piece],
        *factors: Tensor | None,
    ) -> Tensor:
        lines, before = x.flatten(0, -2), output.flatten(0, -2)
        dropped = lines if draws is None or dropout is None else dropout.applied(draws, lines)
        result = torch.empty_like(before)
        used = list(_used(pieces, factors, x.dtype))
        hidden, opened = [], []
        for one, a, b, gate in _each(pieces, used):
            h = dropped[one.tokens] @ a.mT
            hidden.append(h)
            if gate is not None:
                opened.append(torch.sigmoid(lines[one.tokens] @ gate)[:, None])
                h = h * opened[-1]
            torch.addmm(before[one.tokens], h, b.mT, out=result[one.tokens])
        ctx.pieces, ctx.dropout = pieces, dropout
        ctx.save_for_backward(x, draws, *used, *hidden, *opened)
        return result.view_as(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        pieces: Sequence[Piece] = ctx.pieces
        x, draws, *rest = ctx.saved_tensors
        factors, inner = rest[: 3 * len(pieces)], rest[3 * len(pieces) :]
        hidden, opened = inner[: len(pieces)], iter(inner[len(pieces) :])
        lines, slopes = x.flatten(0, -2), gradient.flatten(0, -2)
        kept = None if draws is None else ctx.dropout.kept(draws, x.dtype)
        dropped = lines if kept is None else lines * kept
        back = torch.empty_like(lines) if ctx.needs_input_grad[1] else None
        found: list[Tensor | None] = []
        through = []
        for place, (one, a, b, gate) in enumerate(_each(pieces, factors)):
            wanted = ctx.needs_input_grad[5 + 3 * place : 8 + 3 * place]
            slope, h = slopes[one.tokens], hidden[place]
            down = slope @ b
            of_gate = None
            if gate is not None:
                share = next(opened)
                turn = ((down * h).sum(-1, keepdim=True) * share * (1 - share))[:, 0]
                of_gate = turn @ lines[one.tokens] if wanted[2] else None
                through.append((one.tokens, turn, gate))
                down, h = down * share, h * share
            # The scale is in b, as it is used; b's own gradient has it once more.
            of_a = down.mT @ dropped[one.tokens] if wanted[0] else None
            of_b = (slope.mT @ h) * one.scale if wanted[1] else None
            found += (None if own is None else own.float() for own in (of_a, of_b, of_gate))
            if back is not None:
                torch.mm(down, a, out=back[one.tokens])
        if back is not None:
            if kept is not None:
                back *= kept
            for tokens, turn, gate in through:
                back[tokens].addr_(turn, gate)
            back = back.view_as(x)
        return gradient, back, None, None, None, *found


def _used(pieces: Sequence[Piece], factors: Sequence[Tensor | None], dtype: torch.dtype) -> Iterator[Tensor | None]:
    """Each piece's a, scaled b and gate in the number type of the model."""
    for place, factor in enumerate(factors):
        scale = pieces[place // 3].scale if place % 3 == 1 else 1.0
        yield None if factor is None else (factor if scale == 1 else factor * scale).to(dtype)


def _each(
    pieces: Sequence[Piece], factors: Sequence[Tensor | None]
) -> Iterator[tuple[Piece, Tensor, Tensor, Tensor | None]]:
    """Each piece with its a, b and gate."""
    for place, one in enumerate(pieces):
        a, b, gate = factors[3 * place : 3 * place + 3]
        assert a is not None
        assert b is not None
        yield one, a, b, gate
