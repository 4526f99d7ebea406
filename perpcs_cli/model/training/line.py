"""Rows of a training pass side by side in one line of tokens, so that no padding is ever computed, with gradients.

Every linear layer sees [1, tokens, n]; only the attention tells the rows apart. It takes the place of the cache of the
engine's packed passes (`packed_attention`), and keeps nothing from pass to pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from perpcs_cli.model.engine.batching import Encoded
from perpcs_cli.model.loading.base import Base
from perpcs_cli.model.packed.attention import Kind
from perpcs_cli.model.training.order import CHUNK
from perpcs_cli.model.transfers import Array, Upload, integers

CLOSE: dict[str, float | None] = {"cpu": None}
"""Rows at least so long, as a share of the longest one's tokens, share a call of the attention kernel with it; 0.8 on
devices that are not named. On a processor a call costs little, and each row has its own, without padding."""

Numbers = npt.NDArray[np.int64]


def inputs(row: Encoded) -> int:
    """How many tokens of a row the model is shown: what follows the last one is not asked for."""
    return len(row) - 1


@dataclass(frozen=True)
class Group:
    """Rows of similar length that are attended together, padded to the longest on the right."""

    rows: int
    width: int
    take: Tensor
    """[rows · width] places in the line of tokens; the padding repeats a row's last token."""
    tokens: Tensor
    """[tokens] places in the line of tokens that are no padding, row by row."""
    put: Tensor
    """[tokens] where they are among rows · width."""

    def padded(self, x: Tensor, *, zeros: bool = False) -> Tensor:
        """[rows · width, …] of the line's numbers; the padding is a copy, or zero."""
        if not zeros or len(self.take) == len(self.tokens):
            return x.index_select(0, self.take)
        found = x.new_zeros(len(self.take), *x.shape[1:])
        return found.index_copy_(0, self.put, x.index_select(0, self.tokens))

    def write(self, line: Tensor, x: Tensor) -> None:
        """Put [rows · width, …] into the line, without the padding."""
        line.index_copy_(0, self.tokens, x if len(self.put) == len(self.take) else x.index_select(0, self.put))


