"""What the engine reaches on a device, beside what the device itself reaches: tokens a second against its limits."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from perpcs_cli.artifacts.settings import AssembleSettings, DtypeName, LoraSettings, Quantize, TrainSettings
from perpcs_cli.experiments.benchmarks.random_model import TINY, random_base
from perpcs_cli.experiments.benchmarks.setup import random_pool
from perpcs_cli.experiments.costs import flops_and_bytes
from perpcs_cli.experiments.costs.device_limits import bytes_per_second, operations_per_second
from perpcs_cli.experiments.costs.device_specs import GIB
from perpcs_cli.experiments.costs.flops_and_bytes import Lora
from perpcs_cli.experiments.costs.model_shape import KNOWN, Shape
from perpcs_cli.experiments.costs.step_costs import Model
from perpcs_cli.steps.report import SILENT, Report

if TYPE_CHECKING:
    from perpcs_cli.artifacts.pool import OpenPool
    from perpcs_cli.model.engine.batching import Encoded
    from perpcs_cli.model.loading.base import Base

ShapeName = Literal["tiny", "smollm2-135m", "llama-3.2-3b", "llama-2-7b", "llama-3.1-8b"]
Work = Literal["read", "decode", "train", "train_together", "assemble"]
REPEATS = 3
TOP_K = 3


@dataclass(frozen=True)
class Sizes:
    """How much is measured: sharers in the pool; rows and their prompt's tokens in decoding, and the new tokens of a
    short and a long run; rows and tokens of other passes; numbers of a vector that is copied, and tokens of a product.
    """

    sharers: int
    decoded: tuple[int, int]
    new: tuple[int, int]
    rows: int
    prompt: int
    answer: int
    copied: int
    product: int


GPU = Sizes(sharers=10, decoded=(64, 128), new=(4, 36), rows=8, prompt=480, answer=32, copied=1 << 28, product=8192)
SMALL = Sizes(sharers=4, decoded=(4, 24), new=(2, 6), rows=2, prompt=56, answer=8, copied=1 << 22, product=64)


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens a second of one kind of work, and what the device's own limits would allow."""

    tokens_per_second: float
    limit: float
    bound: Literal["arithmetic", "memory"]
    """Which limit it is: the matrix products' operations, or the bytes of weights and cache."""
    peak_gib: float | None
    """The most memory that was taken on a GPU."""

    @property
    def share(self) -> float:
        """Of the limit."""
        return self.tokens_per_second / self.limit


