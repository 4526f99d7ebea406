"""Training against a naive loop with PEFT, jobs together against jobs alone, and what training must not touch."""

from __future__ import annotations

import copy
import dataclasses
import math
import random
import re

import pytest
import torch
from helpers import TARGETS, MemoryAdapter, random_pieces, random_rows, short_of_memory
from torch.nn import functional as F

from perpcs_cli.artifacts.adapter import AdapterConfig, open_adapter, write_adapter
from perpcs_cli.artifacts.io.hashing import derive_seed
from perpcs_cli.artifacts.settings import LoraSettings, TrainSettings
from perpcs_cli.errors import PerpcsError
from perpcs_cli.model.engine.batching import make_batch
from perpcs_cli.model.engine.lora_layer import attached
from perpcs_cli.model.engine.piece_cache import PieceCache
from perpcs_cli.model.engine.recipe_router import RecipeRouter
from perpcs_cli.model.training import line
from perpcs_cli.model.training import train as room
from perpcs_cli.model.training.dropout import Drawn, Dropout
from perpcs_cli.model.training.order import draw_steps
from perpcs_cli.model.training.train import check_trained, new_gates, new_lora, train

LORA = LoraSettings(rank=4, alpha=8.0, dropout=0.0)
LENGTHS = [(7, 3), (4, 5), (10, 2), (6, 4)]


def settings(**changes):
    """Four steps of four rows, at a rate that a tiny model needs."""
    return TrainSettings(**{"batch_size": 4, "steps": 4, "lr": 1e-2, "schedule": "constant", **changes})


def lora_job(base, name="u", seed=0, rows=None):
    return new_lora(base, name, rows or random_rows(base, LENGTHS), LORA, seed)


def gate_job(base, name="u", seed=0):
    return new_gates(base, name, random_rows(base, LENGTHS, seed), random_pieces(base, seed), 1.0)


def trained(base, jobs, changes=settings(), *, seed=0, dropout=0.0):  # noqa: B008
    """The parameters of each job after training."""
    train(base, jobs, changes, seed=seed, dropout=dropout)
    return [[parameter.detach().clone() for parameter in job.parameters] for job in jobs]


def assert_same(found, expected, atol=1e-5):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=atol, rtol=1e-4)


