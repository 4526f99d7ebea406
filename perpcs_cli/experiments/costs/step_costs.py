"""What a step sends through the model: its passes with their tokens and operations, and the most memory it holds."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Literal

from perpcs_cli.artifacts.settings import PredictSettings, Quantize, TrainSettings
from perpcs_cli.experiments.costs import flops_and_bytes
from perpcs_cli.experiments.costs.device_specs import Device
from perpcs_cli.experiments.costs.flops_and_bytes import BYTES, BatchShape, LineShape, Lora, Training
from perpcs_cli.experiments.costs.model_shape import Shape
from perpcs_cli.model.training.order import MOST, draw_steps, evenly, side_by_side

GATE_CACHE, PIECE_CACHE = 1 << 30, 2 << 30
"""Bytes of gates (methods/per_pcs/assembly.py) and pieces (model/engine/piece_cache.py) kept on the device."""
FOUR_BIT_BYTES = 4 / 8 + 1 / 64 + 4 / (64 * 256)
"""Of a weight in 4 bits: its own, a byte for the scale of 64, and four for the scale of 256 of those."""
LEAST_PREFIX = 8
"""A shorter common beginning is computed for each prompt; see model/engine/decode.py."""


@dataclass(frozen=True)
class Length:
    """Tokens of a prompt and of its answer, which counts its end; `common` of the prompt's begin all of its user's."""

    prompt: int
    answer: int
    common: int = 0

    @property
    def tokens(self) -> int:
        """All of them."""
        return self.prompt + self.answer


@dataclass(frozen=True)
class Model:
    """The base as it runs, and the shape of its adapters."""

    shape: Shape
    lora: Lora
    dtype: str
    device: Literal["cuda", "cpu"]
    quantize: Quantize = "none"

    @property
    def weights(self) -> int:
        """Bytes of the base's weights; with 4 bits, also of the largest matrix as it is computed with."""
        shape, each = self.shape, BYTES[self.dtype]
        if self.quantize == "none":
            return shape.parameters * each
        largest = max(d * n for d, n in shape.linears.values())
        return round(shape.multiplied * FOUR_BIT_BYTES) + (shape.parameters - shape.multiplied + largest) * each


@dataclass(frozen=True)
class Pass:
    """`count` passes alike: operations of one, bytes that it reads, and how often it goes through all layers."""

    kind: Literal["train", "read", "decode"]
    flops: float
    reads: float = 0.0
    through: int = 1
    count: float = 1.0

    def seconds(self, device: Device, layers: int) -> float:
        """The time of all of them: arithmetic or memory, whichever is longer, then what each layer costs beside."""
        memory = self.reads / device.bandwidth if device.bandwidth else 0.0
        arithmetic = self.flops / {"train": device.train, "read": device.read, "decode": device.decode}[self.kind]
        return self.count * (max(arithmetic, memory) + layers * self.through * device.launch)


@dataclass(frozen=True)
class Load:
    """A step's passes, the tokens in them (padding included), and bytes at its peak by what holds them."""

    passes: list[Pass] = field(default_factory=list)
    tokens: float = 0.0
    peak: dict[str, int] = field(default_factory=dict)

    @property
    def flops(self) -> float:
        """Operations of all passes."""
        return sum(one.flops * one.count for one in self.passes)

    @property
    def bytes(self) -> int:
        """Bytes at the peak."""
        return sum(self.peak.values())


