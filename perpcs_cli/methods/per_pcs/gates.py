"""Gate scores (Per-PCs, equations 4 and 5), and the gates of all sharers: kept on the device, or read again."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from perpcs_cli.artifacts.pool import OpenPool
from perpcs_cli.artifacts.settings import GateDtype, Scoring
from perpcs_cli.model.engine.batching import Encoded
from perpcs_cli.model.engine.memory import free_bytes

GATE_CACHE_BYTES = 1 << 30
"""Gates up to this size stay on the device, or as many as fill half of what is free there: the linear layers that come
first. Those of the others are read again whenever passes come to them."""


def normalize(vectors: Tensor, scoring: Scoring) -> Tensor:
    """`vectors` […, n] made comparable: LayerNorm without affine (published) or unit length (paper). Float32."""
    vectors = vectors.float()
    if scoring == "published":
        return F.layer_norm(vectors, vectors.shape[-1:])
    return F.normalize(vectors, dim=-1)


@dataclass(frozen=True)
class AnswerTokens:
    """Where a left-padded batch's activations count, and how much, planned on the host."""

    at: NDArray[np.int64]
    """[N]: places in the rows' tokens, one row after the other."""
    shares: NDArray[np.float32]
    """[G, N]: how much each counts in each decision, so that a decision's scores are `shares` @ the tokens' scores."""


def answer_tokens(rows: Sequence[Encoded], owners: Sequence[int], scoring: Scoring) -> AnswerTokens:
    """Those that predict the answer's tokens (published code: from the prompt's last position to the one before the
    answer's last), or the answer's own positions (paper). `owners`: the decision that each row belongs to.

    A decision's score is the mean over its rows: of the mean over a row's answer (published), or of the sum (paper).
    """
    width = max(len(row) for row in rows)
    end = width - 1 if scoring == "published" else width
    lengths = np.array([len(row.answer) for row in rows])
    row_of = np.repeat(np.arange(len(rows)), lengths)
    first = np.cumsum(lengths) - lengths
    at = row_of * width + end - lengths[row_of] + np.arange(len(row_of)) - first[row_of]
    owner_of = np.asarray(owners)[row_of]
    parts = 1 / np.bincount(owners)[owner_of]
    if scoring == "published":
        parts = parts / lengths[row_of]
    shares = np.zeros((max(owners) + 1, len(at)), dtype=np.float32)
    shares[owner_of, np.arange(len(at))] = parts
    return AnswerTokens(at, shares)


def answers_mean(x: Tensor, at: Tensor, shares: Tensor, scoring: Scoring) -> Tensor:
    """[G, n]: what a decision sees of a linear layer's inputs `x` [rows, tokens, n], from the arrays of `AnswerTokens`.

    A score is linear in the activations, so they are added up before they meet the gates.
    """
    return shares @ normalize(x.flatten(0, 1).index_select(0, at), scoring)


def gate_scores(means: Tensor, gates: Tensor) -> Tensor:
    """[G, S]: one score per decision and sharer, of `means` [G, n], float32, and normalized `gates` [S, n].

    published: the mean over answer tokens of x · g / √n. paper: the sum of cosines, divided by √n.
    """
    return (means @ gates.to(means.dtype).T) / means.shape[-1] ** 0.5


class Gates:
    """The normalized gates of a pool by linear layer, which the model runs in `order`. As many as there is room for
    stay on the device; of the others the one that was asked for last stays, and the next is read ahead."""

    def __init__(
        self,
        pool: OpenPool,
        order: Sequence[str],
        device: torch.device,
        scoring: Scoring,
        dtype: GateDtype = "float32",
    ) -> None:
        self.device = device
        self.scoring = scoring
        self.dtype: torch.dtype = getattr(torch, dtype)
        self._file = pool.gates()
        each = self.dtype.itemsize
        sizes = {module: each * len(pool.ids) * pool.manifest.modules[module][1] for module in order}
        room = max(GATE_CACHE_BYTES, free_bytes(device) // 2)
        ends = dict(zip(sizes, np.cumsum(list(sizes.values())).tolist(), strict=True))
        self._stay = {module for module in sizes if ends[module] <= room}
        self._kept: dict[str, Tensor] = {}
        self._order = list(order)
        self._last: tuple[str, Tensor] | None = None
        self._ahead: tuple[str, Future[Tensor]] | None = None
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="gates")

    @property
    def all_stay(self) -> bool:
        """Whether each is read once."""
        return len(self._stay) == len(self._order)

    def stays(self, module: str) -> bool:
        """Whether those of a linear layer are read once."""
        return module in self._stay

    def forget(self) -> bool:
        """Make room: from now on nothing stays. Whether that has changed anything."""
        before = bool(self._kept or self._stay)
        self._kept, self._stay, self._last = {}, set(), None
        return before

    def __getitem__(self, module: str) -> Tensor:
        """The gates [S, n] of a linear layer, in the number type of all, whether they stay or are read again."""
        if module in self._kept:
            return self._kept[module]
        if self._last and self._last[0] == module:
            return self._last[1]
        self._last = None
        gates = normalize(self._next(module).to(self.device), self.scoring).to(self.dtype)
        if module in self._stay:
            self._kept[module] = gates
        else:
            self._last = (module, gates)
        return gates

    def _next(self, module: str) -> Tensor:
        """What the file has of a linear layer. While it is used, what will be asked for next is read."""
        ahead, self._ahead = self._ahead, None
        found = ahead[1].result() if ahead and ahead[0] == module else self._file.read(module)
        if not self.all_stay:
            at = self._order.index(module)
            coming = next((later for later in self._order[at + 1 :] if later not in self._kept), None)
            if coming is not None:
                self._ahead = (coming, self._reader.submit(self._file.read, coming))
        return found