def differs(found, expected):
    return any(not torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def loss_by_hand(model, row):
    """(summed loss, count) of a row's answer tokens, unpadded."""
    logits = model(input_ids=torch.tensor([row.prompt + row.answer[:-1]])).logits[0]
    targets = torch.tensor(row.answer)
    return F.cross_entropy(logits[-len(targets) :], targets, reduction="sum"), len(row.answer)


def with_peft(base, job):
    """A copy of the base in PEFT's own layers, with the job's factors."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, lora_alpha=8, target_modules=list(TARGETS), lora_dropout=0.0)
    model = get_peft_model(copy.deepcopy(base.model), config)
    with torch.no_grad():
        for module, (a, b) in job.pieces.items():
            layer = model.get_submodule(f"base_model.model.{module}")
            layer.lora_A.default.weight.copy_(a)
            layer.lora_B.default.weight.copy_(b)
    return model


def test_training_is_peft_and_adamw(tiny):
    """Three steps equal a naive loop: PEFT's layers, the mean loss over a batch's answer tokens, clipped AdamW."""
    job = lora_job(tiny)
    model = with_peft(tiny, job)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.01)
    losses, norms = [], []
    for _ in range(3):
        sums, counts = zip(*(loss_by_hand(model, row) for row in job.examples), strict=True)
        loss = sum(sums) / sum(counts)
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(parameters, 0.3)))
        optimizer.step()
        losses.append(loss.item())
    found = trained(tiny, [job], settings(steps=3))[0]
    assert_same(found, [p.detach() for p in parameters], atol=2e-4)
    assert [step.loss for step in job.log] == pytest.approx(losses, rel=1e-4)
    assert [step.norm for step in job.log] == pytest.approx(norms, rel=1e-3)
    assert max(norms) > 0.3, "nothing was clipped"


def test_training_lowers_the_loss(tiny):
    jobs = [lora_job(tiny), gate_job(tiny)]
    for job, rate in zip(jobs, (1e-2, 0.3), strict=True):
        train(tiny, [job], settings(steps=20, lr=rate), seed=0)
        assert job.log[-1].loss < 0.9 * job.log[0].loss
        assert [step.step for step in job.log] == list(range(1, 21))


def test_a_trained_adapter_loads_in_peft(tiny, tmp_path):
    from peft import PeftModel

    job = lora_job(tiny)
    train(tiny, [job], settings(), seed=0)
    config = AdapterConfig(r=4, lora_alpha=8.0, target_modules=list(TARGETS), base_model_name_or_path="tiny")
    write_adapter(tmp_path, job.pieces, config, "0.19.0")
    theirs = PeftModel.from_pretrained(copy.deepcopy(tiny.model), str(tmp_path)).eval()
    ours = RecipeRouter(PieceCache(tiny, lambda index: open_adapter(tmp_path)), [{m: [(0, 1.0)] for m in tiny.targets}])
    batch = make_batch(tiny, random_rows(tiny, [(12, 0)]))
    ours.use([0])
    with torch.inference_mode():
        expected = theirs(**batch.inputs()).logits
        with attached(tiny, ours):
            torch.testing.assert_close(tiny.model(**batch.inputs()).logits, expected, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(tiny.model(**batch.inputs()).logits, expected, atol=0.1)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("make", [lora_job, gate_job])
def test_jobs_together_are_the_jobs_alone(tiny, make):
    """Of different lengths too: the first is done while the others go on."""

    def jobs():
        made = [make(tiny, f"u{number}") for number in range(3)]
        made[0].examples = made[0].examples[:1]
        made[1].examples = [*made[1].examples, *random_rows(tiny, [(5, 5)], seed=9)]
        return made

    changes = settings(steps=None, epochs=2, batch_size=2)
    together = jobs()
    found = trained(tiny, together, changes)
    assert [len(job.log) for job in together] == [2, 6, 4]
    for job, parameters in zip(jobs(), found, strict=True):
        assert_same(parameters, trained(tiny, [job], changes)[0], atol=2e-4)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("make", [lora_job, gate_job])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_dropout_does_not_depend_on_neighbours(tiny, make, checkpointing):
    """Whose rows are wider, and of which one ends before the others."""

    def jobs():
        made = [make(tiny, f"u{number}") for number in range(3)]
        made[0].examples = random_rows(tiny, [(30, 4), (2, 2)], seed=4)
        made[1].examples = [*made[1].examples, *random_rows(tiny, [(5, 5)], seed=9)]
        return made

    changes = settings(steps=None, epochs=2, batch_size=2, accumulate=2, checkpointing=checkpointing)
    found = trained(tiny, jobs(), changes, dropout=0.3)
    for job, parameters in zip(jobs(), found, strict=True):
        assert_same(parameters, trained(tiny, [job], changes, dropout=0.3)[0], atol=2e-4)
        job = next(other for other in jobs() if other.name == job.name)
        assert differs(parameters, trained(tiny, [job], changes)[0])


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("make", [lora_job, gate_job])
def test_smaller_parts_of_a_batch_give_the_same_step(tiny, monkeypatch, make):
    jobs = lambda: [make(tiny, name) for name in ("u", "v")]  # noqa: E731
    changes = settings(checkpointing=True)
    rates = {"dropout": 0.2}
    whole = jobs()
    expected = trained(tiny, whole, changes, **rates)
    sizes = short_of_memory(tiny, monkeypatch, 40)
    found = jobs()
    for one, other in zip(trained(tiny, found, changes, **rates), expected, strict=True):
        assert_same(one, other, atol=2e-4)
    assert [step.loss for step in found[0].log] == pytest.approx([step.loss for step in whole[0].log], rel=1e-4)
    # What did not fit once is not tried again, and no part has padding.
    assert [size for size in sizes if size > 40] == [2 * sum(map(sum, LENGTHS)) - 8]


def test_a_row_that_does_not_fit_alone_is_named(tiny, monkeypatch):
    short_of_memory(tiny, monkeypatch, 10)
    job = lora_job(tiny, rows=[dataclasses.replace(row, who="user u") for row in random_rows(tiny, LENGTHS)])
    with pytest.raises(PerpcsError, match=r"user u, 'row\d': a row of 1[02] tokens does not fit .*, not even alone"):
        train(tiny, [job], settings(), seed=0)
    assert not any(layer._forward_hooks for layer in tiny.targets.values())


def test_the_same_seed_gives_the_same_bits(tiny):
    changes = settings(batch_size=2)
    first = trained(tiny, [lora_job(tiny, seed=1)], changes, seed=1, dropout=0.1)[0]
    torch.rand(7)
    again = trained(tiny, [lora_job(tiny, seed=1)], changes, seed=1, dropout=0.1)[0]
    assert not differs(first, again)
    assert differs(first, trained(tiny, [lora_job(tiny, seed=2)], changes, seed=1, dropout=0.1)[0])
    assert differs(first, trained(tiny, [lora_job(tiny, seed=1)], changes, seed=2, dropout=0.1)[0])
    assert differs(first, trained(tiny, [lora_job(tiny, "v", seed=1)], changes, seed=1, dropout=0.1)[0])


def test_the_seed_orders_the_examples(tiny):
    """Without dropout and from the same start, only the order of the examples is left to differ."""
    changes = settings(batch_size=1)
    first, again, other = (trained(tiny, [lora_job(tiny)], changes, seed=seed)[0] for seed in (1, 1, 2))
    assert not differs(first, again)
    assert differs(first, other)


def test_gates_are_trained_as_the_published_layer_is(tiny):
    """B A dropout(σ(gᵀ x) x), written out: the gate sees the whole input, and what is kept counts for more."""
    job, rate, changes = gate_job(tiny), 0.4, settings(steps=1, clip=0.0)
    order = random.Random(derive_seed(0, "order", job.name))
    (rows,) = next(draw_steps(job.examples, changes, order))
    gates = {module: torch.zeros(64, requires_grad=True) for module in tiny.targets}
    lengths = [len(row) - 1 for row in rows]
    masks = Dropout(rate, 0, [Drawn((*job.draws_as, 0, 0), lengths, range(len(rows)))])
    at = 0

    def hook(module):
        a, b = job.pieces[module]

        def add(_layer, inputs, output):
            gated = inputs[0] * torch.sigmoid(inputs[0] @ gates[module])[..., None]
            draws = masks.draw(module, torch.empty(1, sum(lengths), gated.shape[-1]))[at : at + gated.shape[1]]
            return output + masks.kept(draws, gated.dtype) * masks.scale * gated @ a.T @ b.T

        return add

    handles = [layer.register_forward_hook(hook(module)) for module, layer in tiny.targets.items()]
    sums, counts = [], []
    for row, length in zip(rows, lengths, strict=True):
        total, count = loss_by_hand(tiny.model, row)
        sums.append(total)
        counts.append(count)
        at += length
    loss = sum(sums) / sum(counts)
    gradients = torch.autograd.grad(loss, list(gates.values()))
    for handle in handles:
        handle.remove()
    train(tiny, [job], changes, seed=0, dropout=rate)
    assert job.log[0].loss == pytest.approx(loss.item(), rel=1e-4)
    assert job.log[0].norm == pytest.approx(torch.cat(gradients).norm().item(), rel=1e-3)
    train(tiny, [plain := gate_job(tiny)], changes, seed=0)
    assert plain.log[0].loss != pytest.approx(loss.item(), rel=1e-4)


def test_a_sharers_gates_draw_other_masks_than_its_lora(tiny):
    assert lora_job(tiny).draws_as != gate_job(tiny).draws_as
    assert gate_job(tiny, "u").draws_as != gate_job(tiny, "v").draws_as


def test_two_accumulated_batches_are_the_mean_of_their_losses(tiny):
    """With answers of one length, the mean of two batches' means is the mean of all rows."""
    rows = random_rows(tiny, [(6, 3), (9, 3), (4, 3), (7, 3)])
    whole, halves = lora_job(tiny, rows=rows), lora_job(tiny, rows=rows)
    expected = trained(tiny, [whole], settings(batch_size=4))[0]
    assert_same(trained(tiny, [halves], settings(batch_size=2, accumulate=2))[0], expected, atol=2e-4)
    assert [s.loss for s in halves.log] == pytest.approx([s.loss for s in whole.log], rel=1e-4)
    assert [s.norm for s in halves.log] == pytest.approx([s.norm for s in whole.log], rel=1e-3)


def test_accumulation_over_more_than_an_epoch_is_the_epoch(tiny):
    rows = random_rows(tiny, [(6, 3), (9, 3)])
    both, many = (settings(batch_size=1, steps=None, epochs=2, accumulate=count) for count in (2, 8))
    expected = trained(tiny, [lora_job(tiny, rows=rows)], both)[0]
    assert_same(trained(tiny, [lora_job(tiny, rows=rows)], many)[0], expected)


@pytest.mark.parametrize("make", [lora_job, gate_job])
def test_checkpointing_changes_nothing(tiny, make):
    expected = trained(tiny, [make(tiny)], dropout=0.1)[0]
    found = trained(tiny, [make(tiny)], settings(checkpointing=True), dropout=0.1)[0]
    assert_same(found, expected, atol=1e-6)
    assert not any(module.training for module in tiny.model.modules())


def test_checkpointing_leaves_the_model_as_it_was(tiny):
    train(tiny, [lora_job(tiny)], settings(steps=1, checkpointing=True), seed=0)
    assert not any(module.training or module._forward_hooks for module in tiny.model.modules())
    assert not tiny.model(input_ids=torch.tensor([[5, 6]])).logits.requires_grad


def test_checkpointing_checkpoints(tiny, monkeypatch):
    """Each decoder layer runs a second time in the backward pass, without dropout of the base's own."""
    passes = []
    attention = [layer.self_attn for layer in tiny.model.model.layers]
    for module in attention:
        monkeypatch.setattr(module, "attention_dropout", 0.5)
    handles = [m.register_forward_hook(lambda m, *_: passes.append(m.training)) for m in attention]
    train(tiny, [lora_job(tiny)], settings(steps=1, checkpointing=True), seed=0)
    for handle in handles:
        handle.remove()
    assert passes == [False] * 4


def test_the_model_is_in_eval_mode_after_a_failure_too(tiny):
    train(tiny, [job := lora_job(tiny)], settings(lr=1e30, clip=0.0, checkpointing=True), seed=0)
    assert job.failure
    assert not any(module.training for module in tiny.model.modules())
    assert not any(layer._forward_hooks for layer in tiny.targets.values())


def test_the_base_never_changes(tiny):
    before = {name: parameter.clone() for name, parameter in tiny.model.named_parameters()}
    trained(tiny, [lora_job(tiny)])
    trained(tiny, [gate_job(tiny)])
    for name, parameter in tiny.model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None


def test_a_new_lora_changes_nothing_yet(tiny):
    job = lora_job(tiny)
    rows = random_rows(tiny, LENGTHS)
    recipes = RecipeRouter(
        PieceCache(tiny, lambda index: MemoryAdapter(job.pieces)), [{m: [(0, 1.0)] for m in tiny.targets}]
    )
    recipes.use([0] * len(rows))
    with torch.inference_mode():
        expected = tiny.model(**make_batch(tiny, rows).inputs()).logits
        with attached(tiny, recipes):
            assert torch.equal(tiny.model(**make_batch(tiny, rows).inputs()).logits, expected)
    for a, b in job.pieces.values():
        assert a.abs().max() <= 1 / math.sqrt(a.shape[1])
        assert a.std() > 0.4 / math.sqrt(a.shape[1])
        assert not b.any()


def test_gates_start_at_zero_and_only_gates_change(tiny):
    job = gate_job(tiny)
    pieces = {module: (a.clone(), b.clone()) for module, (a, b) in job.pieces.items()}
    assert {module: len(gate) for module, gate in job.gates.items()} == dict.fromkeys(tiny.targets, 64)
    assert not any(gate.any() for gate in job.gates.values())
    train(tiny, [job], settings(), seed=0)
    for module, (a, b) in job.pieces.items():
        assert job.gates[module].any()
        assert torch.equal(a, pieces[module][0])
        assert torch.equal(b, pieces[module][1])


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("constant", 0.0, [1, 1, 1, 1]),
        ("linear", 0.0, [1, 0.75, 0.5, 0.25]),
        ("cosine", 0.0, [1, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125)]),
        ("linear", 0.5, [0, 0.5, 1, 0.5]),
        ("constant", 0.75, [0, 1 / 3, 2 / 3, 1]),
        ("cosine", 1.0, [0, 0.25, 0.5, 0.75]),
    ],
)
def test_schedules(tiny, schedule, warmup, expected):
    job = lora_job(tiny, rows=random_rows(tiny, [(3, 2)]))
    train(tiny, [job], settings(lr=1e-3, schedule=schedule, warmup=warmup), seed=0)
    assert [step.lr for step in job.log] == pytest.approx([1e-3 * share for share in expected])


