"""A base in 4 bits: what it computes and trains, what it is to artifacts, and where it cannot be had."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from helpers import TARGETS, random_rows, write_sharer

from perpcs_cli.artifacts.settings import LoraSettings, TrainSettings
from perpcs_cli.errors import DataError, PerpcsError, UsageError
from perpcs_cli.model.engine.batching import Encoded, make_batch
from perpcs_cli.model.loading import four_bit
from perpcs_cli.model.loading.base import Base, load_base, merge_adapter, with_task_adapter
from perpcs_cli.model.loading.four_bit import check_four_bit, is_quantized
from perpcs_cli.model.loading.identity import Identity, identify
from perpcs_cli.model.packed.attention import packed
from perpcs_cli.model.packed.check import check_packed
from perpcs_cli.model.training.line import Line
from perpcs_cli.model.training.train import new_lora, train

bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="needs the package bitsandbytes"
)
LORA = LoraSettings(rank=4, alpha=4.0, dropout=0.0)


def found(path: Path, task_adapter: str = "", **options: object) -> Identity:
    given = {"device": "cpu", "dtype": "float32", "quantize": "4bit", **options}
    return identify(str(path), task_adapter, **given)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def small(tiny_dir: Path) -> Base:
    """The tiny Llama in 4 bits."""
    return load_base(found(tiny_dir), targets=TARGETS)


def logits(base: Base) -> torch.Tensor:
    with torch.inference_mode():
        return base.model(**make_batch(base, random_rows(base, [(12, 0)])).inputs()).logits


@bitsandbytes
def test_linear_layers_are_in_4_bits_and_compute_nearly_the_same(small: Base, tiny: Base) -> None:
    check_packed(small)
    assert all(is_quantized(layer) for layer in small.targets.values())
    assert not is_quantized(small.model.get_output_embeddings())
    assert small.shapes == tiny.shapes
    held = sum(layer.weight.nbytes for layer in small.targets.values())
    assert held == sum(layer.weight.nbytes for layer in tiny.targets.values()) // 8
    x = torch.randn(20, 64, generator=torch.Generator().manual_seed(0))
    for name, layer in tiny.targets.items():
        off = (small.targets[name](x) - layer(x)).std() / layer(x).std()
        assert 0.02 < off < 0.2


@bitsandbytes
def test_a_lora_is_trained_on_it(small: Base) -> None:
    # Inference first: kernels that pack the weights for it would take the gradients away.
    logits(small)
    rows = random_rows(small, [(9, 4)] * 4)
    jobs = [new_lora(small, "u", rows, LORA, 0) for _ in range(2)]
    for job in jobs:
        train(small, [job], TrainSettings(batch_size=4, lr=1e-2, steps=12), seed=0)
    assert jobs[0].log[-1].loss < 0.9 * jobs[0].log[0].loss
    assert jobs[0].log == jobs[1].log
    first, *_, last = jobs[0].pieces.values()
    assert first[1].abs().max() > 0
    assert last[1].abs().max() > 0


@bitsandbytes
def test_the_gradient_is_that_of_the_weights_that_it_computes_with(small: Base) -> None:
    from bitsandbytes.functional import dequantize_4bit

    layer = next(iter(small.targets.values()))
    x = torch.randn(3, layer.in_features, generator=torch.Generator().manual_seed(0), requires_grad=True)
    layer(x).square().sum().backward()
    weight = dequantize_4bit(layer.weight, layer.weight.quant_state)
    expected = 2 * (x.detach() @ weight.T) @ weight
    torch.testing.assert_close(x.grad, expected, atol=1e-4, rtol=1e-3)


@bitsandbytes
def test_a_task_adapter_lies_beside_the_weights(small: Base, tiny_dir: Path, tmp_path: Path) -> None:
    pieces = write_sharer(tmp_path / "task", small, seed=3)
    adapted = load_base(found(tiny_dir, str(tmp_path / "task")), targets=TARGETS)
    name = next(iter(small.targets))
    x = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0))
    a, b = pieces[name]
    torch.testing.assert_close(adapted.targets[name](x), small.targets[name](x) + x @ a.T @ b.T)
    assert torch.equal(adapted.targets[name].weight, small.targets[name].weight)


@bitsandbytes
def test_it_is_another_base(small: Base, tiny: Base, tiny_dir: Path, tmp_path: Path) -> None:
    assert small.fingerprint == found(tiny_dir).fingerprint != tiny.fingerprint
    assert small.describe() == {**tiny.describe(), "quantize": "4bit"}
    write_sharer(tmp_path / "plain", tiny, seed=3)
    write_sharer(tmp_path / "small", small, seed=3)
    with pytest.raises(DataError, match="trained on another base model") as caught:
        found(tiny_dir, str(tmp_path / "plain"))
    assert "was trained with --quantize none; this is --quantize 4bit" in str(caught.value.hint)
    with pytest.raises(DataError) as caught:
        found(tiny_dir, str(tmp_path / "small"), quantize="none")
    assert "was trained with --quantize 4bit; this is --quantize none" in str(caught.value.hint)


@bitsandbytes
def test_an_adapter_that_does_not_fit_is_refused(small: Base, tmp_path: Path) -> None:
    class Odd:
        path, scale, modules = tmp_path, 1.0, list(small.targets)

        def piece(self, module: str) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.zeros(2, 8), torch.zeros(64, 2)

    with pytest.raises(DataError, match=r"is for a 64 × 8 layer; the model's is 64 × 64"):
        merge_adapter(small.model, Odd())  # type: ignore[arg-type]


def losses(base: Base, rows: Sequence[Encoded]) -> torch.Tensor:
    """Of each answer token in a pass of training; the output's weights are not in 4 bits, and have a gradient."""
    weight = base.model.get_output_embeddings().weight.requires_grad_()
    with packed(base):
        found, _ = Line(base, rows, [1.0] * len(rows)).gradients([weight])
    weight.requires_grad_(requires_grad=False)
    return found


@bitsandbytes
def test_the_task_adapter_comes_beside_the_same_4_bits(small: Base, tiny_dir: Path, tmp_path: Path) -> None:
    write_sharer(tmp_path / "task", small, seed=3)
    before = logits(small)
    identity = found(tiny_dir, str(tmp_path / "task"))
    adapted = with_task_adapter(small, identity)
    assert torch.equal(logits(adapted), logits(load_base(identity, targets=TARGETS)))
    assert torch.equal(logits(small), before) and not torch.equal(logits(adapted), before)
    for name, layer in adapted.targets.items():
        assert layer.weight.data_ptr() == small.targets[name].weight.data_ptr()


@bitsandbytes
def test_losses_are_those_of_the_quantized_model(small: Base, tiny: Base) -> None:
    rows = random_rows(tiny, [(9, 4)] * 2)
    ours, theirs = (losses(base, rows) for base in (small, tiny))
    torch.testing.assert_close(ours, theirs, rtol=0.3, atol=0.5)
    assert not torch.equal(ours, theirs)


def test_devices_without_such_kernels() -> None:
    with pytest.raises(UsageError, match="cannot be computed with on 'mps'") as caught:
        check_four_bit(torch.device("mps"))
    assert "--device cpu or cuda" in str(caught.value.hint)


def test_without_the_library(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(four_bit.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PerpcsError, match="needs the package bitsandbytes, which is not installed") as caught:
        found(tiny_dir)
    assert "pip install 'perpcs[4bit]'" in str(caught.value.hint)


def test_layers_that_are_not_quantized(tiny: Base) -> None:
    assert not any(is_quantized(layer) for layer in tiny.model.modules())
