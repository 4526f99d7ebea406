"""The formulas against the things themselves: tiny models, files, caches, and what autograd really keeps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from helpers import TARGETS, load_base, merged, random_pieces, random_rows, write_pool, write_sharer
from torch import Tensor

from perpcs_cli.artifacts.gate import FILE as GATES
from perpcs_cli.artifacts.io import tensors
from perpcs_cli.artifacts.settings import LoraSettings, TrainSettings
from perpcs_cli.experiments.costs import flops_and_bytes
from perpcs_cli.experiments.costs.flops_and_bytes import LineShape, Lora, Training
from perpcs_cli.experiments.costs.model_shape import Shape, shape_of
from perpcs_cli.model.engine.batching import make_batch
from perpcs_cli.model.loading.base import Base
from perpcs_cli.model.packed.attention import packed
from perpcs_cli.model.packed.rows import Rows
from perpcs_cli.model.training.train import Job, new_gates, new_lora, train

LORA = Lora(4, TARGETS)


def read_shape(directory: Path) -> Shape:
    return shape_of(json.loads((directory / "config.json").read_text()))


@pytest.fixture(scope="module")
def shape(tiny_dir: Path) -> Shape:
    return read_shape(tiny_dir)


def test_an_adapter_has_its_parameters_and_a_file_little_more(tiny: Base, shape: Shape, tmp_path: Path) -> None:
    pieces = write_sharer(tmp_path / "s", tiny, 0)
    assert LORA.parameters(shape) == sum(a.numel() + b.numel() for a, b in pieces.values())
    size = (tmp_path / "s" / "adapter_model.safetensors").stat().st_size
    assert 4 * LORA.parameters(shape) < size <= flops_and_bytes.adapter_file(shape, LORA) * 1.01
    gates = tensors.open_tensors(tmp_path / "s" / GATES)
    assert LORA.gates(shape) == sum(gates.read(key).numel() for key in gates.keys)


def test_a_pools_gates_are_every_sharers(tiny: Base, shape: Shape, tmp_path: Path) -> None:
    write_pool(tmp_path, tiny, 3)
    pool = tensors.open_tensors(tmp_path / "pool.gates.safetensors")
    assert sum(pool.read(key).numel() for key in pool.keys) == 3 * LORA.gates(shape)


def test_the_targets_decide_how_large_an_adapter_is(shape: Shape) -> None:
    # 2 layers of 4 heads of 16 over 64, with 2 key and value heads.
    assert Lora(8, ["q_proj"]).parameters(shape) == 2 * 8 * (64 + 64)
    assert Lora(8, ["v_proj"]).parameters(shape) == 2 * 8 * (64 + 32)
    assert Lora(8, ["down_proj"]).gates(shape) == 2 * 96


def test_the_published_adapter_of_a_7b_model() -> None:
    from perpcs_cli.experiments.costs.model_shape import KNOWN

    llama = KNOWN["llama-2-7b"]
    assert llama.parameters == 6_738_415_616
    assert Lora(8, TARGETS).parameters(llama) == 8_388_608
    assert Lora(8, TARGETS).gates(llama) == 32 * 4 * 4096


def test_the_cache_is_the_engines(tiny: Base, shape: Shape) -> None:
    rows = Rows(tiny, 3, 20)
    with packed(tiny):
        rows.run(rows.plan([0, 1], [0, 0], [[5, 6, 7], [8, 9]], [1, 1]))
    real = sum(buffer.nbytes for pair in rows._layers.values() for buffer in pair)
    assert flops_and_bytes.cache_bytes(shape, 3 * 20, "float32") == real


class Kept:
    """Counts the storages that autograd keeps, each once, without those that were there before."""

    def __init__(self, base: Base, job: Job) -> None:
        there = [*base.model.parameters(), *base.model.buffers(), *job.parameters]
        there += [factor for pair in job.pieces.values() for factor in pair]
        self._there = {tensor.untyped_storage().data_ptr() for tensor in there}
        self._held: dict[int, Tensor] = {}

    def __enter__(self) -> Kept:
        self._hooks: Any = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    def _pack(self, tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in self._there:
            # Held, so that its memory is not given to the next one.
            self._held[place] = tensor
        return tensor

    @property
    def bytes(self) -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in self._held.values())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("what", "dropout"), [("lora", 0.0), ("lora", 0.1), ("gate", 0.0), ("gate", 0.1)])
def test_activations_are_what_autograd_keeps(
    tiny_dir: Path,
    shape: Shape,
    what: Literal["lora", "gate"],
    dropout: float,
    dtype: str,
    padded: bool,
    checkpointing: bool,
) -> None:
    base = load_base(str(tiny_dir), targets=TARGETS, device="cpu", dtype=dtype)
    rows = random_rows(base, [(60, 8), (50, 6), (40, 5)] if padded else [(60, 8)] * 3)
    job = (
        new_lora(base, "one", rows, LoraSettings(rank=4), 0)
        if what == "lora"
        else new_gates(base, "one", rows, random_pieces(base, 0), 1.0)
    )
    settings = TrainSettings(batch_size=3, lr=1e-3, steps=1, checkpointing=checkpointing)
    with Kept(base, job) as kept:
        train(base, [job], settings, seed=0, dropout=dropout)
    line = LineShape(sum(len(row) - 1 for row in rows), sum(len(row.answer) for row in rows))
    how = Training(what, dtype, dropout > 0, checkpointing)
    # So small a model's activations are little more than the tokens' own numbers and positions.
    assert flops_and_bytes.saved_bytes(shape, LORA, line, how) == pytest.approx(kept.bytes, rel=0.035)


def test_checkpointing_keeps_less_of_a_deep_model() -> None:
    from perpcs_cli.experiments.costs.model_shape import KNOWN

    line = LineShape(3000, 48)
    whole, less = (
        flops_and_bytes.saved_bytes(KNOWN["llama-2-7b"], LORA, line, Training("lora", "bfloat16", True, on))
        for on in (False, True)
    )
    assert less < whole / 10


def test_operations_of_a_pass_are_twice_the_weights(tiny: Base, shape: Shape) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    rows = random_rows(tiny, [(30, 10)] * 2)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        tiny.model(**make_batch(tiny, rows).inputs(), use_cache=False, logits_to_keep=1)
    counted: Any = counter.get_total_flops()
    # The counter has no attention on the CPU.
    expected = flops_and_bytes.forward_flops(shape, LORA, 80, 0, sharers=0, logits=2)
    assert counted == pytest.approx(expected, rel=0.01)


def test_training_frozen_layers_costs_two_passes(shape: Shape) -> None:
    forward = flops_and_bytes.forward_flops(shape, LORA, 100, 10, sharers=0, logits=3)
    piece = 2 * 100 * LORA.parameters(shape)
    cost: Callable[[bool], float] = lambda on: flops_and_bytes.training_flops(  # noqa: E731
        shape, LORA, 100, 10, logits=3, checkpointing=on
    )
    assert cost(False) == 2 * forward + 3 * piece
    assert cost(True) == 3 * forward + 4 * piece


def test_merged_weights_are_no_more_parameters(tiny: Base, shape: Shape) -> None:
    whole = merged(tiny, [random_pieces(tiny, 0)], {})
    assert sum(one.numel() for one in whole.model.parameters()) == shape.parameters
