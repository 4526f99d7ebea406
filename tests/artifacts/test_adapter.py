"""A LoRA in PEFT's layout: what is written, and everything that is refused."""

from __future__ import annotations

import dataclasses
import json

import msgspec
import pytest
import torch
from helpers import edit_json, provenance
from safetensors.torch import load_file, save_file

from perpcs_cli.artifacts.adapter import (
    CARD,
    CONFIG,
    PREFIX,
    WEIGHTS,
    AdapterConfig,
    Card,
    divided,
    open_adapter,
    write_adapter,
)
from perpcs_cli.artifacts.io import hashing, typed_files
from perpcs_cli.artifacts.users import User
from perpcs_cli.errors import DataError

MODULES = ["model.layers.2.self_attn.q_proj", "model.layers.10.self_attn.q_proj"]
CONFIG_8 = AdapterConfig(r=2, lora_alpha=8.0, target_modules=["q_proj"], base_model_name_or_path="tiny")


def write_card(adapter):
    """A card for the weights that are there."""
    losses = {"first_loss": 2.0, "last_loss": 1.0}
    digest = hashing.digest_file(adapter / WEIGHTS)
    origin = provenance("f" * 64)
    card = Card(user_id="u", examples=3, steps=2, tokens=9, **losses, digest=digest, scale=4.0, provenance=origin)
    typed_files.write_json(adapter / CARD, card)
    return card


def pieces(rank=2):
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    return {module: (draw(rank, 6), draw(4, rank)) for module in MODULES}


@pytest.fixture
def adapter(tmp_path):
    """The directory of a small adapter."""
    write_adapter(tmp_path, pieces(), CONFIG_8, "0.19.0")
    return tmp_path


def change_weights(adapter, **changes):
    """Replace tensors of layer 2 by side, as A=…; None leaves one out."""
    named = load_file(adapter / WEIGHTS)
    for side, tensor in changes.items():
        key = f"{PREFIX}{MODULES[0]}.lora_{side}.weight"
        if tensor is None:
            del named[key]
        else:
            named[key] = tensor
    save_file(named, adapter / WEIGHTS)


def test_round_trip(adapter):
    opened = open_adapter(adapter)
    assert opened.modules == MODULES
    assert (opened.scale, opened.card, opened.base) == (4.0, None, "")
    for module, (a, b) in pieces().items():
        assert torch.equal(opened.piece(module)[0], a)
        assert torch.equal(opened.piece(module)[1], b)


def test_the_file_holds_nothing_but_a_and_b(adapter):
    assert sorted(load_file(adapter / WEIGHTS)) == sorted(
        f"{PREFIX}{module}.lora_{side}.weight" for module in MODULES for side in "AB"
    )
    config = json.loads((adapter / CONFIG).read_text())
    assert (config["r"], config["lora_alpha"], config["peft_type"], config["bias"]) == (2, 8, "LORA", "none")
    assert (config["rank_pattern"], config["target_modules"], config["peft_version"]) == ({}, ["q_proj"], "0.19.0")


def test_the_same_pieces_give_the_same_bytes(tmp_path):
    backwards = dict(reversed(pieces().items()))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    digests = [write_adapter(tmp_path / d, p, CONFIG_8, "0") for d, p in (("a", pieces()), ("b", backwards))]
    assert digests[0] == digests[1] == hashing.digest_file(tmp_path / "a" / WEIGHTS)


def test_rank_stabilized_scale(tmp_path):
    config = AdapterConfig(r=4, lora_alpha=8.0, target_modules=["q_proj"], use_rslora=True)
    write_adapter(tmp_path, pieces(4), config, "0.19.0")
    assert open_adapter(tmp_path).scale == 4.0


@pytest.mark.parametrize("change", [{"lora_alpha": 800}, {"use_rslora": True}])
def test_another_scale_than_it_was_trained_with(adapter, change):
    write_card(adapter)
    config = json.loads((adapter / CONFIG).read_text())
    (adapter / CONFIG).write_text(json.dumps({**config, **change}))
    with pytest.raises(DataError, match="and it was trained with 4") as caught:
        open_adapter(adapter)
    assert caught.value.where == str(adapter / CONFIG)


def test_the_digest_knows_the_scale(adapter):
    before = open_adapter(adapter).digest()
    config = json.loads((adapter / CONFIG).read_text())
    (adapter / CONFIG).write_text(json.dumps({**config, "lora_alpha": 16}))
    assert open_adapter(adapter).digest() != before


def test_the_card_says_which_base(adapter):
    card = write_card(adapter)
    assert (open_adapter(adapter).card, open_adapter(adapter).base) == (card, "f" * 64)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_written(tmp_path, bad):
    broken = pieces()
    broken[MODULES[1]][1][0, 0] = bad
    with pytest.raises(DataError, match=r"not written: .*layers\.10.*lora_B.* would hold NaN or infinity"):
        write_adapter(tmp_path, broken, CONFIG_8, "0.19.0")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_adapter(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=r"holds no adapter_model\.safetensors"):
            open_adapter(path)


def test_a_pickle_is_named_and_not_opened(adapter):
    (adapter / WEIGHTS).rename(adapter / "adapter_model.bin")
    with pytest.raises(DataError, match=r"adapter_model\.bin is a pickle"):
        open_adapter(adapter)


