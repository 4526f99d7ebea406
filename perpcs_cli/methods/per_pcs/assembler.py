"""A pass of Per-PCs assembly: at each linear layer gate scores choose and weight pieces, which shape what follows.

It is planned on the host, goes to the device in one copy, and what was chosen in all linear layers comes back in one
at its end. Where the pieces of the whole pool do not fit on the device, or it is the processor, what was chosen comes
back at each layer, for these pieces to be fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import local
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from perpcs_cli.artifacts.io import hashing
from perpcs_cli.artifacts.pool import OpenPool
from perpcs_cli.artifacts.settings import AssembleSettings
from perpcs_cli.errors import DataError, PerpcsError
from perpcs_cli.methods.per_pcs.choice import Choice, choose
from perpcs_cli.methods.per_pcs.gates import Gates, answer_tokens, answers_mean, gate_scores
from perpcs_cli.methods.per_pcs.history_batches import HistoryBatch
from perpcs_cli.methods.per_pcs.turns import in_turns
from perpcs_cli.model import transfers
from perpcs_cli.model.engine.batching import Batch, make_batch
from perpcs_cli.model.engine.lora_layer import Pieces, attached
from perpcs_cli.model.engine.memory import release, total_bytes, watched
from perpcs_cli.model.engine.piece_cache import PieceCache
from perpcs_cli.model.engine.sampling import state_at
from perpcs_cli.model.fused import fused
from perpcs_cli.model.loading.base import Base
from perpcs_cli.model.transfers import Upload, integers

Weights = dict[str, list[tuple[int, float]]]
"""{linear layer: [(place of the sharer, weight)]}."""
LAYERS_HELD = 4
"""A pass that waits for the others holds at most so many tensors as wide as the model's widest linear layer."""


