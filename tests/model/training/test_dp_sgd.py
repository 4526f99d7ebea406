"""DP-SGD: gradients of examples against a naive loop, the bound on one item's influence, sampling and noise."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from helpers import random_pieces, random_rows, short_of_memory
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch.nn import functional as F

pytest.importorskip("opacus")

from perpcs_cli.artifacts.settings import LoraSettings, TrainSettings
from perpcs_cli.errors import PerpcsError
from perpcs_cli.model.engine.batching import make_batch
from perpcs_cli.model.engine.lora_layer import Pieces, attached
from perpcs_cli.model.training import dp_sgd
from perpcs_cli.model.training.dp_sgd import NoisyOptimizer, Privacy, example_gradients, sampling, train_private
from perpcs_cli.model.training.keyed_noise import SecretStream
from perpcs_cli.model.training.train import new_gates, new_lora, train

LENGTHS = [(7, 3), (4, 5), (10, 2), (6, 4), (5, 1)]
KEY = b"k" * 32


def lora_job(base, lengths=LENGTHS):
    """A LoRA whose factors are both not zero, so that both have gradients."""
    job = new_lora(base, "u", random_rows(base, lengths), LoraSettings(rank=4, alpha=8.0, dropout=0.0), 0)
    pieces = {m: (a.requires_grad_(), b.requires_grad_()) for m, (a, b) in random_pieces(base, 1).items()}
    return dataclasses.replace(job, pieces=pieces)


def gate_job(base, lengths=LENGTHS):
    return new_gates(base, "u", random_rows(base, lengths), random_pieces(base, 1), 1.5)


JOBS = pytest.mark.parametrize("make", [lora_job, gate_job])


def settings(**changes):
    return TrainSettings(**{"batch_size": 2, "steps": 3, "lr": 1e-2, "schedule": "constant", **changes})


def one_by_one(base, job):
    """Gradients of each example's mean loss, in passes of one example with the job's own factors."""
    found = []
    for row in job.examples:

        def router(module, x):
            a, b = job.pieces[module]
            gates = job.gates[module][None] if job.gates else None
            return Pieces(a, b * job.scale, torch.ones(1, 1), gates)

        with attached(base, router):
            logits = base.model(**make_batch(base, [row]).inputs()).logits[0, len(row.prompt) - 1 : -1]
            loss = F.cross_entropy(logits, torch.tensor(row.answer))
            found.append(torch.autograd.grad(loss, job.parameters))
    return [torch.stack(parts) for parts in zip(*found, strict=True)]


def flat(tensors):
    return torch.cat([tensor.flatten(1) for tensor in tensors], dim=1)


@pytest.mark.usefixtures("either_way")
@JOBS
def test_gradients_of_examples_are_those_of_passes_with_one_example(tiny, make):
    job = make(tiny)
    found, expected = example_gradients(tiny, job, job.examples), one_by_one(tiny, job)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, atol=1e-4 * float(other.abs().max()), rtol=1e-4)
    assert flat(expected).norm(dim=1).min() > 1e-3


@JOBS
def test_nothing_keeps_a_gradient_and_the_model_is_left_alone(tiny, make):
    job = make(tiny)
    example_gradients(tiny, job, job.examples)
    assert all(p.grad is None for p in (*job.parameters, *tiny.model.parameters()))
    assert not any(layer._forward_hooks for layer in tiny.targets.values())


@JOBS
def test_checkpointing_changes_no_gradient(tiny, make):
    job = make(tiny)
    with dp_sgd.checkpointing(tiny, True):
        found = example_gradients(tiny, job, job.examples)
    for one, other in zip(found, example_gradients(tiny, job, job.examples), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def step_of(gradients, clip, noise=0.0, chunk=100):
    """What one step subtracts from a parameter at rate 1 with sums instead of means: the noised, clipped sum."""
    parameter = torch.zeros(gradients.shape[1], requires_grad=True)
    optimizer = NoisyOptimizer(
        torch.optim.SGD([parameter], lr=1.0),
        noise_multiplier=noise,
        max_grad_norm=clip,
        expected_batch_size=None,
        loss_reduction="sum",
        stream=SecretStream(KEY),
    )
    for start in range(0, max(1, len(gradients)), chunk):
        parameter.grad_sample = gradients[start : start + chunk]
        optimizer.signal_skip_step(start + chunk < len(gradients))
        optimizer.step()
        optimizer.zero_grad()
    return -parameter.detach()


@hypothesis_settings(max_examples=50, deadline=None)
@given(
    size=st.floats(0, 1e6),
    clip=st.floats(0.01, 10),
    others=st.integers(0, 6),
    chunk=st.integers(1, 8),
    seed=st.integers(0, 99),
)
def test_one_item_moves_the_sum_by_at_most_the_bound(size, clip, others, chunk, seed):
    """Added to any others, however large its gradient is and however the batch is divided."""
    generator = torch.Generator().manual_seed(seed)
    without = torch.randn(others, 5, generator=generator)
    item = torch.randn(1, 5, generator=generator)
    item *= size / item.norm()
    moved = step_of(torch.cat([without, item]), clip, chunk=chunk) - step_of(without, clip, chunk=chunk)
    assert moved.norm() <= clip * (1 + 1e-5)
    if size < clip * 0.999:
        torch.testing.assert_close(moved, item[0], atol=1e-4 * clip, rtol=1e-4)


def test_a_huge_example_moves_a_trained_lora_s_sum_by_at_most_the_bound(tiny, monkeypatch):
    """The same through the model: an example whose loss is a thousand times larger than the others'."""
    job = lora_job(tiny)
    gradients = example_gradients(tiny, job, job.examples)
    gradients = [torch.cat([1e3 * g[:1], g[1:]]) for g in gradients]
    everything = flat(gradients)
    assert everything[0].norm() > 1000
    moved = step_of(everything, 0.5) - step_of(everything[1:], 0.5)
    assert float(moved.norm()) == pytest.approx(0.5, rel=1e-4)


