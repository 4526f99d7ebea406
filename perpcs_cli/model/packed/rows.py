"""Packed passes: the new tokens of many rows side by side in one line, so that no padding is ever computed.

Every linear layer sees [1, tokens, n]; only the attention tells the rows apart. Their keys and values lie in one
buffer per layer, each token's at its own position in its row: a rejected token is overwritten by the next one, and a
window that slides counts positions. On a GPU small passes are padded after all, so that they can be recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from itertools import chain

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from perpcs_cli.errors import PerpcsError
from perpcs_cli.model import transfers
from perpcs_cli.model.loading.base import Base
from perpcs_cli.model.packed.attention import Kind
from perpcs_cli.model.packed.layout import Group, Layout, Line, Shape
from perpcs_cli.model.packed.recorded import Recordings, can_record
from perpcs_cli.model.transfers import Array, Upload

ALIGNED = 16
"""Attention's masks lie best where rows are a multiple of it."""


def not_finite() -> PerpcsError:
    """What is raised where logits are NaN or infinite: an answer of theirs would be empty, and a score of it 0."""
    hint = "Try --dtype float32, and look for huge weights in recipes and adapters."
    return PerpcsError("the model's logits are not finite", hint=hint)


class Rows:
    """The keys and values of rows: two buffers [rows, capacity, heads, dim] for each layer."""

    def __init__(self, base: Base, rows: int, capacity: int) -> None:
        self.base = base
        self.recordings = Recordings(base.device) if can_record(base) else None
        self.room = (rows, -(-capacity // ALIGNED) * ALIGNED if self.recordings else capacity)
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        """Each layer's keys and values, [rows · capacity, heads, dim], and where passes are padded a place for that."""
        self._coming: list[tuple[Array, int]] = []
        self._layout: Layout
        self._masks: dict[tuple[int, int | None], Tensor] = {}

    def shape(self, starts: Sequence[int], lengths: Sequence[int]) -> Shape | None:
        """What a pass of rows with `lengths` new tokens from `starts` on is padded to, if it is."""
        return Shape.fitting(starts, lengths, self.room[1]) if self.recordings else None

    def plan(
        self,
        slots: Sequence[int],
        starts: Sequence[int],
        tokens: Sequence[Sequence[int]],
        counts: Sequence[int],
        upload: Upload | None = None,
        shape: Shape | None = None,
    ) -> Layout:
        """Lay a pass out: each row's new `tokens` from position `starts[i]` on, in the buffers' row `slots[i]`.

        Wanted are the logits after its last `counts[i]`, or, where the pass is padded to a `shape`, after all.
        What the device must know goes with `upload`, behind what the pass reads beside it.
        """
        line, upload = Line.of(slots, starts, tokens, self.room), upload or Upload(self.base.device)
        return line.padded(shape, upload) if shape else line.free(counts, upload)

    def run(self, layout: Layout, draw: Callable[[Tensor], Tensor] | None = None, state: Hashable = None) -> list[int]:
        """The choices for all logits that are wanted, the most probable token or what `draw` makes of the logits.

        The one wait for the device is for them. Raises PerpcsError where the largest logit is not finite. For `state`
        see `logits`.
        """
        found = self.logits(layout, state)
        best = found.argmax(-1)
        # NaN and infinity are larger than all numbers: where there are any, one of them is the best.
        finite = found.gather(-1, best[:, None])[:, 0].isfinite()
        chosen, whole = transfers.fetch(torch.stack([best if draw is None else draw(found), finite])).tolist()
        if not all(whole):
            raise not_finite()
        choices: list[int] = chosen
        return choices

    @torch.inference_mode()
    def logits(self, layout: Layout, state: Hashable = None) -> Tensor:
        """[Σ counts, vocabulary]: send what a pass needs, and run it.

        With `state`, which changes when a tensor is replaced that the linear layers' pieces are in, a pass that is
        padded to a shape is recorded. The result holds until the next pass.
        """
        copies = [(layout.upload.add(pairs), length) for pairs, length in self._coming]
        self._coming = []
        layout.upload.send()
        for pairs, length in copies:
            source, target = pairs.tensor
            for buffer in chain.from_iterable(self._layers.values()):
                rows = self._of_rows(buffer)[:, :length]
                rows.index_copy_(0, target, rows.index_select(0, source))
        if self.recordings and layout.shape and state is not None:
            found = self.recordings.run(layout.shape, state, layout.upload, layout.words, partial(self._run, layout))
        else:
            found = self._run(layout)
        return found[: layout.count] if layout.shape else found

    def _run(self, layout: Layout) -> Tensor:
        """The pass itself, which reads what is on the device alone."""
        self._layout, self._masks = layout, {}
        result = self.base.model(
            input_ids=layout.ids.tensor[None],
            position_ids=layout.positions.tensor[None],
            use_cache=False,
            logits_to_keep=layout.wanted.tensor if layout.wanted else 0,
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
            size = self.room[0] * self.room[1] + bool(self.recordings)
            buffers = [x.new_zeros(size, *x.shape[1:]) for x in (key, value)]
            self._layers[layer] = (buffers[0], buffers[1])
        places = self._layout.places.tensor
        for buffer, x in zip(self._layers[layer], (key, value), strict=True):
            buffer.index_copy_(0, places, x)
        keys, values = (self._of_rows(buffer) for buffer in self._layers[layer])
        groups = self._layout.groups
        outputs = [self._group(index, group, query, keys, values, kind) for index, group in enumerate(groups)]
        if groups[0].tokens is None:
            return outputs[0][None]
        line = query.new_empty(*query.shape[:2], value.shape[-1])
        for group, output in zip(groups, outputs, strict=True):
            assert group.tokens is not None
            line.index_copy_(0, group.tokens.tensor, output)
        return line[None]

    def _of_rows(self, buffer: Tensor) -> Tensor:
        """[rows, capacity, heads, dim] of a layer's keys or values."""
        return buffer[: self.room[0] * self.room[1]].unflatten(0, self.room)

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
