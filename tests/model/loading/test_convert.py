"""The check of a fetched model, on a tiny one made here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from perpcs_cli.errors import DataError
from perpcs_cli.model.loading.convert import check_model


def save(directory: Path, *, eos: bool = True, faithful: bool = True, spoil: bool = False) -> None:
    """Write a random one-layer Llama with a byte-level tokenizer."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<end>", *alphabet])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=not faithful)
    core.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=core, **({"eos_token": "<end>"} if eos else {})).save_pretrained(directory)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocabulary),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            eos_token_id=0,
        )
    )
    if spoil:
        with torch.no_grad():
            model.model.norm.weight.fill_(float("nan"))
    model.save_pretrained(directory)


@pytest.mark.parametrize("encoder", [False, True])
def test_sound_model_passes(tmp_path: Path, encoder: bool) -> None:
    save(tmp_path)
    check_model(tmp_path, encoder=encoder)


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        ({"spoil": True}, "not finite"),
        ({"eos": False}, "no end-of-sequence token"),
        ({"faithful": False}, "does not give back the text"),
    ],
)
def test_flaw_is_found(tmp_path: Path, flaw: dict[str, bool], message: str) -> None:
    save(tmp_path, **flaw)
    with pytest.raises(DataError, match=message):
        check_model(tmp_path, encoder=False)


def test_broken_file_does_not_load(tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(DataError, match="does not load"):
        check_model(tmp_path, encoder=False)
