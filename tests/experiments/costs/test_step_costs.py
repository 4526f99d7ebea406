"""Passes and peaks of small loads that can be counted by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from helpers import TARGETS

from perpcs_cli.artifacts.settings import PredictSettings, TrainSettings
from perpcs_cli.experiments.costs import flops_and_bytes, step_costs
from perpcs_cli.experiments.costs.device_specs import GIB, Device, fits, published_device
from perpcs_cli.experiments.costs.flops_and_bytes import Lora
from perpcs_cli.experiments.costs.model_shape import KNOWN, Shape
from perpcs_cli.experiments.costs.step_costs import Length, Load, Model, Pass

SHAPE = Shape(2, 64, 96, 4, 2, 16, 400, tied=False, context=256)
MODEL = Model(SHAPE, Lora(4, TARGETS), "float32", "cpu")
SETTINGS = TrainSettings(batch_size=2, lr=1e-3, epochs=3)
DEVICE = Device(
    name="d", memory=None, train=10.0, read=20.0, decode=5.0, bandwidth=2.0, launch=0.5, start=0, load=1, source=""
)


def test_training_sees_every_example_in_every_epoch() -> None:
    load = step_costs.training(MODEL, [[Length(10, 2)] * 5], SETTINGS, dropout=True)
    assert load.tokens == 3 * 5 * 11
    assert len(load.passes) == 3 * 3


@pytest.mark.parametrize(("accumulate", "batches"), [(1, 4), (2, 6), (8, 12)])
def test_steps_win_over_epochs_and_accumulation_takes_more_batches(accumulate: int, batches: int) -> None:
    """An epoch has three batches, and no step goes beyond it."""
    settings = TrainSettings(batch_size=2, lr=1, steps=4, accumulate=accumulate)
    assert len(step_costs.training(MODEL, [[Length(10, 2)] * 5], settings, dropout=False).passes) == batches


def test_training_has_no_padding_and_runs_no_last_token() -> None:
    load = step_costs.training(MODEL, [[Length(10, 2), Length(30, 2)]], SETTINGS, dropout=False)
    assert load.tokens == 3 * (11 + 31)


def test_a_large_step_is_divided_into_passes_of_about_the_same_size() -> None:
    jobs = [[Length(998, 3)] * 2] * 9
    load = step_costs.training(MODEL, jobs, SETTINGS, dropout=False, together=9)
    assert len(load.passes) == 3 * 3
    third = step_costs.training(MODEL, jobs[:3], SETTINGS, dropout=False, together=3)
    assert load.peak["activations"] == third.peak["activations"]


def test_the_peak_is_that_of_the_longest_examples() -> None:
    short = step_costs.training(MODEL, [[Length(10, 2)] * 8], SETTINGS, dropout=True)
    mixed = step_costs.training(MODEL, [[*[Length(10, 2)] * 6, Length(50, 2), Length(60, 2)]], SETTINGS, dropout=True)
    longest = step_costs.training(MODEL, [[Length(50, 2), Length(60, 2)]], SETTINGS, dropout=True)
    assert mixed.peak == longest.peak
    assert short.bytes < mixed.bytes
    assert mixed.peak["trained"] == 16 * MODEL.lora.parameters(SHAPE)


def test_together_trains_the_same_tokens_in_fewer_passes() -> None:
    jobs = [[Length(10, 2)] * 4] * 3
    alone, together = (step_costs.training(MODEL, jobs, SETTINGS, dropout=True, together=n) for n in (1, 3))
    assert alone.tokens == together.tokens
    assert len(alone.passes) == 3 * len(together.passes)
    assert together.peak["trained"] == 3 * alone.peak["trained"]


def test_gates_train_less_than_loras() -> None:
    job = [[Length(10, 2)] * 4]
    gates = step_costs.training(MODEL, job, SETTINGS, what="gate", dropout=False)
    factors, vectors = MODEL.lora.parameters(SHAPE), MODEL.lora.gates(SHAPE)
    assert gates.peak["trained"] == 4 * factors + 16 * vectors


def test_decoding_takes_a_pass_for_each_token_of_the_longest_answer() -> None:
    settings = PredictSettings(max_new_tokens=8)
    load = step_costs.decoding(MODEL, [[Length(20, 3)], [Length(20, 6)]], settings)
    assert [one.kind for one in load.passes] == ["read", *["decode"] * 5]
    # Both prompts; then two tokens of the first answer and five of the second are fed back.
    assert load.tokens == 40 + 2 + 5
    assert load.peak["cache"] == flops_and_bytes.cache_bytes(SHAPE, 2 * 28, "float32")


def test_a_common_beginning_is_computed_once_for_each_recipe() -> None:
    settings = PredictSettings(max_new_tokens=4)
    rows = [Length(50, 1, common=40)] * 3
    assert step_costs.decoding(MODEL, [rows, rows], settings).tokens == 2 * (50 + 10 + 10)


def test_rows_wait_for_a_place() -> None:
    settings = PredictSettings(max_new_tokens=4, batch_rows=2)
    load = step_costs.decoding(MODEL, [[Length(20, 4)] * 6], settings)
    assert len(load.passes) == 3 * 4
    assert sum(one.kind == "read" for one in load.passes) == 3


def test_drafts_save_passes() -> None:
    settings = PredictSettings(max_new_tokens=20)
    plain, drafted = (step_costs.decoding(MODEL, [[Length(20, 20)]], settings, drafted=part) for part in (0.0, 0.5))
    assert len(drafted.passes) == len(plain.passes) / 2


def test_assembly_reads_each_history_once() -> None:
    users = [[Length(10, 2)] * 5, [Length(10, 2)] * 2]
    few = step_costs.assembling(MODEL, users, batch_size=2, top_k=1, sharers=4, batch_tokens=24)
    assert (few.tokens, len(few.passes)) == (7 * 12, 4)
    many = step_costs.assembling(MODEL, users, batch_size=2, top_k=1, sharers=4, batch_tokens=1000)
    assert (many.tokens, len(many.passes)) == (7 * 12, 1)
    assert few.peak["gates"] == 4 * 4 * MODEL.lora.gates(SHAPE)


def test_time_is_arithmetic_or_memory_and_the_launches() -> None:
    assert Pass("train", 100, through=3).seconds(DEVICE, 2) == 100 / 10 + 2 * 3 * 0.5
    assert Pass("read", 100, count=4).seconds(DEVICE, 2) == 4 * (100 / 20 + 2 * 0.5)
    assert Pass("decode", 100, reads=80).seconds(DEVICE, 2) == 80 / 2 + 2 * 0.5


def test_loads_add_up_but_for_their_peaks() -> None:
    one = Load([Pass("read", 3)], 5, {"weights": 7})
    two = Load([Pass("read", 4)], 6, {"weights": 7, "cache": 1})
    both = step_costs.added([two, one])
    assert (both.flops, both.tokens, both.peak) == (7, 11, {"weights": 7, "cache": 1})
    assert step_costs.added([]).bytes == 0


@pytest.mark.parametrize(
    ("gib", "memory", "enough"), [(20, 24, True), (23, 24, False), (37, 40, True), (78, 80, False)]
)
def test_a_part_of_a_gpus_memory_is_not_ours(gib: int, memory: int, enough: bool) -> None:
    assert fits(gib * GIB, memory) is enough


def test_a_published_device_says_what_it_assumes() -> None:
    device = published_device("a100-80gb", "bfloat16")
    assert (device.memory, device.train) == (80, pytest.approx(0.35 * 312e12))
    assert "35%" in device.source
    assert published_device("a100-80gb", "float32").train < device.train / 10


def test_a_base_in_4_bits_holds_little_and_one_matrix_to_compute_with() -> None:
    shape = KNOWN["llama-2-7b"]
    model = step_costs.Model(shape, MODEL.lora, "bfloat16", "cuda")
    small = replace(model, quantize="4bit")
    assert model.weights == 2 * shape.parameters
    # 4 bits, a byte for every 64, four for every 256 of those; embeddings, output layer and norms in bfloat16.
    held = shape.multiplied // 2 + shape.multiplied // 64 + shape.multiplied // 4096
    assert small.weights == held + 2 * (shape.parameters - shape.multiplied) + 2 * 4096 * 11008
    assert small.weights < 4e9
