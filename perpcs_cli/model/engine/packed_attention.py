"""Packed passes: the new tokens of many rows side by side in one line, so that no padding is ever computed.

Every linear layer sees [1, tokens, n]; only the attention tells the rows apart. Their keys and values lie in one
buffer per layer, each token's at its own position in its row: a rejected token is overwritten by the next one, and a
window that slides counts positions. It hangs on transformers' attention interface while a block lasts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from perpcs_cli.errors import PerpcsError
from perpcs_cli.model import transfers
from perpcs_cli.model.loading.base import Base
from perpcs_cli.model.transfers import Array, Sent, Upload, integers

NAME = "perpcs_packed"
SPREAD = 4
"""Rows whose numbers of new tokens differ by less than this factor share a call of the attention kernel."""


Places = npt.NDArray[np.int64]


def not_finite() -> PerpcsError:
    """What is raised where logits are NaN or infinite: an answer of theirs would be empty, and a score of it 0."""
    hint = "Try --dtype float32, and look for huge weights in recipes and adapters."
    return PerpcsError("the model's logits are not finite", hint=hint)


@dataclass(frozen=True)
class Group:
    """Rows of a pass that share a call of the attention kernel, padded to the longest on the right."""

    rows: int
    slots: Sent | None
    """[rows] places in the buffers. None: the first ones."""
    take: Sent | None
    """[rows · queries] places in the line of tokens; the padding repeats a row's last token. None: the whole line."""
    put: Sent | None
    """[tokens] places among the rows · queries outputs that are no padding. None: all."""
    tokens: Sent | None
    """[tokens] places in the line of tokens, in the order of `put`. None: the whole line."""
    positions: Sent
    """[rows, queries] positions of the queries."""
    width: int
    """The group's longest row, old and new tokens."""
    fresh: bool
    """No row has old tokens."""

    @classmethod
    def of(cls, members: Places, lengths: Places, first: Places, begin: Places, slots: Places, upload: Upload) -> Group:
        """Of the rows `members`; of all rows their `lengths`, `first` places in the line, and positions there."""
        own, start, used = lengths[members], begin[members], slots[members]
        steps = np.arange(own.max())
        inside = steps < own[:, None]
        take = first[members, None] + np.minimum(steps, own[:, None] - 1)
        alone, even = len(members) == len(lengths), bool(inside.all())
        return cls(
            rows=len(members),
            slots=None if np.array_equal(used, np.arange(len(used))) else upload.add(used),
            take=None if alone and even else upload.add(take.reshape(-1)),
            put=None if even else upload.add(inside.reshape(-1).nonzero()[0]),
            tokens=None if alone else upload.add(take[inside]),
            positions=upload.add(take - first[members, None] + start[:, None]),
            width=int((start + own).max()),
            fresh=not start.any(),
        )

    def mask(self, window: int | None, groups: int, dtype: torch.dtype) -> Tensor:
        """[rows, 1, groups · queries, width]: what is added to the scores; a query sees up to its own position."""
        positions = self.positions.tensor
        distance = positions[:, :, None] - torch.arange(self.width, device=positions.device)
        hidden = distance < 0
        if window is not None:
            hidden |= distance >= window
        mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, -torch.inf)
        return mask[:, None].repeat(1, groups, 1, 1).flatten(1, 2)[:, None]


@dataclass(frozen=True)
class Kind:
    """How a layer attends: scores are multiplied by `scale`, reach back `window` positions, and are softly capped."""

    scale: float
    window: int | None
    softcap: float | None


