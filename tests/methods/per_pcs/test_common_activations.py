"""What activations have in common: against one row at a time by hand, however the rows are divided."""

from __future__ import annotations

import pytest
import torch
from helpers import random_rows, short_of_memory

from perpcs_cli.methods.per_pcs.common_activations import common_activations
from perpcs_cli.methods.per_pcs.gates import normalize

LENGTHS = [(8, 3), (5, 2), (11, 4), (6, 1)]


def by_hand(base, rows, scoring):
    """{linear layer: mean over the rows of the mean over the places at which an answer is scored}, in float64."""
    means = {module: [] for module in base.targets}
    for row in rows:
        seen: dict = {}

        def keep(module, seen=seen):
            return lambda _, inputs, out: seen.update({module: inputs[0][0]})

        handles = [base.model.get_submodule(m).register_forward_hook(keep(m)) for m in base.targets]
        with torch.inference_mode():
            base.model(input_ids=torch.tensor([row.prompt + row.answer]))
        for handle in handles:
            handle.remove()
        first = len(row.prompt) - (scoring == "published")
        for module, x in seen.items():
            means[module].append(normalize(x[first : first + len(row.answer)], scoring).double().mean(0))
    return {module: torch.stack(some).mean(0) for module, some in means.items()}


@pytest.mark.parametrize("scoring", ["published", "paper"])
@pytest.mark.parametrize("batch_tokens", [1, 20, 1000])
def test_the_mean_of_the_rows_means(tiny, scoring, batch_tokens):
    rows = random_rows(tiny, LENGTHS, 3)
    found = common_activations(tiny, rows, scoring, batch_tokens=batch_tokens)
    expected = by_hand(tiny, rows, scoring)
    assert list(found) == list(expected)
    for module, mean in expected.items():
        torch.testing.assert_close(found[module].double(), mean, atol=1e-5, rtol=1e-5)


def test_memory_that_runs_out_divides_a_pass(tiny, monkeypatch):
    rows = random_rows(tiny, LENGTHS, 3)
    whole = common_activations(tiny, rows, "published", batch_tokens=1000)
    sizes = short_of_memory(tiny, monkeypatch, 16)
    parts = common_activations(tiny, rows, "published", batch_tokens=1000)
    assert sizes[0] > 16 and sizes[-1] <= 16
    for module, mean in whole.items():
        torch.testing.assert_close(parts[module], mean, atol=1e-6, rtol=1e-5)


def test_nobody_has_nothing_in_common(tiny):
    assert common_activations(tiny, [], "published", batch_tokens=10) == {}
