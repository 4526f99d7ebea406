"""Pieces of several trainings in one line of tokens, all of them in the operators of one.

A GPU is done with the products of one training's pieces before the host has started the next one's: eight sharers, each
with operators of its own at every linear layer, took 1,260 ms for a step of a 7B model that one sharer with as many
tokens takes 270 ms for. Here everybody's factors are one. A token has products with all of them, and its own are
selected, so that nothing of the others is in what it passes on, or in what comes back to it. Only a gradient of a
factor is a sum over all tokens, with zeros for the others': where those are not finite, it is not either. Who trains
with it looks at the gradients, and makes a step that is not finite again, each training alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from perpcs_cli.model.training.dropout import Dropout
from perpcs_cli.model.training.piece import Piece

STACKED = {"cuda"}
"""The devices that it is for. A processor computes the products with the others' factors no faster than it starts
operators."""
COLUMNS = 512
"""Ranks of all pieces together that are worth it."""


def may_stack(pieces: Sequence[Piece], device: torch.device) -> bool:
    """Whether pieces of a linear layer can be one: they are alike but for their numbers."""
    if device.type not in STACKED or len(pieces) < 2 or len(pieces) * len(pieces[0].a) > COLUMNS:
        return False
    return len({(len(one.a), one.scale, one.gate is None) for one in pieces}) == 1


def whose(pieces: Sequence[Piece], tokens: int, device: torch.device) -> Tensor:
    """[tokens, pieces, 1]: which piece is for each token of the line."""
    found = torch.zeros(tokens, len(pieces), 1, dtype=torch.bool, device=device)
    for number, one in enumerate(pieces):
        found[one.tokens, number] = True
    return found


class AddStacked(torch.autograd.Function):
    """A linear layer's output with the pieces', and its gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        output: Tensor,
        x: Tensor,
        draws: Tensor | None,
        dropout: Dropout | None,
        own: Tensor,
        scale: float,
        *factors: Tensor | None,
    ) -> Tensor:
        lines, before = x.flatten(0, -2), output.flatten(0, -2)
        a, b, gates = (_together(factors[place::3], place == 1) for place in range(3))
        assert a is not None and b is not None
        a, b = a.to(x.dtype), (b * scale).to(x.dtype)
        gates = None if gates is None else gates.to(x.dtype)
        dropped = lines if draws is None or dropout is None else dropout.applied(draws, lines)
        hidden = (dropped @ a.mT).unflatten(1, (own.shape[1], -1)).where(own, 0)
        opened = None if gates is None else torch.sigmoid(lines @ gates.mT)[..., None]
        shown = hidden if opened is None else hidden * opened.where(own, 0)
        ctx.dropout, ctx.scale = dropout, scale
        ctx.save_for_backward(x, draws, own, a, b, gates, hidden, opened)
        return torch.addmm(before, shown.flatten(1), b.mT).view_as(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, draws, own, a, b, gates, hidden, opened = ctx.saved_tensors
        wanted = [ctx.needs_input_grad[6 + place] for place in range(3)]
        lines, slopes = x.flatten(0, -2), gradient.flatten(0, -2)
        kept = None if draws is None else ctx.dropout.kept(draws, x.dtype)
        down = (slopes @ b).unflatten(1, hidden.shape[1:]).where(own, 0)
        shown, turn = hidden, None
        if opened is not None:
            share = opened.where(own, 0)
            turn = ((down * hidden).sum(-1, keepdim=True) * share * (1 - share))[..., 0]
            down, shown = down * share, hidden * share
        of_a = of_b = of_gates = None
        if wanted[0]:
            of_a = (
                (down.flatten(1).mT @ (lines if kept is None else lines * kept)).float().unflatten(0, hidden.shape[1:])
            )
        if wanted[1]:
            # The scale is in b, as it is used; b's own gradient has it once more.
            whole = (slopes.mT @ shown.flatten(1)) * ctx.scale
            of_b = whole.unflatten(1, hidden.shape[1:]).movedim(1, 0).contiguous().float()
        if wanted[2] and turn is not None:
            of_gates = (turn.mT @ lines).float()
        back = None
        if ctx.needs_input_grad[1]:
            back = down.flatten(1) @ a
            if kept is not None:
                back *= kept
            if turn is not None:
                back.addmm_(turn, gates)
            back = back.view_as(x)
        found = [
            of[number] if of is not None else None for number in range(own.shape[1]) for of in (of_a, of_b, of_gates)
        ]
        return gradient, back, None, None, None, None, *found


def _together(factors: Sequence[Tensor | None], side_by_side: bool) -> Tensor | None:
    """[Σ r, n] of A, [d, Σ r] of B, which lie side by side, and [pieces, n] of gates, where there are any."""
    found = [factor for factor in factors if factor is not None]
    if not found:
        return None
    return torch.stack(found) if found[0].dim() == 1 else torch.cat(found, dim=int(side_by_side))
