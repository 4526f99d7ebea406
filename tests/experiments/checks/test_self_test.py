"""The self-test passes here, and fails where something computes what it should not."""

from __future__ import annotations

import pytest
import torch

from perpcs_cli.errors import UsageError
from perpcs_cli.experiments.checks import self_test as room
from perpcs_cli.experiments.checks.self_test import MAKE, PATH, self_test
from perpcs_cli.model.engine import lora_layer
from perpcs_cli.model.loading import known_identity


def test_all_is_well_here() -> None:
    known = known_identity.cache_directory() / "identities"
    before = sorted(known.glob("*"))
    found = self_test("cpu")
    assert [one.name for one in found.checks] == [MAKE, *PATH]
    assert found.ok, found.checks[-1]
    assert found.device == "cpu" and found.seconds > 0
    assert sorted(known.glob("*")) == before


def test_wrong_arithmetic_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = lora_layer.update
    monkeypatch.setattr(lora_layer, "update", lambda *given, **more: right(*given, **more) * 1.05)
    found = self_test("cpu")
    assert not found.ok
    assert found.checks[-1].name == "merged weights" and "differ" in found.checks[-1].said


def test_whatever_breaks_is_a_check_and_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: object) -> str:
        raise RuntimeError("no kernel image")

    monkeypatch.setitem(room.PATH, "gate", broken)
    found = self_test("cpu")
    assert [(one.name, one.ok) for one in found.checks] == [
        ("model and users", True),
        ("train-sharer", True),
        ("gate", False),
    ]
    assert found.checks[-1].said == "RuntimeError: no kernel image"


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without")
def test_a_device_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="cannot be used"):
        self_test("cuda")