@pytest.mark.usefixtures("either_way")
def test_a_loss_that_is_not_finite_stops_its_job_and_no_other(tiny):
    """The first overflows, and infinity times the others' weight of zero is NaN; they must not see anything of it."""

    def jobs():
        made = [lora_job(tiny, "bad"), lora_job(tiny, "good"), lora_job(tiny, "fine")]
        made[0].pieces = {
            module: ((a.detach().sign() * 3e38).requires_grad_(), b) for module, (a, b) in made[0].pieces.items()
        }
        made[2].examples = made[2].examples[:2]
        return made

    # The last has fewer batches in a step than the others.
    changes = settings(batch_size=2, accumulate=2)
    found = jobs()
    parameters = trained(tiny, found, changes, dropout=0.1)
    assert [len(job.log) for job in found] == [0, 4, 4]
    assert re.fullmatch("its loss is nan and its gradient nan at step 1", found[0].failure)
    assert not found[1].failure
    for job, one in zip(jobs()[1:], parameters[1:], strict=True):
        assert_same(one, trained(tiny, [job], changes, dropout=0.1)[0], atol=2e-4)
    with pytest.raises(PerpcsError, match="not trained to the end: bad; its loss is") as caught:
        check_trained(found)
    assert "lower learning rate" in caught.value.hint
    check_trained(found[1:])


