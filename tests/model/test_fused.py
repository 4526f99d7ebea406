"""Norms and rotations in fewer operators: what they compute, whose they are, and that nothing of them stays."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TARGETS, load_base, random_rows
from torch import Tensor, nn

from perpcs_cli.model.fused import ROTATE, fused, is_norm, is_rotation, rotate
from perpcs_cli.model.loading.base import Base


@pytest.fixture(params=["llama", "mistral", "qwen2", "qwen3", "gemma3"])
def base(request: pytest.FixtureRequest, model_dir: Callable[[str], Path]) -> Base:
    found = load_base(str(model_dir(request.param)), targets=TARGETS, device="cpu", dtype="float32")
    torch.manual_seed(0)
    for module in found.model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            nn.init.uniform_(module.weight, 0.5, 2.0)
    return found


def names_of(base: Base) -> dict[str, Any]:
    return sys.modules[type(base.model).__module__].__dict__


def logits_and_slopes(base: Base) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of what is embedded."""
    (row,) = random_rows(base, [(20, 4)])
    embedded = base.model.get_input_embeddings()(torch.tensor([row.prompt + row.answer])).detach().requires_grad_()
    logits = base.model(inputs_embeds=embedded, use_cache=False).logits
    (slopes,) = torch.autograd.grad(logits.square().mean(), embedded)
    return logits.detach(), slopes


def test_logits_and_gradients_are_the_same_up_to_rounding(base: Base) -> None:
    expected = logits_and_slopes(base)
    with fused(base):
        found = logits_and_slopes(base)
    for one, other in zip(found, expected, strict=True):
        assert not torch.equal(one, other)
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))
    again = logits_and_slopes(base)
    assert all(map(torch.equal, again, expected))


def test_rounding_in_bfloat16_is_transformers_own(model_dir: Callable[[str], Path]) -> None:
    base = load_base(str(model_dir("llama")), targets=TARGETS, device="cpu", dtype="bfloat16")
    norm = base.model.model.norm
    nn.init.uniform_(norm.weight, 0.5, 2.0)
    x = torch.randn(3, 64, dtype=torch.bfloat16)
    expected = norm(x)
    with fused(base):
        found = norm(x)
    assert found.dtype == torch.bfloat16
    assert (found == expected).float().mean() > 0.97


def test_whose_they_are(base: Base) -> None:
    kinds = {type(module) for module in base.model.modules() if type(module).__name__.endswith("RMSNorm")}
    gemma = "Gemma" in type(base.model).__name__
    assert [is_norm(kind) for kind in kinds] == [not gemma]
    assert is_rotation(names_of(base)[ROTATE], names_of(base)["rotate_half"])


class OtherNorm(nn.Module):
    def forward(self, hidden_states: Tensor) -> Tensor:
        """Nearly the same."""
        input_dtype = hidden_states.dtype
        hidden_states = hidden_states.to(torch.float32)
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        hidden_states = hidden_states * torch.rsqrt(variance + self.variance_epsilon)
        return (1 + self.weight) * hidden_states.to(input_dtype)


def test_others_are_left_alone() -> None:
    assert not is_norm(OtherNorm)
    assert not is_norm(nn.Linear)
    assert not is_norm(nn.ReLU)
    assert not is_rotation(None, None)
    assert not is_rotation(sys.getsizeof, rotate)


def test_nothing_stays(base: Base) -> None:
    honest = names_of(base)[ROTATE]
    with pytest.raises(ValueError, match="in the block"), fused(base):
        assert names_of(base)[ROTATE] is rotate
        with fused(base):
            assert names_of(base)[ROTATE] is rotate
        assert names_of(base)[ROTATE] is rotate
        raise ValueError("in the block")
    assert names_of(base)[ROTATE] is honest
    assert not any("forward" in module.__dict__ for module in base.model.modules())
