"""One-time work on a fetched model: unpacking a GGUF file, and a check that the result can be used."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers.utils import logging

from perpcs_cli.errors import DataError

PROBE = "In 2024 the  quick brown fox jumped over 13 lazy dogs."


def convert_gguf(gguf: Path, out: Path, *, context: int) -> None:
    """Write the model and tokenizer inside `gguf` to the directory `out`, as bfloat16 safetensors.

    `context` is the model's longest input in tokens, which the file's tokenizer does not know.
    """
    options: dict[str, Any] = {}
    if hasattr(transformers, "GgufConfig"):
        # Newer versions keep the weights in GGUF blocks unless told otherwise, and those cannot be saved.
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    with _quiet():
        model = transformers.AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, local_files_only=True, **options
        )
        quantizer = getattr(model, "hf_quantizer", None)
        if quantizer is not None:
            quantizer.remove_quantization_config(model)
        model.save_pretrained(out)
        # Saved with the tokenizer: without it, the file would depend on HF_HUB_OFFLINE.
        tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True)
        # The file does not say how text is split before merging: the SmolLM family splits digits one by one.
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
            [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
        )
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.model_max_length = context
        tokenizer.save_pretrained(out)


@torch.no_grad()
def check_model(directory: Path, *, encoder: bool) -> None:
    """Run one sentence through the model at `directory`.

    Raises DataError where it does not load, gives numbers that are not finite, lacks an end-of-sequence token
    (language models only), or has a tokenizer that changes the text.
    """
    kind = transformers.AutoModel if encoder else transformers.AutoModelForCausalLM
    try:
        with _quiet():
            model = kind.from_pretrained(directory, local_files_only=True).eval()
            tokenizer = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)
            batch = tokenizer(PROBE, return_tensors="pt")
            values = model(**batch)[0]
    except Exception as error:  # a broken file fails in the loader's own many ways
        raise DataError(f"the model does not load: {error}", where=directory.name) from error
    if not torch.isfinite(values).all():
        raise DataError("the model gives numbers that are not finite", where=directory.name)
    if encoder:
        return
    if tokenizer.eos_token_id is None or model.generation_config.eos_token_id is None:
        raise DataError("the model has no end-of-sequence token", where=directory.name)
    if tokenizer.decode(batch["input_ids"][0], skip_special_tokens=True) != PROBE:
        raise DataError("the tokenizer does not give back the text it was given", where=directory.name)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no advice on stderr; what goes wrong is raised."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(level)
