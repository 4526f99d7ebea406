"""The size of a pass, from the model's shape and the device's memory."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from perpcs_cli.model.training import pass_size
from perpcs_cli.model.training.order import MOST
from perpcs_cli.model.training.pass_size import pass_tokens


@pytest.mark.parametrize(("total", "expected"), [(0, MOST), (1 << 50, MOST), (1, 1)])
def test_the_ends(tiny, monkeypatch, total, expected):
    monkeypatch.setattr(pass_size, "total_bytes", lambda device: total)
    assert pass_tokens(tiny) == expected


def test_half_the_memory_is_half_the_tokens(tiny, monkeypatch):
    found = []
    for total in (2e6, 1e6):
        monkeypatch.setattr(pass_size, "total_bytes", lambda device, total=total: int(total))
        found.append(pass_tokens(tiny))
    assert found[1] == pytest.approx(found[0] / 2, abs=1)
    half = dataclasses.replace(tiny, identity=dataclasses.replace(tiny.identity, dtype=torch.bfloat16))
    assert pass_tokens(half) > found[1]
