"""A line of rows against each row alone: its losses, and the gradients that reach what is trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import TARGETS, load_base, random_rows
from torch.nn import functional as F

from perpcs_cli.model.packed.attention import packed
from perpcs_cli.model.training import line as room
from perpcs_cli.model.training.line import Line

LENGTHS = [(20, 3), (5, 4), (19, 6), (1, 1), (22, 2), (7, 1)]
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3")


@pytest.fixture(params=[None, 0.8, 0.1])
def close(request, monkeypatch):
    """Rows attended alone, with those of similar length, and with nearly all others."""
    monkeypatch.setitem(room.CLOSE, "cpu", request.param)


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_are_those_of_each_row_alone(model_dir, family, close, monkeypatch):
    monkeypatch.setattr(room, "CHUNK", 5)
    base = load_base(str(model_dir(family)), targets=TARGETS, device="cpu", dtype="float32")
    rows = random_rows(base, LENGTHS)
    weights = [0.3, 1.0, 0.5, 2.0, 0.1, 0.7]
    parameters = [base.model.get_submodule(name).weight for name in base.targets]
    for parameter in parameters:
        parameter.requires_grad_()
    with packed(base):
        losses, gradients = Line(base, rows, weights).gradients(parameters)
    expected = []
    for row in rows:
        logits = base.model(input_ids=torch.tensor([row.prompt + row.answer[:-1]])).logits[0]
        expected.append(F.cross_entropy(logits[-len(row.answer) :], torch.tensor(row.answer), reduction="none"))
    torch.testing.assert_close(losses, torch.cat(expected).detach(), atol=1e-4, rtol=1e-4)
    total = sum(weight * loss.sum() for weight, loss in zip(weights, expected, strict=True))
    for found, wanted in zip(gradients, torch.autograd.grad(total, parameters), strict=True):
        torch.testing.assert_close(found, wanted, atol=2e-4 * float(wanted.abs().max()), rtol=1e-3)


def test_nothing_is_padded(tiny):
    seen = []
    rows = random_rows(tiny, LENGTHS)
    hook = next(iter(tiny.targets.values())).register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].shape))
    parameter = tiny.model.lm_head.weight.requires_grad_()
    with packed(tiny):
        Line(tiny, rows, [1.0] * len(rows)).gradients([parameter])
    parameter.requires_grad_(requires_grad=False)
    hook.remove()
    assert seen == [(1, sum(len(row) - 1 for row in rows), 64)]


def test_rows_of_similar_length_share_a_call():
    groups = list(room._plan([10, 9, 4, 10, 1], 0.8))
    assert [(rows, width) for rows, width, *_ in groups] == [(3, 10), (1, 4), (1, 1)]
    inside = [take[padding == 0] for *_, take, padding in groups]
    assert sorted(np.concatenate(inside).tolist()) == list(range(34))
    rows, width, take, padding = groups[0]
    # The second row's padding is its last token once more.
    assert take.reshape(rows, width)[1].tolist() == [*range(10, 19), 18]
    assert padding.reshape(rows, width).sum(1).tolist() == [0, 1, 0]
    everywhere = np.concatenate([take for *_, take, _ in groups])
    assert everywhere[room._back(groups)].tolist() == list(range(34))


@pytest.mark.parametrize(("lengths", "way"), [([7, 7, 7], None), ([7, 6, 7], 20), ([7], None), ([], None)])
def test_rows_that_are_as_long_as_each_other_lie_as_they_are(lengths, way):
    back = room._back(list(room._plan(lengths, 0.8)))
    assert (back if back is None else len(back)) == way
