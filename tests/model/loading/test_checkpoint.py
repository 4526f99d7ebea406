"""Checkpoints that are not whole: transformers would fill them with random numbers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from perpcs_cli.errors import DataError
from perpcs_cli.model.loading.checkpoint import load_checkpoint
from perpcs_cli.model.loading.tokenizer_info import load_vocabulary

Spoil = Callable[[dict[str, Tensor]], dict[str, Tensor]]


@pytest.fixture
def spoilt(tiny_dir: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the tiny model with other weights or another config."""

    def make(spoil: Spoil = lambda weights: weights, **config: Any) -> Path:
        directory = Path(shutil.copytree(tiny_dir, tmp_path / "model"))
        file = directory / "model.safetensors"
        weights = load_file(file)
        save_file(spoil(weights), file, {"format": "pt"})
        path = directory / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
        return directory

    return make


def load(directory: Path, what: Literal["model", "encoder"] = "model") -> Any:
    return load_checkpoint(directory, what, torch.float32)[0]


def without(part: str) -> Spoil:
    return lambda weights: {name: weight for name, weight in weights.items() if part not in name}


@pytest.mark.parametrize(
    ("spoil", "config", "says"),
    [
        (without("layers.1.mlp"), {}, "lacks model.layers.1.mlp.down_proj.weight, model.layers.1.mlp.gate_proj.weight"),
        (without("lm_head"), {}, "lacks lm_head.weight"),
        (without("nothing"), {"num_hidden_layers": 3}, r"lacks model.layers.2.* and 6 more"),
        (without("nothing"), {"num_hidden_layers": 1}, "holds more than the architecture has: model.layers.1"),
        (
            lambda weights: {f"module.{k}": v for k, v in weights.items()},
            {},
            "lacks lm_head.weight, model.embed_tokens",
        ),
    ],
)
def test_a_checkpoint_that_is_not_whole(
    spoilt: Callable[..., Path], spoil: Spoil, config: dict[str, Any], says: str
) -> None:
    directory = spoilt(spoil, **config)
    with pytest.raises(DataError, match=f"the checkpoint {says}") as caught:
        load(directory)
    assert caught.value.where == str(directory)


def test_an_encoder_needs_its_layers_and_no_head(spoilt: Callable[..., Path]) -> None:
    assert not hasattr(load(spoilt(without("lm_head")), "encoder"), "lm_head")


def test_an_encoder_that_is_not_whole(spoilt: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match=r"the checkpoint lacks layers.1.self_attn"):
        load(spoilt(without("layers.1.self_attn")), "encoder")


def test_tied_heads_are_not_missing(spoilt: Callable[..., Path]) -> None:
    model = load(spoilt(without("lm_head"), tie_word_embeddings=True))
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_tokenizer_of_another_model(spoilt: Callable[..., Path]) -> None:
    def fewer(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: weight[:300].clone() if len(weight) == 400 else weight for name, weight in weights.items()}

    with pytest.raises(DataError, match="the tokenizer has 400 tokens and the model embeds 300"):
        load(spoilt(fewer, vocab_size=300))


def test_a_tokenizer_that_is_none(spoilt: Callable[..., Path]) -> None:
    directory = spoilt()
    (directory / "tokenizer.json").write_text("7")
    with pytest.raises(DataError, match="the model cannot be loaded: "):
        load(directory)


@pytest.mark.parametrize("kind", ["a model's", "a tokenizer's"])
def test_code_that_comes_with_a_model_is_not_run(
    spoilt: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """transformers would ask on a terminal whether to run it; here the answer would be yes."""
    if kind == "a model's":
        directory = spoilt(model_type="evil", auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.M"})
    else:
        directory = spoilt()
        path = directory / "tokenizer_config.json"
        changed = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}
        path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    (directory / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(DataError, match=r"model.*cannot be loaded"):
        load(directory)
    with pytest.raises(DataError, match="tokenizer cannot be loaded"):
        load_vocabulary(directory)
    assert not (tmp_path / "ran").exists()
