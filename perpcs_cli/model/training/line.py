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
from perpcs_cli.model.packed.layout import padded
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
    padding: Tensor | None
    """[rows · width] where that is, if anywhere."""


@dataclass(frozen=True)
class Groups:
    """All rows of a pass. Numbers come and go by gathers: on a GPU what scatters is made deterministic by sorting."""

    groups: list[Group]
    back: Tensor | None
    """[tokens] where each token of the line is among all groups' rows · width. None: they are the line."""

    def split(self, x: Tensor, *, zeros: bool = False) -> tuple[Tensor, ...]:
        """[rows · width, …] of the line's numbers, for each group; the padding is a copy, or zero."""
        found = [x.index_select(0, group.take) for group in self.groups]
        for part, group in zip(found, self.groups, strict=True):
            if zeros and group.padding is not None:
                part.masked_fill_(group.padding.view(-1, *[1] * (x.dim() - 1)), 0)
        return tuple(found)

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """The inverse, without the padding."""
        whole = parts[0] if len(parts) == 1 else torch.cat(list(parts))
        return whole if self.back is None else whole.index_select(0, self.back)


class _ToRows(torch.autograd.Function):
    """The line's numbers [tokens, …] by groups. What is padding has no gradient: no token looks ahead to it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, groups: Groups) -> tuple[Tensor, ...]:
        ctx.groups = groups
        return groups.split(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.groups.join(gradients), None


class _ToLine(torch.autograd.Function):
    """The inverse: groups' numbers [rows · width, …] in the line, without the padding."""

    @staticmethod
    def forward(ctx: Any, groups: Groups, *parts: Tensor) -> Tensor:
        ctx.groups = groups
        return groups.join(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.groups.split(gradient, zeros=True)


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
        back = _back(plans)
        parts: list[Array] = [
            integers(shown),
            np.concatenate([np.arange(length) for length in self.lengths]),
            np.concatenate(wanted),
            integers([token for row in rows for token in row.answer]),
            np.repeat(np.array(weights, dtype=np.float32), self.answers),
            *(numbers for plan in plans for numbers in plan[2:]),
            *([] if back is None else [back]),
        ]
        upload = Upload(base.device)
        sent = [upload.add(part) for part in parts]
        upload.send()
        self.ids, self.positions, self.wanted, self.targets, self.weights, *rest = (part.tensor for part in sent)
        groups = [
            Group(rows, width, rest[2 * place], rest[2 * place + 1] > 0 if padding.any() else None)
            for place, (rows, width, _, padding) in enumerate(plans)
        ]
        self.groups = Groups(groups, None if back is None else rest[-1])
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
        if not self.groups.groups:
            alone = zip(*(x.split(self.lengths, dim=2) for x in (query, key, value)), strict=True)
            return torch.cat([self._attention(q, k, v, kind).transpose(1, 2) for q, k, v in alone], dim=1)
        inputs = [x[0].transpose(0, 1) for x in (query, key, value)]
        # Rows that are as long as each other lie in the line as they are attended.
        by_group = [(x,) if self.groups.back is None else _ToRows.apply(x, self.groups) for x in inputs]
        outputs = []
        for group, *parts in zip(self.groups.groups, *by_group, strict=True):
            q, k, v = (x.unflatten(0, (group.rows, group.width)).transpose(1, 2) for x in parts)
            outputs.append(self._attention(q, k, v, kind).transpose(1, 2).flatten(0, 1))
        line: Tensor = outputs[0] if self.groups.back is None else _ToLine.apply(self.groups, *outputs)
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


def _plan(lengths: Sequence[int], close: float) -> Iterator[tuple[int, int, Numbers, Numbers]]:
    """(rows, width, take, padding) of each group."""
    count = np.array(lengths)
    first = np.cumsum(count) - count
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    while order:
        width = lengths[order[0]]
        size = sum(lengths[i] >= close * width for i in order)
        members, order = np.array(sorted(order[:size])), order[size:]
        own_places, inside = padded(count[members], width)
        yield len(members), width, (first[members, None] + own_places).flatten(), (~inside).astype(np.int64).flatten()


def _back(plans: Sequence[tuple[int, int, Numbers, Numbers]]) -> Numbers | None:
    """[tokens] where each token is among the groups' places; None where they are the line as it is."""
    if not plans:
        return None
    take, padding = (np.concatenate(parts) for parts in zip(*(plan[2:] for plan in plans), strict=True))
    inside = np.flatnonzero(padding == 0)
    if len(plans) == 1 and len(inside) == len(take):
        return None
    back = np.empty(len(inside), np.int64)
    back[take[inside]] = inside
    return back