class Rows:
    """The keys and values of rows: two buffers [rows, capacity, heads, dim] for each layer."""

    def __init__(self, base: Base, rows: int, capacity: int) -> None:
        self.base = base
        self.shape = (rows, capacity)
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._coming: list[tuple[Array, int]] = []
        self._copies: list[tuple[Sent, int]] = []
        self._places: Sent
        """[tokens] places in the buffers, laid out as one line."""
        self._groups: list[Group] = []
        self._masks: dict[tuple[int, int | None], Tensor] = {}

    def run(
        self,
        slots: Sequence[int],
        starts: Sequence[int],
        tokens: Sequence[Sequence[int]],
        logits: Sequence[int],
        draw: Callable[[Tensor], Tensor] | None = None,
        upload: Upload | None = None,
    ) -> list[list[int]]:
        """Run each row's new `tokens` from position `starts[i]` on; the choices after its last `logits[i]`.

        `slots[i]` is the row's place in the buffers. A choice is the most probable token, or what `draw` makes of the
        logits. The one wait for the device is for the choices, and what goes there goes with `upload`. Raises
        PerpcsError where the largest logit is not finite.
        """
        found = self.logits(slots, starts, tokens, logits, upload)
        best = found.argmax(-1)
        # NaN and infinity are larger than all numbers: where there are any, one of them is the best.
        finite = found.gather(-1, best[:, None])[:, 0].isfinite()
        chosen, whole = transfers.fetch(torch.stack([best if draw is None else draw(found), finite])).tolist()
        if not all(whole):
            raise not_finite()
        choices = iter(chosen)
        return [list(islice(choices, count)) for count in logits]

    @torch.inference_mode()
    def logits(
        self,
        slots: Sequence[int],
        starts: Sequence[int],
        tokens: Sequence[Sequence[int]],
        counts: Sequence[int],
        upload: Upload | None = None,
    ) -> Tensor:
        """[Σ counts, vocabulary]: the same pass, and the logits after each row's last `counts[i]` tokens."""
        upload = upload or Upload(self.base.device)
        ids, positions, wanted = self.plan(slots, starts, tokens, counts, upload)
        upload.send()
        for pairs, length in self._copies:
            source, target = pairs.tensor
            for buffer in chain.from_iterable(self._layers.values()):
                buffer[:, :length].index_copy_(0, target, buffer[:, :length].index_select(0, source))
        result = self.base.model(
            input_ids=ids.tensor[None],
            position_ids=positions.tensor[None],
            use_cache=False,
            logits_to_keep=wanted.tensor,
            perpcs_rows=self,
        )
        found: Tensor = result.logits[0]
        return found

    def copy(self, pairs: Sequence[tuple[int, int]], length: int) -> None:
        """For each (source, target) give a row the keys and values of another's first `length` positions.

        It is done before the next pass, whose upload says which rows they are.
        """
        if pairs:
            self._coming.append((np.array(pairs, np.int64).T.copy(), length))

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, kind: Kind) -> Tensor:
        """The attention's output [1, tokens, heads, dim]; inputs are [1, heads, tokens, dim]."""
        query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
        if layer not in self._layers:
            # Zeros, as what is masked is still multiplied, by zero.
            room = [x.new_zeros(*self.shape, *x.shape[1:]) for x in (key, value)]
            self._layers[layer] = (room[0], room[1])
        keys, values = self._layers[layer]
        places = self._places.tensor
        keys.flatten(0, 1).index_copy_(0, places, key)
        values.flatten(0, 1).index_copy_(0, places, value)
        outputs = [self._group(index, group, query, keys, values, kind) for index, group in enumerate(self._groups)]
        if self._groups[0].tokens is None:
            return outputs[0][None]
        line = query.new_empty(*query.shape[:2], value.shape[-1])
        for group, output in zip(self._groups, outputs, strict=True):
            assert group.tokens is not None
            line.index_copy_(0, group.tokens.tensor, output)
        return line[None]

    def _group(self, index: int, group: Group, query: Tensor, keys: Tensor, values: Tensor, kind: Kind) -> Tensor:
        """[tokens, heads, dim] of one group. Heads that share keys are laid out as more queries, and none is copied."""
        shared = query.shape[1] // keys.shape[2]
        q = query if group.take is None else query.index_select(0, group.take.tensor)
        q = q.unflatten(0, (group.rows, -1)).unflatten(2, (-1, shared)).permute(0, 2, 3, 1, 4)
        some = slice(0, group.rows) if group.slots is None else group.slots.tensor
        k, v = (buffer[some, : group.width].transpose(1, 2) for buffer in (keys, values))
        rows, heads, _, queries, dim = q.shape
        if group.fresh and not kind.softcap and (kind.window is None or group.width <= kind.window):
            unfolded = q.reshape(rows, heads * shared, queries, dim)
            out = F.scaled_dot_product_attention(
                unfolded, k, v, scale=kind.scale, is_causal=True, enable_gqa=shared > 1
            )
        else:
            key = (index, kind.window)
            if key not in self._masks:
                self._masks[key] = group.mask(kind.window, shared, query.dtype)
            mask, folded = self._masks[key], q.reshape(rows, heads, shared * queries, dim)
            if kind.softcap:
                scores = torch.tanh(folded @ k.mT * (kind.scale / kind.softcap)) * kind.softcap
                out = torch.softmax((scores + mask).float(), dim=-1).to(v.dtype) @ v
            else:
                out = F.scaled_dot_product_attention(folded, k, v, attn_mask=mask, scale=kind.scale)
        out = out.reshape(rows, heads * shared, queries, -1).transpose(1, 2)
        out = out.flatten(0, 1)
        return out if group.put is None else out.index_select(0, group.put.tensor)

    def plan(
        self,
        slots: Sequence[int],
        starts: Sequence[int],
        tokens: Sequence[Sequence[int]],
        counts: Sequence[int],
        upload: Upload,
    ) -> tuple[Sent, Sent, Sent]:
        """Lay the rows out: which place of the line is which row's, and which rows are attended together.

        Returns the line's tokens, their positions, and the places whose logits are wanted.
        """
        lengths, kept, begin = integers(list(map(len, tokens))), integers(counts), integers(starts)
        ends, total = lengths.cumsum(), int(lengths.sum())
        first = ends - lengths
        positions = np.repeat(begin - first, lengths) + np.arange(total)
        places = np.repeat(integers(slots) * self.shape[1], lengths) + positions
        wanted = np.repeat(ends - kept.cumsum(), kept) + np.arange(kept.sum())
        ids = np.fromiter(chain.from_iterable(tokens), np.int64, total)
        self._places = upload.add(places)
        self._copies = [(upload.add(pairs), length) for pairs, length in self._coming]
        self._groups, self._masks, self._coming = [], {}, []
        order = lengths.argsort(kind="stable")
        while len(order):
            # A group's padding stays below SPREAD - 1 tokens for each that is none.
            size = int(lengths[order].searchsorted(SPREAD * lengths[order[0]]))
            members, order = np.sort(order[:size]), order[size:]
            self._groups.append(Group.of(members, lengths, first, begin, integers(slots), upload))
        return upload.add(ids), upload.add(positions), upload.add(wanted)


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: Tensor | None, **rest: Any
) -> tuple[Tensor, None]:
    """transformers' attention interface: `perpcs_rows` comes from the pass, the rest from the model."""
    rows: Rows | None = rest.get("perpcs_rows")
    if rows is None:
        raise PerpcsError(f"the model does not tell its {type(module).__name__} what it is told, as decoding needs")
    if odd := [name for name in ("s_aux", "position_bias") if rest.get(name) is not None]:
        raise PerpcsError(f"the model's attention uses {odd[0]}, which decoding does not know")
    scale = rest.get("scaling") or query.shape[-1] ** -0.5
    kind = Kind(scale, rest.get("sliding_window"), rest.get("softcap"))
    return rows.attend(int(module.layer_idx), query, key, value, kind), None


@contextmanager
def packed(base: Base) -> Iterator[None]:
    """Let the model run packed passes while the block lasts.

    Raises PerpcsError where the model's attention cannot be replaced.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _attention)
    model = base.model
    before = model.config._attn_implementation
    try:
        model.set_attn_implementation(NAME)
        if model.config._attn_implementation != NAME:
            raise PerpcsError(
                f"{type(model).__name__} does not use transformers' attention interface, which decoding needs"
            )
        yield
    finally:
        model.set_attn_implementation(before)
