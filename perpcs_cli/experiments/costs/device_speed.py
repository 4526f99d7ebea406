"""What this machine reaches with a model: a few short passes of each kind through the engine itself."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch

from perpcs_cli.artifacts.adapter import Adapter
from perpcs_cli.artifacts.settings import LoraSettings, TrainSettings
from perpcs_cli.experiments.costs import flops_and_bytes
from perpcs_cli.experiments.costs.device_specs import Device
from perpcs_cli.experiments.costs.flops_and_bytes import Lora
from perpcs_cli.experiments.costs.model_shape import Shape
from perpcs_cli.model.engine.batching import Encoded, make_batch
from perpcs_cli.model.engine.decode import generate
from perpcs_cli.model.engine.decoded_rows import Techniques
from perpcs_cli.model.engine.piece_cache import PieceCache
from perpcs_cli.model.engine.recipe_router import RecipeRouter
from perpcs_cli.model.fused import fused
from perpcs_cli.model.loading.base import Base
from perpcs_cli.model.training.train import new_lora, train

REPEATS = 2
ROWS, TOKENS, ANSWER = 2, 120, 8
"""A batch of the measurements."""
FEW, MANY = 2, 6
"""New tokens of the decoding runs."""
SHORT = 8
"""Tokens of a pass that is nearly all overhead."""


def measure(base: Base, shape: Shape, lora: LoraSettings, *, start: float, load: float) -> Device:
    """Measure reading, training and decoding with random tokens.

    `start`: seconds until the libraries were imported; `load`: seconds in which the weights were loaded. A pass costs a
    time for each layer and a time for each operation; both follow from a short and a long pass.
    """
    pieces = Lora(lora.rank, lora.targets)
    rows = [random_row(base, number) for number in range(ROWS)]
    short, long = (best(base, partial(read_rows, base, some)) for some in (_cut(rows[:1], SHORT), rows))

    def work(count: int, tokens: int) -> float:
        return flops_and_bytes.forward_flops(shape, pieces, count * tokens, tokens / 2, sharers=0, logits=count)

    small, large = work(1, SHORT), work(ROWS, TOKENS + ANSWER)
    read = (large - small) / max(1e-9, long - short)
    launch = max(0.0, short - small / read) / shape.layers
    steps = 2
    settings = TrainSettings(batch_size=ROWS, lr=1e-6, steps=steps)
    trained = best(base, lambda: train(base, [new_lora(base, "measured", rows, lora, 0)], settings, seed=0), 2) / steps
    flops = flops_and_bytes.training_flops(
        shape, pieces, ROWS * (TOKENS + ANSWER - 1), TOKENS / 2, logits=ROWS * ANSWER, checkpointing=False
    )
    train_rate = flops / max(1e-9, trained - 3 * shape.layers * launch)
    one, several = (_decode(base, some) for some in (rows[:1], rows * 4))
    token = flops_and_bytes.forward_flops(shape, pieces, 1, TOKENS, sharers=0, logits=1)
    # What one row costs is the launch of a decoding pass, which reads all weights.
    decode = min(read, (len(rows) * 4 - 1) * token / max(1e-9, several - one))
    cuda = base.device.type == "cuda"
    return Device(
        name="this machine",
        memory=torch.cuda.get_device_properties(base.device).total_memory / 2**30 if cuda else None,
        train=train_rate,
        read=read,
        decode=decode,
        bandwidth=None,
        launch=max(launch, (one - token / decode) / shape.layers) if cuda else launch,
        start=start,
        load=shape.parameters * base.dtype.itemsize / max(load, 1e-3),
        source=f"measured with {ROWS} rows of {TOKENS + ANSWER} tokens, {torch.get_num_threads()} threads",
    )


def random_row(base: Base, number: int, prompt: int = TOKENS, answer: int = ANSWER) -> Encoded:
    """Random tokens, none of which ends an answer; each row another, so that decoding shares nothing."""
    draw = random.Random(number)
    size = len(base.tokenizer)
    tokens = [draw.randrange(size) for _ in range(prompt + answer)]
    tokens = [token if token not in base.stop else (token + 1) % size for token in tokens]
    return Encoded(str(number), tokens[:prompt], tokens[prompt:])


def _cut(rows: list[Encoded], tokens: int) -> list[Encoded]:
    return [Encoded(row.key, row.prompt[: tokens - 1], row.answer[:1]) for row in rows]


@torch.inference_mode()
def read_rows(base: Base, rows: list[Encoded]) -> None:
    """A pass over known tokens, with the last place's logits alone."""
    with fused(base):
        base.model(**make_batch(base, rows).inputs(), use_cache=False, logits_to_keep=1)


def decode_seconds(
    base: Base, recipes: RecipeRouter, rows: Sequence[tuple[Encoded, int]], few: int, many: int
) -> float:
    """Seconds of a decoding pass after the first, by the difference between few and many new tokens."""

    def run(new: int) -> int:
        found = generate(
            base,
            recipes,
            rows,
            max_new_tokens=new,
            batch_tokens=1 << 20,
            batch_rows=len(rows),
            techniques=Techniques(drafts=False, prefix=False),
        )
        return max(map(len, found))

    before = best(base, lambda: run(few))
    longest = run(many)
    after = best(base, lambda: run(many))
    return max(0.0, after - before) / max(1, longest - few)


def _decode(base: Base, rows: list[Encoded]) -> float:
    """Seconds of a decoding pass of the base alone."""
    prompts = [(Encoded(f"{at}", [*row.prompt[:SHORT], at % 7], []), 0) for at, row in enumerate(rows)]
    return decode_seconds(base, RecipeRouter(PieceCache(base, _none), [{}]), prompts, FEW, MANY)


def _none(_index: int) -> Adapter:
    raise AssertionError("the base has no adapters")


def best(base: Base, run: Callable[[], object], repeats: int = REPEATS) -> float:
    """The shortest time, after one run that warms up."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        run()
        base.wait()
        times.append(time.perf_counter() - began)
    return min(times[1:])
