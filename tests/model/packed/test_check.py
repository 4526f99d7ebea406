"""Which architectures are run, and that the others are refused before any work, each for what it is."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import transformers
from helpers import SHAPE, TARGETS, load_base

from perpcs_cli.errors import PerpcsError
from perpcs_cli.model.loading.base import check_layers
from perpcs_cli.model.packed.check import check_packed

COMMON = {"vocab_size": 400, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
LINEAR = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"],
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
STATEFUL = {
    "Qwen3NextForCausalLM": {**SHAPE, **LINEAR, **EXPERTS, "head_dim": 16, "shared_expert_intermediate_size": 32},
    "Qwen3_5ForCausalLM": {**SHAPE, **LINEAR, "head_dim": 16},
    "GraniteMoeHybridForCausalLM": {
        **SHAPE,
        "layer_types": ["mamba", "attention"],
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 32,
        "mamba_n_heads": 8,
        "mamba_d_head": 16,
        "mamba_d_state": 16,
        "mamba_n_groups": 1,
    },
    "Lfm2ForCausalLM": {**SHAPE, "layer_types": ["conv", "full_attention"]},
}
CHUNKED = {
    **SHAPE,
    "head_dim": 16,
    "num_local_experts": 2,
    "intermediate_size_mlp": 96,
    "attention_chunk_size": 16,
    "layer_types": ["chunked_attention", "full_attention"],
}


def with_model(base, kind, settings):
    """The base with a random model of another architecture."""
    torch.manual_seed(0)
    architecture = getattr(transformers, kind)
    model = architecture(architecture.config_class(**COMMON, **settings))
    return dataclasses.replace(base, model=model.eval().requires_grad_(False))


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "gpt2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_plain_attention_passes(model_dir, family, dtype):
    targets = () if family == "gpt2" else TARGETS
    check_packed(load_base(str(model_dir(family)), targets=targets, device="cpu", dtype=dtype))


@pytest.mark.parametrize("kind", STATEFUL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_state_that_goes_from_row_to_row_is_found(tiny, kind, dtype):
    """Also where the configuration does not tell of it."""
    base = with_model(tiny, kind, STATEFUL[kind])
    base.model.to(dtype)
    base = dataclasses.replace(base, identity=dataclasses.replace(base.identity, dtype=dtype))
    with pytest.raises(PerpcsError, match=f"{kind} says other things when rows share a pass"):
        check_packed(base)


@pytest.mark.parametrize(
    ("kind", "named"),
    [(kind, "linear_attention") for kind in list(STATEFUL)[:3]]
    + [("Lfm2ForCausalLM", "conv"), ("Llama4ForCausalLM", "chunked_attention")],
)
def test_layers_that_are_not_computed_are_named(tiny, kind, named):
    base = with_model(tiny, kind, {**STATEFUL, "Llama4ForCausalLM": CHUNKED}[kind])
    with pytest.raises(PerpcsError, match=f"{kind} has layers that perpcs does not compute: {named}\n"):
        check_layers(base.model)


def test_the_step_that_loads_refuses(tiny, tmp_path):
    base = with_model(tiny, "Llama4ForCausalLM", CHUNKED)
    base.model.save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(PerpcsError, match="chunked_attention"):
        load_base(str(tmp_path), targets=TARGETS, device="cpu", dtype="float32")


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("BloomForCausalLM", {"hidden_size": 64, "n_layer": 1, "n_head": 4}, "attention interface"),
        ("StableLmForCausalLM", SHAPE, "does not tell its StableLmAttention"),
        (
            "GptOssForCausalLM",
            {**SHAPE, "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2},
            "uses s_aux",
        ),
    ],
)
def test_an_attention_that_cannot_be_replaced(tiny, kind, settings, said):
    with pytest.raises(PerpcsError, match=said):
        check_packed(with_model(tiny, kind, settings))


def test_a_model_that_does_not_take_the_arguments(tiny):
    class Other(torch.nn.Module):
        config = tiny.model.config

        def set_attn_implementation(self, name):
            tiny.model.set_attn_implementation(name)

        def forward(self, input_ids, use_cache):
            return tiny.model(input_ids=input_ids, use_cache=use_cache)

    with pytest.raises(PerpcsError, match=r"Other cannot run packed passes: .*position_ids"):
        check_packed(dataclasses.replace(tiny, model=Other()))