@dataclass
class _Pass:
    """What a pass over G batches has on the device."""

    batch: Batch
    at: Tensor
    shares: Tensor
    owners: Tensor
    """[rows]: the batch that each row belongs to."""
    withheld: Tensor | None
    """[G, S], true where a sharer is not on offer; None where all are."""
    states: Tensor | None
    """[G, linear layers]: where the noise begins; None where nothing is drawn."""
    next_stage: Callable[[], None] | None = None
    """Where passes go side by side: lets all others come to the same linear layer."""
    input: Tensor | None = None
    means: Tensor | None = None
    seen: dict[str, Tensor] = field(default_factory=dict)
    """The means [G, n] of each linear layer, where they are scored after the pass."""
    chosen: dict[str, Choice] = field(default_factory=dict)
    finite: list[Tensor] = field(default_factory=list)


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
        self.gates = Gates(pool, list(base.targets), base.device, settings.scoring, settings.gate_dtype)
        self._common = common
        self._numbers = {module: number for number, module in enumerate(pool.modules)}
        held_back = pool.withheld()
        mask = np.zeros((len(pool.modules), len(pool.ids)), dtype=np.bool_)
        for number, module in enumerate(pool.modules):
            mask[number, held_back[module]] = True
        self._withheld = torch.from_numpy(mask).to(base.device) if mask.any() else None
        self._running = local()
        self._stays = self._fits()
        self._whole: dict[str, tuple[Tensor, Tensor]] = {}

    @property
    def applies(self) -> bool:
        """Whether what is chosen is added to what the next layer sees."""
        return self.settings.activations == "assembled"

    def _fits(self) -> bool:
        """Whether a pass need not come back to the host before its end."""
        if self.base.device.type == "cpu":
            return False
        if not self.applies:
            # The best of all sharers that reach top-p may be as many as there are.
            return self.settings.top_p is None
        each = sum(sum(shape) for shape in self.pool.manifest.modules.values()) * self.pool.manifest.rank
        # Of all its memory and not of what is free, so that the same command adds up in the same order every time.
        return 8 * each * self.base.dtype.itemsize * len(self.pool.ids) <= total_bytes(self.base.device)

    def bytes_held(self, batches: Sequence[HistoryBatch]) -> int:
        """What a pass holds on the device while others come to the same linear layer, about."""
        shapes = self.pool.manifest.modules.values()
        if not self.applies:
            return 4 * len(batches) * sum(inputs for _, inputs in shapes)
        rows = [row for group in batches for row in group.rows]
        tokens = len(rows) * max(map(len, rows))
        return LAYERS_HELD * tokens * max(map(max, shapes)) * self.base.dtype.itemsize

    def walk(self, passes: Sequence[Sequence[HistoryBatch]]) -> list[list[Weights]]:
        """The weights of each batch in each of several passes, which go through the linear layers side by side: gates
        that are not kept are read once for all of them. Raises torch.OutOfMemoryError where they do not fit."""
        with watched(), fused(self.base), attached(self.base, self, merge=self.settings.merge):
            planned = [self.plan(some) for some in passes]
            if self.applies:
                found = in_turns([partial(self.run_on_device, one) for one in planned])
            else:
                for one in planned:
                    self._forward(one)
                for module in list(planned[0].seen):
                    for one in planned:
                        self._choose(one, module, one.seen.pop(module))
                found = [self._packed(one) for one in planned]
        return [self.read(one, packed) for one, packed in zip(planned, found, strict=True)]

    def run(self, batches: Sequence[HistoryBatch]) -> list[Weights]:
        """The weights of each batch, from one pass over all of them.

        Where the device's memory runs out, what is kept for later passes makes room first.
        """
        try:
            with watched():
                return self._run(batches)
        except torch.OutOfMemoryError:
            if not self.gates.forget() and not self._whole:
                raise
        self._whole.clear()
        self._stays = self._stays and not self.applies
        release()
        return self._run(batches)

    def _run(self, batches: Sequence[HistoryBatch]) -> list[Weights]:
        with fused(self.base), attached(self.base, self, merge=self.settings.merge):
            one = self.plan(batches)
            return self.read(one, self.run_on_device(one))

    def plan(self, batches: Sequence[HistoryBatch]) -> _Pass:
        """All that a pass needs, on the device in one copy. Raises DataError for an example without an answer."""
        for group in batches:
            if not all(row.answer for row in group.rows):
                raise DataError("a history example has no answer, at which it could be scored", where=group.user_id)
        rows = [row for group in batches for row in group.rows]
        owners = [index for index, group in enumerate(batches) for _ in group.rows]
        tokens = answer_tokens(rows, owners, self.settings.scoring)
        upload = Upload(self.base.device)
        at, shares, owner_of = (upload.add(array) for array in (tokens.at, tokens.shares, integers(owners)))
        withheld = states = None
        if any(group.withheld for group in batches):
            mask = np.zeros((len(batches), len(self.pool.ids)), dtype=np.float32)
            for index, group in enumerate(batches):
                mask[index, list(group.withheld)] = 1
            withheld = upload.add(mask)
        if self.settings.sample:
            starts = [hashing.derive_seed(self.seed, group.user_id, group.number) for group in batches]
            states = upload.add(
                np.array([[state_at(start, place) for place in range(len(self.pool.modules))] for start in starts])
            )
        batch = make_batch(self.base, rows, upload)
        return _Pass(
            batch,
            at.tensor,
            shares.tensor,
            owner_of.tensor,
            withheld.tensor > 0 if withheld else None,
            states.tensor if states else None,
        )

    def run_on_device(self, one: _Pass, next_stage: Callable[[], None] | None = None) -> Tensor:
        """What was chosen in all linear layers, packed for `read`; the host waits for nothing."""
        one.next_stage = next_stage
        self._forward(one)
        if not self.applies:
            for module in list(one.seen):
                self._choose(one, module, one.seen.pop(module))
        return self._packed(one)

    @torch.inference_mode()
    def _forward(self, one: _Pass) -> None:
        self._running.one = one
        try:
            self.base.model.get_decoder()(**one.batch.inputs(), use_cache=False)
        finally:
            self._running.one = one.input = one.means = None

    def __call__(self, module: str, x: Tensor) -> Pieces | None:
        """Score the sharers of this linear layer, choose for every batch, and apply."""
        one: _Pass = self._running.one
        if x is not one.input:
            # The q, k and v projections of a layer see the same tensor.
            one.input, one.means = x, answers_mean(x, one.at, one.shares, self.settings.scoring)
            if self._common:
                one.means = one.means - one.shares.sum(1, keepdim=True) * self._common[module]
        assert one.means is not None
        if not self.applies:
            one.seen[module] = one.means
            return None
        if one.next_stage and not self.gates.stays(module):
            one.next_stage()
        choice = self._choose(one, module, one.means)
        return self._kept_pieces(one, module, choice) if self._stays else self._fetched_pieces(one, module, choice)

    @torch.inference_mode()
    def _choose(self, one: _Pass, module: str, means: Tensor) -> Choice:
        scores = gate_scores(means, self.gates[module])
        one.finite.append(scores.isfinite().all())
        number = self._numbers[module]
        for mask in (one.withheld, None if self._withheld is None else self._withheld[number]):
            if mask is not None:
                scores = scores.masked_fill(mask, -torch.inf)
        choice = choose(scores, self.settings, None if one.states is None else one.states[:, number])
        if not self._stays:
            # They stand in front; how many there are at most depends on the scores.
            width = int((choice.places >= 0).sum(1).max())
            choice = Choice(choice.places[:, :width].cpu(), choice.weights[:, :width].cpu())
        one.chosen[module] = choice
        return choice

    def _kept_pieces(self, one: _Pass, module: str, choice: Choice) -> Pieces:
        """Each row with the pieces chosen for its batch, out of those of the whole pool on the device."""
        if module not in self._whole:
            a, b = self.bank.stack(module, range(len(self.pool.ids)))
            rank = self.pool.manifest.rank
            self._whole[module] = a.unflatten(0, (-1, rank)), b.T.contiguous().unflatten(0, (-1, rank))
        a, b = self._whole[module]
        weights = choice.weights.float()
        if self.settings.top_p is not None and not self.settings.sample:
            # As many as the pool has may be chosen.
            spread = torch.zeros_like(weights).scatter_add(1, choice.places.clamp(min=0), weights)
            return Pieces(a.flatten(0, 1), b.flatten(0, 1).T, spread[one.owners])
        places = choice.places.clamp(min=0)[one.owners]
        return Pieces(a[places].flatten(1, 2), b[places].flatten(1, 2).mT, weights[one.owners])

    def _fetched_pieces(self, one: _Pass, module: str, choice: Choice) -> Pieces | None:
        """The pieces chosen for any of the batches, side by side."""
        places = choice.places.numpy()
        chosen = places >= 0
        used = np.unique(places[chosen])
        if not used.size:
            return None
        weights = np.zeros((len(places), len(used)), dtype=np.float32)
        weights[chosen.nonzero()[0], np.searchsorted(used, places[chosen])] = choice.weights.numpy()[chosen]
        a, b = self.bank.stack(module, used.tolist())
        return Pieces(a, b, torch.from_numpy(weights).to(self.base.device)[one.owners])

    def _packed(self, one: _Pass) -> Tensor:
        """[L · (1 + 2 G K)], float64: whether the scores of each of L linear layers are numbers, and who was chosen."""
        found = one.chosen.values()
        parts = [*(c.places.flatten() for c in found), *(c.weights.flatten() for c in found)]
        finite = torch.stack(one.finite)
        return torch.cat([part.double() for part in (finite if self._stays else finite.cpu(), *parts)])

    def read(self, one: _Pass, packed: Tensor) -> list[Weights]:
        """The weights of each batch, of what comes from the device. Raises PerpcsError where scores are no numbers."""
        numbers = transfers.fetch(packed)
        groups, modules = one.shares.shape[0], list(one.chosen)
        finite, rest = numbers[: len(modules)], numbers[len(modules) :]
        if not finite.all():
            odd = modules[int(finite.argmin())]
            raise PerpcsError(f"the gate scores of {odd!r} are not finite", hint="Try --dtype float32.")
        ends = np.cumsum([one.chosen[module].places.numel() for module in modules])[:-1]
        places, weights = (np.split(part, ends) for part in np.split(rest, 2))
        result: list[Weights] = [{} for _ in range(groups)]
        for module, where, how_much in zip(modules, places, weights, strict=True):
            for mixes, some, shares in zip(
                result, where.reshape(groups, -1).astype(int), how_much.reshape(groups, -1), strict=True
            ):
                chosen = some >= 0
                mixes[module] = list(zip(some[chosen].tolist(), shares[chosen].tolist(), strict=True))
        return result
