"""Where the tokens of a pass lie, and which rows are attended together; planned in numpy, and sent with the rest.

A pass may lie as it comes, its rows in groups of nearly equal numbers of new tokens. Or it is padded to one of a few
shapes, so that the next pass has the same: then it can be recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from perpcs_cli.model.transfers import Sent, Upload, integers

SPREAD = 4
"""Rows whose numbers of new tokens differ by less than this factor share a call of the attention kernel."""
MOST_TOKENS = 512
"""Of a pass that is padded: more take longer than it takes the host to start them."""
QUERIES = (1, 8, 32)
"""New tokens of a row in a padded pass."""
WIDTH = 128
"""The longest row of a padded pass is a multiple of it, or what the buffers hold."""

Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Shape:
    """The numbers of a padded pass: tokens of the line, queries of each row, and the longest row's old and new."""

    tokens: int
    queries: int
    width: int

    @classmethod
    def fitting(cls, starts: Sequence[int], lengths: Sequence[int], capacity: int) -> Shape | None:
        """The smallest for rows with `lengths` new tokens from `starts` on; None where they are too many."""
        total, longest = sum(lengths), max(lengths)
        if total > MOST_TOKENS or longest > QUERIES[-1]:
            return None
        width = max(start + length for start, length in zip(starts, lengths, strict=True))
        return cls(
            tokens=1 << (total - 1).bit_length(),
            queries=next(size for size in QUERIES if size >= longest),
            width=min(capacity, -(-width // WIDTH) * WIDTH),
        )


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
class Layout:
    """A pass: `ids` and `positions` of the line's tokens, their `places` in the buffers laid out as one line, the
    places in the line whose logits are wanted (None: all of the line's), and its groups.

    The pass reads the first `words` of the `upload`, which is to be sent before it. Where it is padded to a `shape`,
    `count` tokens of the line are no padding, and the logits wanted are theirs.
    """

    upload: Upload
    words: int
    ids: Sent
    positions: Sent
    places: Sent
    wanted: Sent | None
    groups: list[Group]
    count: int
    shape: Shape | None = None


def padded(lengths: Places, width: int) -> tuple[Places, npt.NDArray[np.bool_]]:
    """[rows, width]: places in rows of these lengths, the last one again for padding; and where they are no padding."""
    steps = np.arange(width)
    return np.minimum(steps, lengths[:, None] - 1), steps < lengths[:, None]


@dataclass(frozen=True)
class Line:
    """Rows side by side: of each its place in the buffers, its position there, and its new tokens."""

    slots: Places
    starts: Places
    lengths: Places
    ids: Places
    room: tuple[int, int]
    """Rows of the buffers, and tokens of each."""

    @classmethod
    def of(
        cls, slots: Sequence[int], starts: Sequence[int], tokens: Sequence[Sequence[int]], room: tuple[int, int]
    ) -> Line:
        """Of rows as they are run."""
        lengths = integers(list(map(len, tokens)))
        ids = np.fromiter(chain.from_iterable(tokens), np.int64, int(lengths.sum()))
        return cls(integers(slots), integers(starts), lengths, ids, room)

    @property
    def first(self) -> Places:
        """Each row's first place in the line."""
        return self.lengths.cumsum() - self.lengths

    @property
    def positions(self) -> Places:
        """Of each token in its row."""
        return np.repeat(self.starts - self.first, self.lengths) + np.arange(len(self.ids))

    @property
    def places(self) -> Places:
        """Of each token in the buffers."""
        return np.repeat(self.slots * self.room[1], self.lengths) + self.positions

    def free(self, counts: Sequence[int], upload: Upload) -> Layout:
        """As it comes; wanted are the logits after each row's last `counts[i]` tokens."""
        kept = integers(counts)
        wanted = np.repeat(self.lengths.cumsum() - kept.cumsum(), kept) + np.arange(kept.sum())
        places = upload.add(self.places)
        groups = [self._group(members, upload) for members in self._alike()]
        ids, positions, asked = upload.add(self.ids), upload.add(self.positions), upload.add(wanted)
        return Layout(upload, upload.size, ids, positions, places, asked, groups, len(self.ids))

    def _alike(self) -> Iterator[Places]:
        order = self.lengths.argsort(kind="stable")
        while len(order):
            # A group's padding stays below SPREAD - 1 tokens for each that is none.
            size = int(self.lengths[order].searchsorted(SPREAD * self.lengths[order[0]]))
            members, order = np.sort(order[:size]), order[size:]
            yield members

    def _group(self, members: Places, upload: Upload) -> Group:
        own, start, used = self.lengths[members], self.starts[members], self.slots[members]
        own_places, inside = padded(own, int(own.max()))
        take = self.first[members, None] + own_places
        alone, even = len(members) == len(self.lengths), bool(inside.all())
        return Group(
            rows=len(members),
            slots=None if np.array_equal(used, np.arange(len(used))) else upload.add(used),
            take=None if alone and even else upload.add(take.reshape(-1)),
            put=None if even else upload.add(inside.reshape(-1).nonzero()[0]),
            tokens=None if alone else upload.add(take[inside]),
            positions=upload.add(start[:, None] + own_places),
            width=int((start + own).max()),
            fresh=not start.any(),
        )

    def padded(self, shape: Shape, upload: Upload) -> Layout:
        """Padded to a shape, the logits of all its tokens wanted: every place of the buffers is a row.

        What is padding is computed and thrown away. Its keys go to a place behind all rows, which nothing reads.
        """
        rows, capacity = self.room
        take, positions = (np.zeros((rows, shape.queries), np.int64) for _ in range(2))
        own_places, _ = padded(self.lengths, shape.queries)
        take[self.slots] = self.first[:, None] + own_places
        positions[self.slots] = self.starts[:, None] + own_places
        put = np.repeat(self.slots * shape.queries - self.first, self.lengths) + np.arange(len(self.ids))

        def whole(numbers: Places, padding: int = 0) -> Sent:
            missing = shape.tokens - len(numbers)
            return upload.add(np.concatenate([numbers, np.full(missing, padding, np.int64)]))

        places = whole(self.places, rows * capacity)
        group = Group(
            rows=rows,
            slots=None,
            take=upload.add(take.reshape(-1)),
            put=whole(put),
            tokens=None,
            positions=upload.add(positions),
            width=shape.width,
            fresh=False,
        )
        ids, spots = whole(self.ids), whole(self.positions)
        return Layout(upload, upload.size, ids, spots, places, None, [group], len(self.ids), shape)
