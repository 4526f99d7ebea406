"""LoRAs that were trained elsewhere: what is a plain one, with ranks and scales as PEFT computes them."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from perpcs_cli.artifacts.adapter import CONFIG, PREFIX, WEIGHTS
from perpcs_cli.artifacts.foreign_adapter import open_foreign_adapter
from perpcs_cli.errors import DataError

Q, V = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.v_proj"
LAYERS = {Q: (4, 6), V: (3, 6)}
PLAIN = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"], "bias": "none"}


def tensors(ranks=(2, 2), prefix=PREFIX, name=""):
    generator = torch.Generator().manual_seed(0)
    return {
        f"{prefix}{module}.lora_{side}{name}.weight": torch.randn(
            (rank, n) if side == "A" else (d, rank), generator=generator
        )
        for (module, (d, n)), rank in zip(LAYERS.items(), ranks, strict=True)
        for side in "AB"
    }


def write(directory, named=None, **config):
    save_file(tensors() if named is None else named, directory / WEIGHTS)
    (directory / CONFIG).write_text(json.dumps({**PLAIN, **config}))
    return directory


def updates(path, layers=LAYERS):
    pieces, scale = open_foreign_adapter(path).as_pieces(layers)
    return {module: scale * (b.double() @ a.double()) for module, (a, b) in pieces.items()}


def test_a_plain_one_stays_as_it_is(tmp_path):
    pieces, scale = open_foreign_adapter(write(tmp_path)).as_pieces(LAYERS)
    assert scale == 2.0
    for module in LAYERS:
        for factor, side in zip(pieces[module], "AB", strict=True):
            assert torch.equal(factor, tensors()[f"{PREFIX}{module}.lora_{side}.weight"])


def test_ranks_and_scales_by_layer_become_one(tmp_path):
    named = tensors((4, 2))
    write(tmp_path, named, rank_pattern={Q: 4}, alpha_pattern={"v_proj": 3, "q_proj": 16}, use_rslora=True)
    opened = open_foreign_adapter(tmp_path)
    pieces, scale = opened.as_pieces(LAYERS)
    assert (opened.rank, scale) == (4, 1.0)
    assert {a.shape[0] for a, _ in pieces.values()} == {b.shape[1] for _, b in pieces.values()} == {4}
    for module, factor in ((Q, 16 / 2), (V, 3 / 2**0.5)):
        a, b = (named[f"{PREFIX}{module}.lora_{side}.weight"].double() for side in "AB")
        assert torch.allclose(updates(tmp_path)[module], factor * (b @ a), rtol=1e-6, atol=1e-6)


def test_layers_without_a_piece_get_one_of_zeros(tmp_path):
    found = updates(write(tmp_path), {**LAYERS, "model.layers.2.self_attn.q_proj": (4, 6)})
    assert not found["model.layers.2.self_attn.q_proj"].any()
    assert found[Q].any()


@pytest.mark.parametrize(
    ("prefix", "name"), [("", ""), (PREFIX, ".default"), (f"{PREFIX}language_model.", ""), (PREFIX[:-6], "")]
)
def test_names_as_other_tools_save_them(tmp_path, prefix, name):
    expected = updates(write(tmp_path))
    write(tmp_path, tensors(prefix=prefix, name=name))
    assert all(torch.equal(one, updates(tmp_path)[module]) for module, one in expected.items())


def test_fan_in_and_dropout_change_nothing_on_linear_layers(tmp_path):
    expected = updates(write(tmp_path))
    write(tmp_path, fan_in_fan_out=True, lora_dropout=0.1, layers_to_transform=[0, 1], eva_config=None, revision="main")
    assert all(torch.equal(one, updates(tmp_path)[module]) for module, one in expected.items())


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"peft_type": "LOHA"}, "another method than LoRA (peft_type 'LOHA')"),
        ({"use_dora": True}, "DoRA (use_dora)"),
        ({"bias": "lora_only"}, "trained biases (bias 'lora_only')"),
        ({"lora_bias": True}, "a bias of lora_B (lora_bias)"),
        ({"modules_to_save": ["lm_head"]}, "layers that were trained whole (modules_to_save)"),
        ({"trainable_token_indices": [3]}, "trained tokens (trainable_token_indices)"),
        ({"target_parameters": ["experts.up"], "target_modules": None}, "LoRA on parameters (target_parameters)"),
        ({"layer_replication": [[0, 2]]}, "replicated layers (layer_replication)"),
        ({"init_lora_weights": "pissa"}, "a start that changed the base's own weights (init_lora_weights 'pissa'"),
        ({"use_tomorrow": True}, "a setting that perpcs does not know (use_tomorrow)"),
        ({"use_dora": True, "bias": "all"}, "DoRA (use_dora), trained biases (bias 'all')"),
    ],
)
def test_what_is_more_than_a_plain_lora_is_named(tmp_path, config, says):
    with pytest.raises(DataError) as caught:
        open_foreign_adapter(write(tmp_path, **config))
    assert caught.value.what.startswith(f"not a plain LoRA; not supported: {says}")


@pytest.mark.parametrize(
    ("key", "says"),
    [
        (f"{PREFIX}{Q}.lora_magnitude_vector.weight", "DoRA (tensor"),
        (f"{PREFIX}{Q}.lora_B.bias", "a trained bias (tensor"),
        (f"{PREFIX}model.embed_tokens.lora_embedding_A", "LoRA on embeddings (tensor"),
        (f"{PREFIX}lm_head.weight", "weights beside A and B (tensor"),
    ],
)
def test_tensors_of_more_than_a_plain_lora(tmp_path, key, says):
    with pytest.raises(DataError) as caught:
        open_foreign_adapter(write(tmp_path, {**tensors(), key: torch.zeros(2)}))
    assert says in caught.value.what


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"rank_pattern": {"(a+)+$": 4}}, "a regular expression"),
        ({"rank_pattern": {"q_proj": 0}}, "1 to 4096 can be"),
        ({"rank_pattern": {"q_proj": "4"}}, "1 to 4096 can be"),
        ({"alpha_pattern": {"q_proj": None}}, "the alpha None is no number"),
        ({"alpha_pattern": {"q_proj": float("nan")}}, "no|not valid JSON"),
        ({"lora_alpha": 0}, "the alpha 0"),
        ({"r": 5000}, "<= 4096"),
    ],
)
def test_numbers_that_cannot_be(tmp_path, config, says):
    with pytest.raises(DataError, match=says):
        open_foreign_adapter(write(tmp_path, **config))


@pytest.mark.parametrize(
    ("named", "config", "says"),
    [
        (tensors((4, 2)), {}, "its rank is 2 by adapter_config.json"),
        (tensors(), {"rank_pattern": {"v_proj": 3}}, "its rank is 3"),
        ({k: v[..., None, None] for k, v in tensors().items()}, {}, "LoRA on convolutions is not supported"),
        ({k: v for k, v in tensors().items() if "lora_A" in k}, {}, "missing tensors"),
        ({}, {}, "holds no tensors"),
        ({**tensors(), **tensors(name=".other")}, {}, "holds two adapters"),
    ],
)
def test_pieces_that_peft_would_not_load(tmp_path, named, config, says):
    with pytest.raises(DataError, match=says):
        open_foreign_adapter(write(tmp_path, named, **config)).as_pieces(LAYERS)


def test_the_base_must_fit(tmp_path):
    opened = open_foreign_adapter(write(tmp_path))
    with pytest.raises(DataError, match=r"changes 'model\.layers\.1.*', which is not among the model's target layers"):
        opened.fit({Q: (4, 6)})
    with pytest.raises(DataError, match="is for a 4 × 6 layer, and the model's is 4 × 5"):
        opened.fit({**LAYERS, Q: (4, 5)})
    with pytest.raises(DataError, match="not among"):
        opened.fit({f"a.{Q}": (4, 6), f"b.{Q}": (4, 6), V: (3, 6)})


def test_a_pickle_is_named_and_not_opened(tmp_path):
    (write(tmp_path) / WEIGHTS).rename(tmp_path / "adapter_model.bin")
    with pytest.raises(DataError, match=r"adapter_model\.bin is a pickle") as caught:
        open_foreign_adapter(tmp_path)
    assert "Convert" in str(caught.value.hint)
