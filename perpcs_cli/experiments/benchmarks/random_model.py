"""Random Llamas over bytes: models to measure with that nobody has to download."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from perpcs_cli.artifacts.io import hashing
from perpcs_cli.artifacts.settings import Quantize
from perpcs_cli.experiments.costs.model_shape import Shape

if TYPE_CHECKING:
    import torch

    from perpcs_cli.model.loading.base import Base

TINY = Shape(2, 64, 96, 4, 2, 16, 258, tied=False, context=1024)
"""Two layers over the tokenizer's own vocabulary."""
SIGNS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}


def byte_tokenizer() -> Any:
    """A tokenizer that knows bytes, an end of sequence and a padding: 258 tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    signs = ["<pad>", "<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({sign: place for place, sign in enumerate(signs)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def llama_config(shape: Shape) -> Any:
    """The configuration of a Llama of this shape."""
    from transformers import LlamaConfig

    return LlamaConfig(
        **SIGNS,
        num_hidden_layers=shape.layers,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        vocab_size=shape.vocab,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=shape.context,
    )


def write_model(directory: Path, shape: Shape = TINY) -> None:
    """Write a random model of this shape, in the layout of transformers."""
    import torch
    from transformers import LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    LlamaForCausalLM(llama_config(shape)).save_pretrained(directory)
    byte_tokenizer().save_pretrained(directory)


def random_base(
    shape: Shape, device: torch.device, dtype: torch.dtype, *, targets: tuple[str, ...], four_bit: Quantize = "none"
) -> Base:
    """A base of random weights, made on the device: neither the host's memory nor a disk has to hold it."""
    import torch
    from transformers import AutoModelForCausalLM

    from perpcs_cli.model.loading.base import Base, find_targets
    from perpcs_cli.model.loading.four_bit import check_four_bit, quantize
    from perpcs_cli.model.loading.identity import Identity

    config = llama_config(shape)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.requires_grad_(False).eval()
    if four_bit == "4bit":
        check_four_bit(device)
        quantize(model, device)
    fingerprint = hashing.digest_value(["random", config.to_diff_dict(), four_bit])
    identity = Identity("random", Path(), None, device, dtype, fingerprint, four_bit)
    return Base(identity, model, byte_tokenizer(), find_targets(model, targets), shape.context, (1,))
