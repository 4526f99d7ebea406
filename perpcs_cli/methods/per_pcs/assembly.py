"""Per-PCs assembly: gate scores choose and weight pieces, layer by layer, from a target user's history.

Source: Tan et al., Personalized Pieces, 2024, section 3.3, and its published code.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional as F

from perpcs_cli.artifacts.io import hashing
from perpcs_cli.artifacts.pool import OpenPool
from perpcs_cli.artifacts.settings import AssembleSettings, Scoring
from perpcs_cli.errors import DataError, PerpcsError
from perpcs_cli.model.engine.batching import Batch, Encoded, make_batch
from perpcs_cli.model.engine.lora_layer import Pieces, attached
from perpcs_cli.model.engine.memory import Halving, free_bytes, release, watched
from perpcs_cli.model.engine.piece_cache import PieceCache
from perpcs_cli.model.loading.base import Base
from perpcs_cli.model.training.repeatable import repeatable

GATE_CACHE_BYTES = 1 << 30
"""Gates up to this size stay on the device, or as many as fill half of what is free there: the linear layers that come
first. Those of the others are read again in every pass."""


def normalize(vectors: Tensor, scoring: Scoring) -> Tensor:
    """`vectors` […, n] made comparable: LayerNorm without affine (published) or unit length (paper). Float32."""
    vectors = vectors.float()
    if scoring == "published":
        return F.layer_norm(vectors, vectors.shape[-1:])
    return F.normalize(vectors, dim=-1)


def answer_positions(batch: Batch, scoring: Scoring) -> Tensor:
    """[rows, tokens], true where the activations count: those that predict the answer's tokens (published code:
    from the prompt's last position to the one before the answer's last), or the answer's own positions (paper)."""
    width = batch.ids.shape[1]
    end = width - 1 if scoring == "published" else width
    lengths = torch.tensor(batch.answers, device=batch.ids.device)[:, None]
    at = torch.arange(width, device=batch.ids.device)[None, :]
    return (at >= end - lengths) & (at < end)


def gate_scores(tokens: Tensor, gates: Tensor, rows: Tensor, count: int, scoring: Scoring) -> Tensor:
    """One score per row and sharer, [count, S] (Per-PCs, equations 4 and 5).

    `tokens`: [N, n] normalized activations of answer tokens, `rows`: [N] the row of each, `gates`: [S, n] normalized.
    published: the mean over a row's answer tokens of x · g / √n. paper: the sum of cosines, divided by √n.
    """
    # In place: of thousands of sharers it is the largest tensor of a pass.
    scores = (tokens @ gates.T).div_(tokens.shape[-1] ** 0.5)
    with repeatable(scores.device):
        summed = scores.new_zeros(count, scores.shape[1]).index_add_(0, rows, scores)
    if scoring == "paper":
        return summed
    return summed / torch.bincount(rows, minlength=count)[:, None]


def choose(scores: Tensor, settings: AssembleSettings, generator: torch.Generator) -> list[tuple[int, float]]:
    """The sharers whose pieces are used, with weights that sum to 1, from `scores` [S]; -inf is not on offer.

    top-k: the k best. top-p: the best whose softmax adds up to at least p. With sampling, k are drawn without
    replacement by their softmax among the `sample_from` best, or among the top-p, which are fewer where fewer reach p
    unless `keep_k`, as in the published code. Weights are the softmax of the
    chosen scores (Per-PCs, equation 6), or equal.
    """
    offered = int(scores.isfinite().sum())
    if not offered:
        return []
    k = min(settings.top_k, offered)
    if settings.top_p is not None:
        order = _best(scores, offered)
        softmax = _softmax(scores[order], settings.temperature)
        # A sharer stays where those before it do not yet reach p.
        reached = int((softmax.cumsum(0) - softmax < settings.top_p).sum())
        order = order[: max(reached, k if settings.sample and settings.keep_k else 0)]
    else:
        order = _best(scores, min(offered, max(k, settings.sample_from) if settings.sample else k))
    if settings.sample:
        chances = _softmax(scores[order], settings.temperature)
        order = order[torch.multinomial(chances, min(k, len(order)), generator=generator)]
    if settings.aggregate == "uniform":
        weights = torch.full((len(order),), 1 / len(order), dtype=torch.double)
    else:
        weights = _softmax(scores[order], settings.temperature)
    return list(zip(order.tolist(), weights.tolist(), strict=True))


