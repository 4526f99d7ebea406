"""User embeddings against a naive mean, text by text and without padding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import short_of_memory

from perpcs_cli.errors import DataError, PerpcsError
from perpcs_cli.model import encoder as module
from perpcs_cli.model.encoder import Encoder, load_encoder, masked_mean
from perpcs_cli.model.loading.identity import identify

TEXTS = ["the council met on Monday", "a review", "which tag does this movie relate to among the following tags?"]


@pytest.fixture(scope="module")
def bert_dir(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT with the tiny model's tokenizer."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    path = tmp_path_factory.mktemp("bert")
    BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=40, **size)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(params=["bert", "llama"])
def encoder(request: pytest.FixtureRequest, bert_dir: Path, tiny_dir: Path) -> Encoder:
    path = bert_dir if request.param == "bert" else tiny_dir
    return load_encoder(identify(str(path), device="cpu", dtype="float32"), 512)


def naive(encoder: Encoder, texts: list[str]) -> torch.Tensor:
    means = []
    for text in texts:
        ids = torch.tensor([encoder.tokenizer(text)["input_ids"][: encoder.limit]])
        with torch.no_grad():
            means.append(encoder.model(input_ids=ids).last_hidden_state[0].double().mean(0))
    return torch.stack(means).mean(0)


def test_the_mean_over_tokens_then_over_items(encoder: Encoder) -> None:
    found = encoder.embed(TEXTS)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), naive(encoder, TEXTS), atol=1e-5)


def test_batches_do_not_matter(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    together = encoder.embed(TEXTS)
    monkeypatch.setattr(module, "BATCH_ROWS", 1)
    assert torch.allclose(encoder.embed(TEXTS), together, atol=1e-5)


def test_smaller_batches_where_the_memory_runs_out(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    together = encoder.embed(TEXTS)
    most = max(len(encoder.tokenizer(text)["input_ids"]) for text in TEXTS)
    sizes = short_of_memory(encoder, monkeypatch, most)
    assert torch.allclose(encoder.embed(TEXTS), together, atol=1e-5)
    assert max(sizes) > most
    short_of_memory(encoder, monkeypatch, most - 1)
    with pytest.raises(PerpcsError, match=f"user u, 'text 3': a row of {most} tokens does not fit"):
        encoder.embed(TEXTS, who="user u")


def test_long_texts_are_cut_at_the_encoders_limit(bert_dir: Path) -> None:
    encoder = load_encoder(identify(str(bert_dir), device="cpu", dtype="float32"), 512)
    assert encoder.limit == 40
    long = "budget again " * 100
    assert torch.allclose(encoder.embed([long]).double(), naive(encoder, [long]), atol=1e-5)
    assert load_encoder(identify(str(bert_dir), device="cpu", dtype="float32"), 8).limit == 8


def test_masked_mean_by_hand() -> None:
    states = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [100.0, 100.0]]])
    assert masked_mean(states, torch.tensor([[1, 1, 0]])).tolist() == [[2.0, 4.0]]


def test_a_model_that_is_broken(bert_dir: Path, tmp_path: Path) -> None:
    for file in bert_dir.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert identify(str(tmp_path)).fingerprint == identify(str(bert_dir)).fingerprint
    (tmp_path / "config.json").write_text('{"model_type": "no such model"}')
    with pytest.raises(DataError, match="the encoder cannot be loaded"):
        load_encoder(identify(str(tmp_path), device="cpu", dtype="float32"), 512)


def test_states_that_are_not_finite(bert_dir: Path) -> None:
    encoder = load_encoder(identify(str(bert_dir), device="cpu", dtype="float32"), 512)
    encoder.model.embeddings.word_embeddings.weight.fill_(float("inf"))
    with pytest.raises(DataError, match="NaN or infinity"):
        encoder.embed(TEXTS)