def test_nothing_to_train_on_is_an_error(tiny):
    job = lora_job(tiny)
    job.examples = []
    with pytest.raises(PerpcsError, match="'u' has no examples"):
        train(tiny, [job], settings(steps=3), seed=0)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("make", [lora_job, gate_job])
def test_passes_of_few_tokens_give_the_same_step(tiny, make):
    jobs = lambda: [make(tiny, name) for name in ("u", "v")]  # noqa: E731
    whole = trained(tiny, jobs(), dropout=0.2)
    found = jobs()
    train(tiny, found, settings(), seed=0, dropout=0.2, tokens=20)
    for job, expected in zip(found, whole, strict=True):
        assert_same(job.parameters, expected, atol=2e-4)


@pytest.mark.parametrize("make", [lora_job, gate_job])
def test_a_step_reads_back_nothing_but_losses_and_norms(tiny, monkeypatch, make):
    """On numbers that are not there: whatever would have to come back to the host raises.

    `test_fake_cuda` counts what goes to a device; here are dropout and torch's own backward pass.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    looks = []

    def look(runs):
        looks.append([run.look().shape for run in runs])
        return [(1.0, 1.0)] * len(runs)

    monkeypatch.setattr(room, "_look", look)
    monkeypatch.setitem(line.CLOSE, "cpu", 0.8)
    jobs = [make(tiny, name) for name in ("u", "v")]
    with FakeTensorMode(allow_non_fake_inputs=True):
        train(tiny, jobs, settings(batch_size=2, steps=2, accumulate=2), seed=0, dropout=0.2)
    assert looks == [[(2,), (2,)]] * 2
    assert [len(job.log) for job in jobs] == [2, 2]