class DeviceRates(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured on one device with random weights of one shape."""

    device: str
    shape: str
    parameters: int
    dtype: str
    quantize: Quantize
    torch: str
    operations: float
    """Of matrix products, in a second."""
    bandwidth: float
    """Bytes that are copied in a second, read and written."""
    rates: dict[Work, Rate]


def measure_device(
    name: ShapeName | None,
    device: str,
    dtype: DtypeName,
    four_bit: Quantize = "none",
    *,
    report: Report = SILENT,
) -> DeviceRates:
    """Measure a device with a random model: known tokens, decoding under recipes, a LoRA's training, assembly.

    Without a name, Llama 2 7B on a GPU and a tiny model elsewhere. Raises UsageError for a device that is not there,
    PerpcsError where the model does not fit into its memory.
    """
    import torch

    from perpcs_cli.errors import PerpcsError
    from perpcs_cli.model.loading.identity import choose_device
    from perpcs_cli.model.loading.number_type import Widths, choose_dtype

    place = choose_device(device)
    on_gpu = place.type == "cuda"
    named = name or ("llama-2-7b" if on_gpu else "tiny")
    shape = TINY if named == "tiny" else KNOWN[named]
    lora = LoraSettings()
    kind = choose_dtype(dtype, place, Widths(shape.hidden, shape.intermediate), trains=True)
    try:
        base = random_base(shape, place, kind, targets=lora.targets, four_bit=four_bit)
        report.note(f"random weights of {named}, {str(kind).removeprefix('torch.')} on {place}")
        with tempfile.TemporaryDirectory() as directory:
            bench = _Bench(base, shape, lora, GPU if on_gpu else SMALL, Path(directory), report)
            rates = bench.rates()
    except torch.OutOfMemoryError:
        raise PerpcsError(
            f"{named} does not fit into the memory of {place}",
            hint="Give a smaller --shape, another --dtype, or --quantize 4bit.",
        ) from None
    return DeviceRates(
        device=torch.cuda.get_device_name(place) if on_gpu else str(place),
        shape=named,
        parameters=shape.parameters,
        dtype=str(kind).removeprefix("torch."),
        quantize=four_bit,
        torch=str(torch.__version__),
        operations=bench.operations,
        bandwidth=bench.bandwidth,
        rates=rates,
    )


class _Bench:
    """The measurements of one base."""

    def __init__(
        self, base: Base, shape: Shape, lora: LoraSettings, sizes: Sizes, directory: Path, report: Report
    ) -> None:
        self.base, self.shape, self.sizes, self.report = base, shape, sizes, report
        self.settings = lora
        self.lora = Lora(lora.rank, lora.targets)
        self.kind = str(base.dtype).removeprefix("torch.")
        self.operations = operations_per_second(base, shape, sizes.product)
        self.bandwidth = bytes_per_second(base, sizes.copied)
        self.directory = directory

    def rates(self) -> dict[Work, Rate]:
        """Measure everything, one after the other."""
        pool = random_pool(self.directory, self.base, self.settings.rank, self.sizes.sharers)
        works: dict[Work, Callable[[], Rate]] = {
            "read": self._read,
            "decode": partial(self._decode, pool),
            "train": partial(self._train, 1),
            "train_together": partial(self._train, self.sizes.rows),
            "assemble": partial(self._assemble, pool),
        }
        found: dict[Work, Rate] = {}
        with self.report.progress("measuring", len(works)) as bar:
            for name, run in works.items():
                found[name] = run()
                bar.advance()
        return found

    def _best(self, run: Callable[[], object]) -> float:
        from perpcs_cli.experiments.costs.device_speed import best

        return max(best(self.base, run, REPEATS), 1e-9)

    def _rows(self) -> list[Encoded]:
        from perpcs_cli.experiments.costs.device_speed import random_row

        sizes = self.sizes
        return [random_row(self.base, number, sizes.prompt, sizes.answer) for number in range(sizes.rows)]

    def _rate(self, tokens: int, seconds: float, operations: float, read: float = 0.0) -> Rate:
        """The rate of work that takes so many operations, and has so many bytes to read."""
        import torch

        arithmetic, memory = operations / self.operations, read / self.bandwidth
        on_gpu = self.base.device.type == "cuda"
        return Rate(
            tokens_per_second=tokens / seconds,
            limit=tokens / max(arithmetic, memory),
            bound="arithmetic" if arithmetic >= memory else "memory",
            peak_gib=torch.cuda.max_memory_allocated(self.base.device) / GIB if on_gpu else None,
        )

    def _forget_peak(self) -> None:
        import torch

        if self.base.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.base.device)

    def _forward(self, tokens: int, context: float, *, sharers: float = 0, logits: int) -> float:
        return flops_and_bytes.forward_flops(self.shape, self.lora, tokens, context, sharers=sharers, logits=logits)

    def _read(self) -> Rate:
        """Known tokens through the bare model."""
        from perpcs_cli.experiments.costs.device_speed import read_rows

        rows = self._rows()
        tokens = sum(map(len, rows))
        self._forget_peak()
        seconds = self._best(lambda: read_rows(self.base, rows))
        return self._rate(tokens, seconds, self._forward(tokens, len(rows[0]) / 2, logits=len(rows)))

    def _decode(self, pool: OpenPool) -> Rate:
        """New tokens of rows that each have a recipe of their own."""
        from perpcs_cli.experiments.benchmarks.mia import make_recipes
        from perpcs_cli.experiments.costs.device_speed import decode_seconds, random_row
        from perpcs_cli.model.engine.piece_cache import PieceCache
        from perpcs_cli.model.engine.recipe_router import RecipeRouter

        rows, prompt = self.sizes.decoded
        recipes = make_recipes(list(self.base.targets), rows, len(pool.ids), 0)
        router = RecipeRouter(PieceCache(self.base, pool.adapter), recipes)
        asked = [(random_row(self.base, number, prompt, 0), number) for number in range(rows)]
        self._forget_peak()
        seconds = max(decode_seconds(self.base, router, asked, *self.sizes.new), 1e-9)
        context = prompt + sum(self.sizes.new) / 2
        # Of the embeddings only the rows' own are read.
        table = 0 if self.shape.tied else self.shape.vocab * self.shape.hidden * self.base.dtype.itemsize
        weights = Model(self.shape, self.lora, self.kind, "cuda", self.base.identity.quantize).weights - table
        cache = rows * context * flops_and_bytes.cache_bytes(self.shape, 1, self.kind)
        operations = self._forward(rows, context, sharers=len(pool.ids), logits=rows)
        return self._rate(rows, seconds, operations, weights + cache)

    def _train(self, sharers: int) -> Rate:
        """Steps of some sharers' LoRAs with as many rows together, without those in which they begin."""
        from perpcs_cli.model.training.train import new_lora, train

        rows, few, more = self._rows(), 1, 4
        # Of a row's last token nothing is asked.
        tokens = sum(len(row) - 1 for row in rows)
        settings = TrainSettings(batch_size=len(rows) // sharers, lr=1e-6)

        def run(steps: int) -> None:
            jobs = [new_lora(self.base, str(at), rows[at::sharers], self.settings, 0) for at in range(sharers)]
            how = msgspec.structs.replace(settings, steps=steps)
            train(self.base, jobs, how, seed=0, dropout=self.settings.dropout)

        self._forget_peak()
        began = self._best(partial(run, few))
        seconds = max(self._best(partial(run, more)) - began, 1e-9) / (more - few)
        answers = len(rows) * self.sizes.answer
        operations = flops_and_bytes.training_flops(
            self.shape, self.lora, tokens, len(rows[0]) / 2, logits=answers, checkpointing=False
        )
        return self._rate(tokens, seconds, operations)

    def _assemble(self, pool: OpenPool) -> Rate:
        """A user's history, its pieces chosen layer by layer."""
        from perpcs_cli.methods.per_pcs.assembler import Assembler
        from perpcs_cli.methods.per_pcs.assembly import assemble
        from perpcs_cli.methods.per_pcs.history_batches import make_batches
        from perpcs_cli.model.engine.piece_cache import PieceCache

        rows = self._rows()
        settings = AssembleSettings(top_k=min(TOP_K, len(pool.ids)), batch_size=len(rows))
        batches = make_batches("measured", rows, settings)
        assembler = Assembler(self.base, pool, PieceCache(self.base, pool.adapter), settings, 0)
        tokens = sum(map(len, rows))
        self._forget_peak()
        seconds = self._best(
            lambda: assemble(assembler, batches, batch_tokens=tokens, wanted=["measured"], done=lambda *_: None)
        )
        scores = 2 * self.sizes.answer * len(rows) * self.lora.gates(self.shape) * len(pool.ids)
        operations = self._forward(tokens, len(rows[0]) / 2, sharers=settings.top_k, logits=0) + scores
        return self._rate(tokens, seconds, operations)