def training(
    model: Model,
    jobs: Sequence[Sequence[Length]],
    settings: TrainSettings,
    *,
    what: Literal["lora", "gate"] = "lora",
    dropout: bool,
    together: int = 1,
    seed: int = 0,
) -> Load:
    """The load of training one LoRA, or one sharer's gates, on each job's examples.

    Batches are shuffled like those of the training, but in another order. The peak is that of the longest examples in
    one batch.
    """
    shape, lora = model.shape, model.lora
    passes: list[Pass] = []
    peak: dict[str, int] = {}
    total = 0
    for at in range(0, len(jobs), together):
        group = [list(job) for job in jobs[at : at + together] if job]
        if not group:
            continue
        how = Training(what, model.dtype, dropout, settings.checkpointing, len(group))
        streams = [draw_steps(job, settings, random.Random(seed)) for job in group]
        for some in chain.from_iterable(side_by_side(streams)):
            together_now = [row for rows, _ in some.values() for row in rows]
            for rows in evenly(together_now, [row.tokens for row in together_now], MOST):
                line = _line(rows)
                total += line.tokens
                flops = flops_and_bytes.training_flops(
                    shape,
                    lora,
                    line.tokens,
                    sum(row.tokens**2 for row in rows) / line.tokens / 2,
                    logits=line.answers,
                    checkpointing=settings.checkpointing,
                )
                passes.append(Pass("train", flops, through=4 if settings.checkpointing else 3))
        longest = [row for job in group for row in sorted(job, key=lambda one: -one.tokens)[: settings.batch_size]]
        parts = map(_line, evenly(longest, [row.tokens for row in longest], MOST))
        now = _training_peak(model, max(parts, key=lambda line: line.tokens), how)
        peak = max(peak, now, key=lambda parts: sum(parts.values()))
    return Load(passes, total, peak)


def _training_peak(model: Model, line: LineShape, how: Training) -> dict[str, int]:
    saved = flops_and_bytes.saved_bytes(model.shape, model.lora, line, how)
    if how.checkpointing:
        saved += flops_and_bytes.layer_bytes(model.shape, model.lora, line, how)
    factors = how.jobs * model.lora.parameters(model.shape)
    if how.what == "lora":
        trained = flops_and_bytes.optimizer_bytes(factors)
    else:
        trained = 4 * factors + flops_and_bytes.optimizer_bytes(how.jobs * model.lora.gates(model.shape))
    working = flops_and_bytes.working_bytes(model.shape, line, how.dtype)
    return {"weights": model.weights, "trained": trained, "activations": saved + working}


def _line(rows: Sequence[Length]) -> LineShape:
    """Of the last token nothing is asked, so that it is not run."""
    return LineShape(sum(row.tokens - 1 for row in rows), sum(row.answer for row in rows))


def _batch(rows: Sequence[Length]) -> BatchShape:
    widths = [row.tokens for row in rows]
    kept = max(row.answer for row in rows) + 1
    return BatchShape(len(rows), max(widths), kept, padded=min(widths) < max(widths))


def assembling(
    model: Model, users: Sequence[Sequence[Length]], *, batch_size: int, top_k: int, sharers: int, batch_tokens: int
) -> Load:
    """The load of assembling recipes: one pass over each history, with gate scores and the chosen pieces."""
    shape, lora = model.shape, model.lora
    groups = [rows[at : at + batch_size] for rows in users for at in range(0, len(rows), batch_size)]
    passes, total, peak = [], 0, 0
    together: list[Sequence[Length]] = []
    sizes: list[BatchShape] = []
    for group in groups:
        rows = [row for some in [*together, group] for row in some]
        if together and len(rows) * max(row.tokens for row in rows) > batch_tokens:
            sizes.append(_batch([row for some in together for row in some]))
            together = []
        together = [*together, group]
    if together:
        sizes.append(_batch([row for some in together for row in some]))
    for batch in sizes:
        used = min(sharers, top_k * math.ceil(batch.rows / batch_size))
        scores = 2 * batch.rows * batch.kept * lora.gates(shape) * sharers
        flops = (
            flops_and_bytes.forward_flops(shape, lora, batch.tokens, batch.width / 2, sharers=used, logits=0) + scores
        )
        passes.append(Pass("read", flops, model.weights))
        total += batch.tokens
        mask = batch.rows * batch.width**2 * BYTES[model.dtype] if batch.padded else 0
        peak = max(peak, mask + flops_and_bytes.forward_bytes(shape, batch.tokens, model.dtype))
    gates = 4 * lora.gates(shape) * sharers
    # Larger gates are read again for each linear layer.
    gates = gates if gates <= GATE_CACHE else 4 * max(n for _, n in lora.linears(shape)) * sharers
    held = {"weights": model.weights, "gates": gates, "pieces": _bank(model, sharers), "activations": peak}
    return Load(passes, total, held)


def _bank(model: Model, sharers: int) -> int:
    return min(PIECE_CACHE, sharers * model.lora.parameters(model.shape) * BYTES[model.dtype])


