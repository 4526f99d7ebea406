"""Shapes from configurations: exact for every family, and never by a download."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers

from perpcs_cli.errors import DataError, PerpcsError
from perpcs_cli.experiments.costs.model_shape import KNOWN, find_local, find_shape, shape_of


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3"])
def test_the_parameters_are_the_models(model_dir: Callable[[str], Path], family: str) -> None:
    directory = model_dir(family)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory)
    assert find_shape(str(directory)).parameters == sum(one.numel() for one in model.parameters())


def test_the_decoder_counts_where_a_model_also_sees(model_dir: Callable[[str], Path]) -> None:
    text = json.loads((model_dir("gemma3") / "config.json").read_text())
    whole = {"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 8}, "hidden_size": 8}
    assert shape_of(whole) == shape_of(text)


def test_biases_are_counted() -> None:
    config = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 12}
    plain = {**config, "vocab_size": 10, "model_type": "llama"}
    biased = shape_of({**plain, "attention_bias": True, "mlp_bias": True})
    assert biased.parameters - shape_of(plain).parameters == 3 * (4 * 8 + 12 + 12 + 8)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("meta-llama/Llama-2-7b-hf", 6_738_415_616),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", 8_030_261_248),
        ("meta-llama/Llama-3.2-3B", 3_212_749_824),
    ],
)
def test_public_models_are_known_without_their_files(name: str, parameters: int) -> None:
    assert find_local(name) is None
    assert find_shape(name).parameters == parameters


def test_a_catalogue_model_is_known_before_it_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PERPCS_CACHE", str(tmp_path))
    assert find_local("smollm2-135m") is None
    assert find_shape("smollm2-135m") is KNOWN["smollm2-135m"]


def test_an_unknown_model_is_an_error() -> None:
    with pytest.raises(PerpcsError, match="'nobody/nothing' is not known"):
        find_shape("nobody/nothing")


def test_another_kind_of_model_is_an_error(model_dir: Callable[[str], Path]) -> None:
    config = json.loads((model_dir("gpt2") / "config.json").read_text())
    with pytest.raises(DataError, match="missing required field `num_hidden_layers`"):
        shape_of(config)
