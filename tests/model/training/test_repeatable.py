"""Deterministic kernels in training alone."""

from __future__ import annotations

import pytest
import torch

from perpcs_cli.model.training.repeatable import repeatable


def state() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def fills() -> bool:
    return torch.utils.deterministic.fill_uninitialized_memory


@pytest.fixture
def warning() -> object:
    """As whoever calls perpcs from Python may have set it."""
    before = state()
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def test_on_cuda_it_holds_while_the_block_lasts(warning: object) -> None:
    with pytest.raises(KeyError), repeatable(torch.device("cuda")):
        assert (state(), fills()) == ((True, False), False)
        raise KeyError
    assert (state(), fills()) == ((True, True), True)


def test_on_the_processor_nothing_changes(warning: object) -> None:
    with repeatable(torch.device("cpu")):
        assert state() == (True, True)