def decoding(
    model: Model,
    recipes: Sequence[Sequence[Length]],
    settings: PredictSettings,
    *,
    adapters: int = 0,
    drafted: float = 0.0,
) -> Load:
    """The load of answering each recipe's prompts in the packed engine.

    A recipe's common beginning is computed once. `drafted`: the share of the answers' tokens that are verified in a
    pass that runs anyway. `adapters`: how many lie on the device.
    """
    rows = sorted((row for some in recipes for row in _sharing(some)), key=lambda row: -row.prompt)
    if not rows:
        return Load()
    capacity = rows[0].prompt + settings.max_new_tokens
    places = max(1, min(settings.batch_rows, settings.batch_tokens // capacity, len(rows)))
    passes, total = _decoding_passes(model, rows, places, min(adapters, places), drafted)
    first = min(sum(row.prompt - row.common for row in rows[:places]), places * rows[0].prompt)
    masks = places * rows[0].prompt * capacity * (model.shape.heads // model.shape.kv_heads) * BYTES[model.dtype]
    peak = {
        "weights": model.weights,
        "pieces": 2 * _bank(model, adapters),
        "cache": flops_and_bytes.cache_bytes(model.shape, places * capacity, model.dtype),
        # A mask is made where a common beginning was there before.
        "activations": flops_and_bytes.forward_bytes(model.shape, first, model.dtype, logits=places)
        + (masks if any(row.common for row in rows) else 0),
    }
    return Load(passes, total, peak)


def _sharing(rows: Sequence[Length]) -> list[Length]:
    """One recipe's prompts: the first is computed whole, the others without what they have in common."""
    common = [row.common if number and row.common >= LEAST_PREFIX else 0 for number, row in enumerate(rows)]
    return [replace(row, common=count) for row, count in zip(rows, common, strict=True)]


def _decoding_passes(
    model: Model, rows: Sequence[Length], places: int, sharers: int, drafted: float
) -> tuple[list[Pass], float]:
    """Rows come and go one by one: a pass feeds a token of every row that is in, and the prompts of those that come."""
    shape, c = model.shape, BYTES[model.dtype]
    waiting = list(reversed(rows))
    left: list[float] = []
    passes, total = [], 0.0
    context = sum(row.tokens for row in rows) / len(rows)
    cached = flops_and_bytes.cache_bytes(shape, 1, model.dtype)
    # Verified tokens are fed too, a few in a pass instead of one.
    fed = 1 / (1 - drafted) if drafted < 1 else 1.0
    while waiting or left:
        new = [waiting.pop() for _ in range(min(places - len(left), len(waiting)))]
        tokens = sum(row.prompt - row.common for row in new) + len(left) * fed
        count = len(left) + len(new)
        flops = flops_and_bytes.forward_flops(
            shape, model.lora, tokens, context / 2, sharers=sharers, logits=count * fed
        )
        reads = shape.parameters * c + len(left) * context * cached
        passes.append(Pass("read" if new else "decode", flops, reads))
        total += tokens
        left = [rest - fed for rest in [*left, *(float(row.answer) for row in new)] if rest - fed > 0]
    return passes, total


def embedding(encoder: Shape, users: Iterable[Sequence[int]], dtype: str) -> Load:
    """The load of embedding texts of so many tokens, one user after the other, by an encoder with plain MLPs."""
    weights = encoder.layers * (4 * encoder.hidden**2 + 2 * encoder.hidden * encoder.intermediate)
    passes, total, widest = [], 0, 0
    for texts in users:
        tokens = sum(texts)
        attention = 4 * encoder.layers * encoder.hidden * (tokens / max(1, len(texts)))
        passes.append(Pass("read", tokens * (2 * weights + attention)))
        total += tokens
        widest = max(widest, tokens)
    held = (weights + encoder.vocab * encoder.hidden) * BYTES[dtype]
    tokens = min(widest, 16384)
    return Load(passes, total, {"weights": held, "activations": flops_and_bytes.forward_bytes(encoder, tokens, dtype)})


def added(loads: Sequence[Load]) -> Load:
    """Several loads one after the other: everything adds up but the peak."""
    peak = max((load.peak for load in loads), key=lambda parts: sum(parts.values()), default={})
    return Load([one for load in loads for one in load.passes], sum(load.tokens for load in loads), peak)