def test_noise_has_the_deviation_of_multiplier_times_bound():
    found = step_of(torch.zeros(0, 100_000), clip=0.5, noise=3.0)
    assert float(found.std()) == pytest.approx(1.5, rel=0.01)
    assert float(found.mean()) == pytest.approx(0.0, abs=0.02)


def test_noise_is_added_once_however_the_batch_is_divided():
    gradients = torch.randn(7, 50, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(step_of(gradients, 1.0, 2.0, chunk=2), step_of(gradients, 1.0, 2.0))


@pytest.mark.parametrize(
    ("examples", "changes", "expected"),
    [
        (20, {}, (0.1, 3)),
        (20, {"steps": None, "epochs": 2}, (0.1, 20)),
        (20, {"steps": None, "epochs": 1, "accumulate": 3}, (0.3, 4)),
        (1, {}, (1.0, 3)),
    ],
)
def test_batches_and_epochs_are_the_ordinary_ones_in_expectation(examples, changes, expected):
    assert sampling(settings(**changes), examples) == pytest.approx(expected)


@JOBS
def test_without_noise_and_bound_full_batches_are_ordinary_training(tiny, make):
    """All rows have as many answer tokens: the mean over rows is then the mean over tokens."""
    lengths, changes = [(7, 3), (4, 3), (9, 3)], settings(batch_size=3, steps=4)
    ordinary, noised = make(tiny, lengths), make(tiny, lengths)
    train(tiny, [ordinary], settings(batch_size=3, steps=4, clip=0.0), seed=0)
    mechanism = train_private(tiny, noised, changes, Privacy(1e-12, 1e3, KEY))
    assert (mechanism.sample_rate, mechanism.steps) == (1.0, 4)
    for one, other in zip(noised.parameters, ordinary.parameters, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-3)
    assert not any(torch.equal(p, q) for p, q in zip(noised.parameters, make(tiny).parameters, strict=True))


def drawn(base, job, changes, monkeypatch):
    """The physical batches of a private training, as lists of the examples' keys."""
    seen = []
    whole = example_gradients
    monkeypatch.setattr(
        dp_sgd, "example_gradients", lambda b, j, rows: seen.append([r.key for r in rows]) or whole(b, j, rows)
    )
    train_private(base, job, changes, Privacy(1.0, 1.0, KEY))
    return seen


def test_each_example_is_drawn_on_its_own_and_the_sample_divided(tiny, monkeypatch):
    job = gate_job(tiny, [(2, 1)] * 12)
    seen = drawn(tiny, job, settings(batch_size=3, steps=40), monkeypatch)
    assert all(len(rows) <= 3 for rows in seen)
    # A sample is over where a batch is not full or the next one starts again; no example is twice in one sample.
    total = sum(len(rows) for rows in seen)
    assert 80 < total < 160, "40 steps of 3 examples in expectation"
    assert {key for rows in seen for key in rows} == {row.key for row in job.examples}
    assert any(len(rows) < 3 for rows in seen)
    assert len(seen) > 40, "samples of more than 3 are divided"


def test_an_empty_sample_is_a_step_of_noise(tiny, monkeypatch):
    """No pass through the model, and yet every parameter moves."""
    job = gate_job(tiny)
    monkeypatch.setattr(dp_sgd.SecretStream, "uniform", lambda self, count: torch.full((count,), 0.999).numpy())
    monkeypatch.setattr(dp_sgd.SecretStream, "normal", lambda self, count: torch.ones(count).double().numpy())
    monkeypatch.setattr(tiny.model, "forward", lambda *_, **__: pytest.fail("the model ran"))
    train_private(tiny, job, settings(steps=1, lr=0.1, weight_decay=0.0), Privacy(1.0, 1.0, KEY))
    # AdamW's first step is the rate times the gradient's sign.
    assert all(torch.allclose(p, torch.tensor(-0.1), atol=1e-6) for p in job.parameters)


@JOBS
def test_the_key_alone_decides_the_noise(tiny, make):
    def trained(key):
        job = make(tiny)
        train_private(tiny, job, settings(), Privacy(1.0, 1.0, key))
        return [p.detach().clone() for p in job.parameters]

    first, same, other = trained(KEY), trained(KEY), trained(b"other" * 8)
    assert all(torch.equal(one, two) for one, two in zip(first, same, strict=True))
    assert not any(torch.equal(one, two) for one, two in zip(first, other, strict=True))


@JOBS
def test_what_is_frozen_stays_and_nothing_is_logged(tiny, make):
    job = make(tiny)
    before = copy.deepcopy({m: (a.detach(), b.detach()) for m, (a, b) in job.pieces.items()})
    mechanism = train_private(tiny, job, settings(), Privacy(1.5, 0.7, KEY))
    assert job.log == []
    assert mechanism.what == ("gate" if job.gates else "lora")
    assert (mechanism.noise_multiplier, mechanism.clip, mechanism.steps) == (1.5, 0.7, 3)
    changed = [not torch.equal(a, before[m][0]) for m, (a, _) in job.pieces.items()]
    assert not any(changed) if job.gates else all(changed)


def test_noise_takes_part_in_every_step(tiny):
    """With much noise the LoRA ends far from where it would without."""
    quiet, loud = lora_job(tiny), lora_job(tiny)
    train_private(tiny, quiet, settings(batch_size=5), Privacy(1e-9, 1.0, KEY))
    train_private(tiny, loud, settings(batch_size=5), Privacy(100.0, 1.0, KEY))
    cosines = [
        torch.cosine_similarity((one - start).detach().flatten(), (two - start).detach().flatten(), dim=0)
        for one, two, start in zip(quiet.parameters, loud.parameters, lora_job(tiny).parameters, strict=True)
    ]
    assert float(torch.stack(cosines).mean()) < 0.3


def test_no_examples(tiny):
    with pytest.raises(PerpcsError, match="'u' has no examples"):
        train_private(tiny, gate_job(tiny, []), settings(), Privacy(1.0, 1.0, KEY))


def test_a_gradient_that_is_not_finite(tiny):
    job = gate_job(tiny)
    next(iter(job.gates.values())).data[0] = float("nan")
    before = [parameter.detach().clone() for parameter in job.parameters]
    train_private(tiny, job, settings(batch_size=5), Privacy(1.0, 1.0, KEY))
    assert job.failure == "a gradient is not finite at step 1"
    assert all(torch.equal(one[1:], other[1:]) for one, other in zip(before, job.parameters, strict=True))


def test_smaller_parts_of_a_batch_give_the_same_gradients(tiny, monkeypatch):
    jobs = [lora_job(tiny), lora_job(tiny)]
    train_private(tiny, jobs[0], settings(), Privacy(1.0, 1.0, KEY))
    sizes = short_of_memory(tiny, monkeypatch, 15)
    train_private(tiny, jobs[1], settings(), Privacy(1.0, 1.0, KEY))
    assert max(sizes) > 15
    for one, other in zip(jobs[0].parameters, jobs[1].parameters, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