def _best(scores: Tensor, count: int) -> Tensor:
    """The places of the `count` largest, best first; of equal ones the first. Only these are sorted."""
    able = (scores >= scores.topk(count).values[-1]).nonzero().flatten()
    return able[torch.argsort(scores[able], descending=True, stable=True)[:count]]


def _softmax(scores: Tensor, temperature: float) -> Tensor:
    """Of scores / temperature. The largest is taken off first: however low the temperature, none is NaN."""
    exact = scores.double()
    return torch.softmax((exact - exact.max()) / temperature, dim=0)


@dataclass(frozen=True)
class HistoryBatch:
    """The rows of one decision: one batch of one user's history."""

    user_id: str
    number: int
    rows: Sequence[Encoded]
    withheld: Collection[int] = ()
    """The places among the sharers whose pieces are not on offer: the user's own, and those who are not similar."""


def make_batches(
    user_id: str,
    history: Sequence[Encoded],
    settings: AssembleSettings,
    withheld: Collection[int] = (),
    *,
    seed: int = 0,
) -> list[HistoryBatch]:
    """A user's history in batches, in order, or in one drawn by seed and user, as in the published code."""
    rows, size = list(history), settings.batch_size
    if settings.shuffle:
        random.Random(hashing.derive_seed(seed, "batches", user_id)).shuffle(rows)
    starts = range(0, len(rows), size)
    return [HistoryBatch(user_id, number, rows[at : at + size], withheld) for number, at in enumerate(starts)]