class _ToRows(torch.autograd.Function):
    """The line's numbers [tokens, …] by groups. What is padding has no gradient: no token looks ahead to it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, groups: Sequence[Group]) -> tuple[Tensor, ...]:
        ctx.groups = groups
        return tuple(group.padded(x) for group in groups)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _line(ctx.groups, gradients), None


class _ToLine(torch.autograd.Function):
    """The inverse: groups' numbers [rows · width, …] in the line, without the padding."""

    @staticmethod
    def forward(ctx: Any, groups: Sequence[Group], *parts: Tensor) -> Tensor:
        ctx.groups = groups
        return _line(groups, parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(group.padded(gradient, zeros=True) for group in ctx.groups)


def _line(groups: Sequence[Group], parts: Sequence[Tensor]) -> Tensor:
    line = parts[0].new_empty(sum(len(group.tokens) for group in groups), *parts[0].shape[1:])
    for group, part in zip(groups, parts, strict=True):
        group.write(line, part)
    return line


class Line:
    """Rows to be trained on. `weights`: what each answer token of a row counts in the loss."""

    def __init__(self, base: Base, rows: Sequence[Encoded], weights: Sequence[float]) -> None:
        self.base = base
        self.lengths = [inputs(row) for row in rows]
        self.answers = [len(row.answer) for row in rows]
        shown = [token for row in rows for token in (*row.prompt, *row.answer[:-1])]
        ends = np.cumsum(self.lengths)
        wanted = [np.arange(end - count, end) for end, count in zip(ends, self.answers, strict=True)]
        close = CLOSE.get(base.device.type, 0.8)
        plans = list(_plan(self.lengths, close)) if close else []
        parts: list[Array] = [
            integers(shown),
            np.concatenate([np.arange(length) for length in self.lengths]),
            np.concatenate(wanted),
            integers([token for row in rows for token in row.answer]),
            np.repeat(np.array(weights, dtype=np.float32), self.answers),
            *(numbers for plan in plans for numbers in plan[2:]),
        ]
        upload = Upload(base.device)
        sent = [upload.add(part) for part in parts]
        upload.send()
        self.ids, self.positions, self.wanted, self.targets, self.weights, *rest = (part.tensor for part in sent)
        self.groups = [Group(plan[0], plan[1], *rest[3 * place : 3 * place + 3]) for place, plan in enumerate(plans)]
        self._masks: dict[tuple[int, int | None], Tensor] = {}

    def gradients(self, parameters: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """(losses [answer tokens] in nats, gradients of their weighted sum). Only answers have logits."""
        logits = self.base.model(
            input_ids=self.ids[None],
            position_ids=self.positions[None],
            use_cache=False,
            logits_to_keep=self.wanted,
            perpcs_rows=self,
        ).logits[0]
        slopes, losses = torch.empty_like(logits), []
        chunks = (logits.detach().split(CHUNK), self.targets.split(CHUNK), self.weights.split(CHUNK))
        for some, slope, targets, weights in zip(chunks[0], slopes.split(CHUNK), *chunks[1:], strict=True):
            leaf = some.float().requires_grad_()
            loss = F.cross_entropy(leaf, targets, reduction="none")
            slope.copy_(*torch.autograd.grad(loss, leaf, weights))
            losses.append(loss.detach())
        return torch.cat(losses), torch.autograd.grad(logits, list(parameters), slopes, allow_unused=True)

    def attend(self, _layer: int, query: Tensor, key: Tensor, value: Tensor, kind: Kind) -> Tensor:
        """The attention's output [1, tokens, heads, dim]; inputs are [1, heads, tokens, dim]."""
        if not self.groups:
            alone = zip(*(x.split(self.lengths, dim=2) for x in (query, key, value)), strict=True)
            return torch.cat([self._attention(q, k, v, kind).transpose(1, 2) for q, k, v in alone], dim=1)
        by_group = [_ToRows.apply(x[0].transpose(0, 1), self.groups) for x in (query, key, value)]
        outputs = []
        for group, *parts in zip(self.groups, *by_group, strict=True):
            q, k, v = (x.unflatten(0, (group.rows, group.width)).transpose(1, 2) for x in parts)
            outputs.append(self._attention(q, k, v, kind).transpose(1, 2).flatten(0, 1))
        line: Tensor = _ToLine.apply(self.groups, *outputs)
        return line[None]

    def _attention(self, q: Tensor, k: Tensor, v: Tensor, kind: Kind) -> Tensor:
        """[rows, heads, width, dim] of one group."""
        width, shared = q.shape[2], q.shape[1] // k.shape[1]
        if not kind.softcap and (kind.window is None or width <= kind.window):
            return F.scaled_dot_product_attention(q, k, v, scale=kind.scale, is_causal=True, enable_gqa=shared > 1)
        mask = self._mask(width, kind.window, q)
        if not kind.softcap:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=kind.scale, enable_gqa=shared > 1)
        k, v = (x.repeat_interleave(shared, dim=1) for x in (k, v))
        scores = torch.tanh(q @ k.mT * (kind.scale / kind.softcap)) * kind.softcap
        return torch.softmax((scores + mask).float(), dim=-1).to(v.dtype) @ v

    def _mask(self, width: int, window: int | None, like: Tensor) -> Tensor:
        """[width, width]: what is added to the scores; a query sees up to its own position, and back by a window."""
        if (width, window) not in self._masks:
            places = torch.arange(width, device=like.device)
            distance = places[:, None] - places
            hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
            self._masks[width, window] = torch.zeros_like(hidden, dtype=like.dtype).masked_fill_(hidden, -torch.inf)
        return self._masks[width, window]


def _plan(lengths: Sequence[int], close: float) -> Iterator[tuple[int, int, Numbers, Numbers, Numbers]]:
    """(rows, width, take, tokens, put) of each group."""
    count = np.array(lengths)
    first = np.cumsum(count) - count
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    while order:
        width = lengths[order[0]]
        size = sum(lengths[i] >= close * width for i in order)
        members, order = np.array(sorted(order[:size])), order[size:]
        steps = np.arange(width)
        inside = steps < count[members, None]
        take = first[members, None] + np.minimum(steps, count[members, None] - 1)
        yield len(members), width, take.flatten(), take[inside], np.flatnonzero(inside)