def test_a_missing_configuration(adapter):
    (adapter / CONFIG).unlink()
    with pytest.raises(DataError, match="no such file"):
        open_adapter(adapter)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_weights(adapter, keep):
    (adapter / WEIGHTS).write_bytes((adapter / WEIGHTS).read_bytes()[:keep])
    with pytest.raises(DataError, match="not a whole safetensors file"):
        open_adapter(adapter)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 4}}, "alpha_pattern"),
        ({"alora_invocation_tokens": [5, 6]}, "alora_invocation_tokens"),
        ({"use_qalora": True}, "use_qalora"),
        ({"init_lora_weights": "lora_ga"}, "init_lora_weights"),
        ({"bias": "all"}, "bias"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"peft_type": "LOHA"}, "peft_type"),
        ({"use_dora": True, "bias": "all"}, "use_dora, bias"),
    ],
)
def test_other_than_plain_loras_are_refused(adapter, changes, named):
    config = json.loads((adapter / CONFIG).read_text())
    (adapter / CONFIG).write_text(json.dumps({**config, **changes}))
    with pytest.raises(DataError) as caught:
        open_adapter(adapter)
    assert caught.value.what == f"not a plain LoRA of one rank: {named}"


@pytest.mark.parametrize(("rank", "expected"), [(0, ">= 1"), (5000, "<= 4096"), (10**400, "<= 4096")])
def test_ranks_that_no_lora_has(adapter, rank, expected):
    edit_json(adapter / CONFIG, r=rank)
    with pytest.raises(DataError, match=f"Expected `int` {expected}"):
        open_adapter(adapter)


@pytest.mark.parametrize("settings", [{"hold_out": "half"}, {"hold_out": 2}, {"hold_out": 0.5, "recent": -1}])
def test_a_card_that_does_not_tell_what_was_kept_away(adapter, settings):
    card = Card(user_id="u", examples=1, steps=1, digest="", scale=2.0, provenance=provenance())
    told = msgspec.structs.replace(card.provenance, settings=settings)
    opened = dataclasses.replace(open_adapter(adapter), card=msgspec.structs.replace(card, provenance=told))
    with pytest.raises(DataError, match="does not tell what it kept away"):
        divided(opened, User(user_id="u", history=[{"text": "a"}, {"text": "b"}]))


@pytest.mark.parametrize(
    "extra",
    [
        f"{PREFIX}{MODULES[0]}.lora_magnitude_vector",
        f"{PREFIX}{MODULES[0]}.lora_B.bias",
        f"{PREFIX}{MODULES[0]}.gate",
        f"{MODULES[0]}.lora_A.weight",
    ],
)
def test_further_tensors_are_refused(adapter, extra):
    save_file({**load_file(adapter / WEIGHTS), extra: torch.zeros(2)}, adapter / WEIGHTS)
    with pytest.raises(DataError, match=f"unexpected tensor '{extra}'"):
        open_adapter(adapter)


def test_a_piece_without_b_is_refused(adapter):
    change_weights(adapter, B=None)
    with pytest.raises(DataError, match=r"missing tensors: A or B of 'model\.layers\.2\."):
        open_adapter(adapter)


def test_no_tensors_at_all(adapter):
    save_file({}, adapter / WEIGHTS)
    with pytest.raises(DataError, match="holds no tensors"):
        open_adapter(adapter)


@pytest.mark.parametrize(
    "changes",
    [{"A": torch.zeros(3, 6)}, {"B": torch.zeros(4, 3)}, {"A": torch.zeros(6)}, {"B": torch.zeros(4, 2, 1)}],
    ids=["A of rank 3", "B of rank 3", "A a vector", "B a cube"],
)
def test_pieces_of_another_rank_are_refused(adapter, changes):
    change_weights(adapter, **changes)
    opened = open_adapter(adapter)
    for ask in (opened.shape, opened.piece):
        with pytest.raises(DataError, match=r"'model\.layers\.2\.self_attn\.q_proj' has shapes .*, not rank 2"):
            ask(MODULES[0])


def test_weights_that_changed_after_training(adapter):
    assert write_card(adapter).digest == open_adapter(adapter).digest_weights()
    change_weights(adapter, A=torch.zeros(2, 6))
    with pytest.raises(DataError, match="the weights have changed since they were trained"):
        open_adapter(adapter).digest_weights()


def test_the_adapter_must_fit_the_model(adapter):
    layers = dict.fromkeys(MODULES, (4, 6))
    write_card(adapter)
    opened = open_adapter(adapter)
    opened.check_fits("f" * 64, {**layers, "further": (1, 1)})
    with pytest.raises(DataError, match="trained on another base model"):
        opened.check_fits("0" * 64, layers)
    with pytest.raises(DataError, match=r"changes 'model\.layers\.10\..*', which is not among"):
        opened.check_fits("f" * 64, {MODULES[0]: (4, 6)})
    with pytest.raises(DataError, match="is for a 4 × 6 layer, and the model's is 4 × 5"):
        opened.check_fits("f" * 64, {**layers, MODULES[1]: (4, 5)})


def test_nan_is_found_when_the_piece_is_read(adapter):
    change_weights(adapter, A=torch.full((2, 6), float("nan")))
    opened = open_adapter(adapter)
    opened.piece(MODULES[1])
    with pytest.raises(DataError, match=r"layers\.2.*lora_A.* holds NaN or infinity"):
        opened.piece(MODULES[0])


def test_a_piece_that_is_not_there(adapter):
    with pytest.raises(DataError, match="missing tensor"):
        open_adapter(adapter).piece("model.layers.3.self_attn.q_proj")
