"""What a decoder with LoRA pieces needs: parameters, bytes and floating-point operations, from shapes alone.

Sizes in bytes and operations count one multiplication and one addition as two. Every formula says what it leaves out.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from perpcs_cli.experiments.costs.model_shape import Shape
from perpcs_cli.model.training.order import CHUNK

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
ADAM = 16
"""Bytes of a parameter that AdamW trains in float32: itself, its gradient and two moments."""
HEADER = 128
"""Bytes that the header of a safetensors file spends on a tensor."""


@dataclass(frozen=True)
class Lora:
    """The shape of every adapter: its rank, and the linear layers that carry pieces."""

    rank: int
    targets: Collection[str]

    def linears(self, shape: Shape) -> list[tuple[int, int]]:
        """(d, n) of the layers of one decoder layer that carry pieces."""
        return [size for name, size in shape.linears.items() if name in self.targets]

    def parameters(self, shape: Shape) -> int:
        """Parameters of one adapter, Σ r (n + d)."""
        return shape.layers * self.rank * sum(d + n for d, n in self.linears(shape))

    def gates(self, shape: Shape) -> int:
        """Parameters of one sharer's gates: one vector [n] per piece (Per-PCs, section 3.2)."""
        return shape.layers * sum(n for _, n in self.linears(shape))

    def pieces(self, shape: Shape) -> int:
        """Pieces of one adapter."""
        return shape.layers * len(self.linears(shape))


def adapter_file(shape: Shape, lora: Lora) -> int:
    """Bytes of `adapter_model.safetensors`: float32 factors and the header."""
    return 4 * lora.parameters(shape) + 2 * HEADER * lora.pieces(shape)


def gate_file(shape: Shape, lora: Lora) -> int:
    """Bytes of `gate.safetensors`, and of a sharer's part of `pool.gates.safetensors`."""
    return 4 * lora.gates(shape) + HEADER * lora.pieces(shape)


def recipe_file(shape: Shape, lora: Lora, sharers: float) -> int:
    """Bytes of a recipe that weighs `sharers` of them in each linear layer; one that weighs whole LoRAs is smaller."""
    return round(900 + lora.pieces(shape) * (3 + 11 * sharers))


@dataclass(frozen=True)
class BatchShape:
    """What one pass holds: `rows` rows of `width` tokens, padding included, with logits at `kept` positions each.

    `padded`: rows differ in length, so that attention needs a mask.
    """

    rows: int
    width: int
    kept: int
    padded: bool = True

    @property
    def tokens(self) -> int:
        """Tokens that the linear layers see."""
        return self.rows * self.width


@dataclass(frozen=True)
class Training:
    """How pieces are trained: LoRAs, or gates over frozen ones; `jobs` sharers share each batch."""

    what: Literal["lora", "gate"]
    dtype: str
    dropout: bool = False
    checkpointing: bool = False
    jobs: int = 1


@dataclass(frozen=True)
class LineShape:
    """What a pass of a training holds: rows side by side in one line of `tokens`, `answers` of them with logits."""

    tokens: int
    answers: int


def saved_bytes(shape: Shape, lora: Lora, line: LineShape, training: Training) -> int:
    """Bytes that autograd keeps from the forward pass for the backward pass, all base weights being frozen.

    A frozen linear layer keeps nothing but its weight. Checkpointing keeps each layer's input alone, and has
    `layer_bytes` besides while it goes back through a layer.
    """
    tokens, c, h = line.tokens, BYTES[training.dtype], shape.hidden
    if training.checkpointing:
        kept = shape.layers * tokens * h * c
    else:
        # In the first layer the norm does not lead to anything that is trained.
        kept = shape.layers * layer_bytes(shape, lora, line, training) - tokens * (c * h + 4)
        # The rotation's cosines and sines, which the layers share.
        kept += 2 * tokens * shape.head_dim * c
    # The last norm, and the distributions of a chunk of answers.
    return kept + tokens * (c * h + 4) + 4 * min(CHUNK, line.answers) * shape.vocab


def layer_bytes(shape: Shape, lora: Lora, line: LineShape, training: Training) -> int:
    """Bytes that autograd keeps of one layer; see `saved_bytes`."""
    c, tokens, h = BYTES[training.dtype], line.tokens, shape.hidden
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    # A norm keeps its input, and the inverse deviation in float32.
    norms = 2 * tokens * (c * h + 4)
    # The kernel keeps q, k, v, its output and a number per head and query.
    attention = tokens * (c * (2 * query + 2 * key) + 4 * shape.heads)
    mlp = 3 * tokens * shape.intermediate * c
    return norms + attention + mlp + _piece_bytes(shape, lora, line, training)


def _piece_bytes(shape: Shape, lora: Lora, line: LineShape, training: Training) -> int:
    """What one layer's pieces keep: their inputs, which q, k and v share as gate and up do, and the small hidden state.

    o's and down's inputs are kept by what comes before them.
    """
    c, inputs = BYTES[training.dtype], 0
    for name in lora.targets:
        n = shape.linears[name][1]
        if training.dropout:
            # What is drawn has two bytes for each number.
            inputs += 2 * n
        if name in ("q_proj", "gate_proj", "o_proj"):
            inputs += n * c
    hidden = lora.rank * len(lora.linears(shape))
    if training.what == "gate":
        # How far the gate is open.
        hidden += len(lora.linears(shape))
    return line.tokens * (inputs + hidden * c)


def working_bytes(shape: Shape, line: LineShape, dtype: str) -> int:
    """Bytes that come and go at the peak of a training step: the MLP's gradients, or logits and those of logits."""
    c = BYTES[dtype]
    return max(line.tokens * (3 * shape.intermediate * c + 8 * shape.hidden), 2 * line.answers * shape.vocab * c)


def forward_bytes(shape: Shape, tokens: int, dtype: str, *, logits: int = 0) -> int:
    """Bytes that come and go in a pass without gradients over `tokens` tokens, with `logits` rows of logits."""
    c = BYTES[dtype]
    mlp = tokens * (3 * shape.intermediate * c + shape.hidden * (c + 8))
    attention = tokens * (4 * shape.heads * shape.head_dim * c + shape.hidden * (c + 8))
    return max(mlp, attention) + logits * shape.vocab * c


def cache_bytes(shape: Shape, tokens: int, dtype: str) -> int:
    """Bytes of keys and values of `tokens` places."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * tokens * BYTES[dtype]


def optimizer_bytes(parameters: int) -> int:
    """Bytes of trained parameters with AdamW's state and gradients."""
    return ADAM * parameters


def forward_flops(shape: Shape, lora: Lora, tokens: float, context: float, *, sharers: float, logits: float) -> float:
    """Operations of a pass over `tokens` tokens that attend to `context` tokens on average, and `logits` output rows.

    `sharers`: how many sharers' pieces lie side by side in each linear layer, whether or not a row uses them.
    """
    attention = 4 * shape.layers * shape.heads * shape.head_dim * context
    pieces = 2 * sharers * lora.parameters(shape)
    return tokens * (2 * shape.multiplied + attention + pieces) + logits * 2 * shape.hidden * shape.vocab


def training_flops(
    shape: Shape, lora: Lora, tokens: float, context: float, *, logits: float, checkpointing: bool
) -> float:
    """Operations of a training step: forward, backward through the frozen layers (the same again), and thrice the
    pieces; checkpointing runs the forward pass twice."""
    base = forward_flops(shape, lora, tokens, context, sharers=0, logits=logits)
    pieces = 2 * tokens * lora.parameters(shape)
    return (3 if checkpointing else 2) * base + (4 if checkpointing else 3) * pieces
