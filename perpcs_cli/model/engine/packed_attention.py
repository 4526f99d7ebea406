"""Packed passes: the new tokens of many rows side by side in one line, so that no padding is ever computed.

Every linear layer sees [1, tokens, n]; only the attention tells the rows apart. Their keys and values lie in one
buffer per layer, each token's at its own position in its row: a rejected token is overwritten by the next one, and a
window that slides counts positions. It hangs on transformers' attention interface while a block lasts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from perpcs_cli.errors import PerpcsError
from perpcs_cli.model.loading.base import Base

NAME = "perpcs_packed"
SPREAD = 4
"""Rows whose numbers of new tokens differ by less than this factor share a call of the attention kernel."""


def not_finite() -> PerpcsError:
    """What is raised where logits are NaN or infinite: an answer of theirs would be empty, and a score of it 0."""
    hint = "Try --dtype float32, and look for huge weights in recipes and adapters."
    return PerpcsError("the model's logits are not finite", hint=hint)


@dataclass(frozen=True)
class Group:
    """Rows of a pass that share a call of the attention kernel, padded to the longest on the right."""

    slots: Tensor | slice
    """[rows] places in the buffers."""
    take: Tensor
    """[rows, queries] places in the line of tokens; the padding repeats a row's last token."""
    put: Tensor
    """[tokens] places among the rows · queries outputs that are no padding."""
    tokens: Tensor
    """[tokens] places in the line of tokens, in the order of `put`."""
    positions: Tensor
    """[rows, queries] positions of the queries."""
    width: int
    """The group's longest row, old and new tokens."""
    fresh: bool
    """No row has old tokens."""

    def mask(self, window: int | None, groups: int, dtype: torch.dtype) -> Tensor:
        """[rows, 1, groups · queries, width]: what is added to the scores; a query sees up to its own position."""
        places = torch.arange(self.width, device=self.positions.device)
        distance = self.positions[:, :, None] - places
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
        self._line: Tensor
        self._positions: Tensor
        self._groups: list[Group] = []
        self._masks: dict[tuple[int, int | None], Tensor] = {}

    def run(
        self,
        slots: Sequence[int],
        starts: Sequence[int],
        tokens: Sequence[Sequence[int]],
        logits: Sequence[int],
        draw: Callable[[Tensor], Tensor] | None = None,
    ) -> list[list[int]]:
        """Run each row's new `tokens` from position `starts[i]` on; the choices after its last `logits[i]`.

        `slots[i]` is the row's place in the buffers. A choice is the most probable token, or what `draw` makes of the
        logits. The one wait for the device is for the choices. Raises PerpcsError where the largest logit is not
        finite.
        """
        found = self.logits(slots, starts, tokens, logits)
        best = found.argmax(-1)
        # NaN and infinity are larger than all numbers: where there are any, one of them is the best.
        finite = found.gather(-1, best[:, None])[:, 0].isfinite()
        chosen, whole = torch.stack([best if draw is None else draw(found), finite]).tolist()
        if not all(whole):
            raise not_finite()
        choices = iter(chosen)
        return [[next(choices) for _ in range(count)] for count in logits]

    @torch.inference_mode()
    def logits(
        self, slots: Sequence[int], starts: Sequence[int], tokens: Sequence[Sequence[int]], counts: Sequence[int]
    ) -> Tensor:
        """[Σ counts, vocabulary]: the same pass, and the logits after each row's last `counts[i]` tokens."""
        lengths = [len(row) for row in tokens]
        self._plan(slots, starts, lengths)
        ends = torch.tensor(lengths).cumsum(0).tolist()
        wanted = [place for end, count in zip(ends, counts, strict=True) for place in range(end - count, end)]
        place = self.base.device
        ids = torch.tensor([token for row in tokens for token in row])
        result = self.base.model(
            input_ids=ids[None].to(place),
            position_ids=self._positions[None],
            use_cache=False,
            logits_to_keep=torch.tensor(wanted, dtype=torch.long).to(place),
            perpcs_rows=self,
        )
        found: Tensor = result.logits[0]
        return found

    @torch.inference_mode()
    def copy(self, pairs: Sequence[tuple[int, int]], length: int) -> None:
        """For each (source, target) give a row the keys and values of another's first `length` positions."""
        if pairs:
            source, target = torch.tensor(pairs).T.to(self.base.device)
            for layer in self._layers.values():
                for buffer in layer:
                    buffer[target, :length] = buffer[source, :length]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, kind: Kind) -> Tensor:
        """The attention's output [1, tokens, heads, dim]; inputs are [1, heads, tokens, dim]."""
        query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
        if layer not in self._layers:
            # Zeros, as what is masked is still multiplied, by zero.
            room = [x.new_zeros(*self.shape, *x.shape[1:]) for x in (key, value)]
            self._layers[layer] = (room[0], room[1])
        keys, values = self._layers[layer]
        keys[self._line, self._positions] = key
        values[self._line, self._positions] = value
        output = query.new_empty(*query.shape[:2], value.shape[-1])
        for index, group in enumerate(self._groups):
            output[group.tokens] = self._group(index, group, query, keys, values, kind)
        return output[None]

    def _group(self, index: int, group: Group, query: Tensor, keys: Tensor, values: Tensor, kind: Kind) -> Tensor:
        """[tokens, heads, dim] of one group. Heads that share keys are laid out as more queries, and none is copied."""
        shared = query.shape[1] // keys.shape[2]
        q = query[group.take].unflatten(2, (-1, shared)).permute(0, 2, 3, 1, 4)
        k, v = (buffer[group.slots, : group.width].transpose(1, 2) for buffer in (keys, values))
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
        return out.flatten(0, 1)[group.put]

    def _plan(self, slots: Sequence[int], starts: Sequence[int], lengths: Sequence[int]) -> None:
        """Lay the rows out: which place of the line is which row's, and which rows are attended together."""
        place = self.base.device
        count = torch.tensor(lengths)
        first = count.cumsum(0) - count
        begin = torch.tensor(starts)
        self._line = torch.tensor(slots).repeat_interleave(count).to(place)
        self._positions = ((begin - first).repeat_interleave(count) + torch.arange(int(count.sum()))).to(place)
        self._groups, self._masks = [], {}
        order = sorted(range(len(slots)), key=lambda i: lengths[i])
        while order:
            # A group's padding stays below SPREAD - 1 tokens for each that is none.
            size = sum(lengths[i] < SPREAD * lengths[order[0]] for i in order)
            members, order = torch.tensor(sorted(order[:size])), order[size:]
            steps = torch.arange(int(count[members].max()))
            inside = steps < count[members, None]
            take = first[members, None] + torch.minimum(steps, count[members, None] - 1)
            used = [slots[i] for i in members.tolist()]
            self._groups.append(
                Group(
                    slots=slice(0, len(used)) if used == list(range(len(used))) else torch.tensor(used).to(place),
                    take=take.to(place),
                    put=inside.flatten().nonzero()[:, 0].to(place),
                    tokens=take[inside].to(place),
                    positions=(take - first[members, None] + begin[members, None]).to(place),
                    width=int((begin + count)[members].max()),
                    fresh=not bool(begin[members].any()),
                )
            )


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