class Assembler:
    """The router of an assembly pass: at each linear layer it scores, chooses and applies, so that the pieces chosen
    for one layer shape what the next one sees; with `activations` "base" it applies nothing.

    `common` [n] by linear layer, where given, is taken off the normalized activations: what everybody has in common.
    """

    def __init__(
        self,
        base: Base,
        pool: OpenPool,
        bank: PieceCache,
        settings: AssembleSettings,
        seed: int,
        common: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        self.base = base
        self.pool = pool
        self.bank = bank
        self.settings = settings
        self.seed = seed
        self._common = common
        self._file = pool.gates()
        self._gates: dict[str, Tensor] = {}
        self._room = max(GATE_CACHE_BYTES, free_bytes(base.device) // 2)
        self._withheld = {module: torch.tensor(some, dtype=torch.long) for module, some in pool.withheld().items()}

    def run(self, batches: Sequence[HistoryBatch]) -> list[dict[str, list[tuple[int, float]]]]:
        """The weights of each group, {linear layer: [(sharer, weight)]}, from one pass over all of them.

        Where the device's memory runs out, gates that are kept for later passes make room first.
        """
        try:
            with watched():
                return self._pass(batches)
        except torch.OutOfMemoryError:
            if not self._gates:
                raise
        self._gates.clear()
        self._room = 0
        release()
        return self._pass(batches)

    def _pass(self, batches: Sequence[HistoryBatch]) -> list[dict[str, list[tuple[int, float]]]]:
        for group in batches:
            if not all(row.answer for row in group.rows):
                raise DataError("a history example has no answer, at which it could be scored", where=group.user_id)
        batch = make_batch(self.base, [row for group in batches for row in group.rows])
        self._owners = [index for index, group in enumerate(batches) for _ in group.rows]
        self._withheld_of = [torch.tensor(list(group.withheld), dtype=torch.long) for group in batches]
        self._rows, self._positions = answer_positions(batch, self.settings.scoring).nonzero(as_tuple=True)
        self._generators = [
            torch.Generator().manual_seed(hashing.derive_seed(self.seed, g.user_id, g.number)) for g in batches
        ]
        self._chosen: list[dict[str, list[tuple[int, float]]]] = [{} for _ in batches]
        self._input: Tensor | None = None
        try:
            with torch.inference_mode(), attached(self.base, self, merge=self.settings.merge):
                self.base.model.get_decoder()(**batch.inputs(), use_cache=False)
        finally:
            self._input = None
        return self._chosen

    def __call__(self, module: str, x: Tensor) -> Pieces | None:
        """Score the sharers of this linear layer, choose for every group, and apply."""
        if x is not self._input:
            # The q, k and v projections of a layer see the same tensor.
            self._input = x
            self._tokens = normalize(x[self._rows, self._positions], self.settings.scoring)
            if self._common:
                self._tokens = self._tokens - self._common[module]
        scores = gate_scores(
            self._tokens, self._gate(module), self._rows, len(self._owners), self.settings.scoring
        ).cpu()
        if not scores.isfinite().all():
            raise PerpcsError(f"the gate scores of {module!r} are not finite", hint="Try --dtype float32.")
        scores[:, self._withheld[module]] = -torch.inf
        owners = torch.tensor(self._owners)
        mixes = []
        for index, chosen in enumerate(self._chosen):
            mean = scores[owners == index].mean(0)
            mean[self._withheld_of[index]] = -torch.inf
            mix = choose(mean, self.settings, self._generators[index])
            chosen[module] = mix
            mixes.append(mix)
        used = sorted({sharer for mix in mixes for sharer, _ in mix})
        if not used or self.settings.activations == "base":
            return None
        column = {sharer: number for number, sharer in enumerate(used)}
        weights = torch.zeros(len(mixes), len(used))
        for index, mix in enumerate(mixes):
            for sharer, weight in mix:
                weights[index, column[sharer]] = weight
        a, b = self.bank.stack(module, used)
        return Pieces(a, b, weights[owners].to(x.device))

    def _gate(self, module: str) -> Tensor:
        if module in self._gates:
            return self._gates[module]
        gates = normalize(self._file.read(module).to(self.base.device), self.settings.scoring)
        if gates.nbytes <= self._room:
            self._room -= gates.nbytes
            self._gates[module] = gates
        return gates


def average(parts: Sequence[dict[str, list[tuple[int, float]]]]) -> dict[str, list[tuple[int, float]]]:
    """The mean of several batches' weights, {linear layer: [(sharer, weight)]}; a missing sharer counts as 0."""
    result = {}
    for module in parts[0]:
        total: dict[int, float] = {}
        for part in parts:
            for sharer, weight in part[module]:
                total[sharer] = total.get(sharer, 0.0) + weight / len(parts)
        result[module] = sorted(total.items())
    return result


def assemble(
    assembler: Assembler,
    batches: Sequence[HistoryBatch],
    *,
    batch_tokens: int,
    wanted: Collection[str],
    done: Callable[[str, dict[str, list[tuple[int, float]]]], None],
) -> None:
    """Assemble the users of `batches` (each user's in a row), several in a pass; `done(user, weights)` for the wanted.

    Who shares a pass does not depend on who is wanted: a run that goes on computes what one that was never stopped
    would. Where the device's memory runs out, a pass is divided between its batches. Raises PerpcsError for a batch
    that does not fit alone.
    """
    finished: dict[str, list[dict[str, list[tuple[int, float]]]]] = {}
    waiting = Counter(group.user_id for group in batches)
    passes: list[list[HistoryBatch]] = []
    rows = longest = 0
    for group in batches:
        rows, longest = rows + len(group.rows), max(longest, *map(len, group.rows))
        if passes and rows * longest <= batch_tokens:
            passes[-1].append(group)
        else:
            passes.append([group])
            rows, longest = len(group.rows), max(map(len, group.rows))
    for some in passes:
        if not any(group.user_id in wanted for group in some):
            continue
        parts = Halving[HistoryBatch](lambda group: group.rows).run(some, assembler.run)
        for group, weights in zip(some, chain.from_iterable(parts), strict=True):
            found = finished.setdefault(group.user_id, [])
            found.append(weights)
            if group.user_id in wanted and len(found) == waiting[group.user_id]:
                done(group.user_id, average(finished.pop(group.user_id)))
