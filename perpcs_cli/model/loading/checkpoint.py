"""Loading what a directory holds: safetensors and a tokenizer, whole, or an error that says what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from perpcs_cli.errors import DataError, shortened
from perpcs_cli.model.loading.tokenizer_info import LOCAL

WHOLE = "Fetch the model again, or save it once more with save_pretrained of the model itself, not of a wrapper."


def load_checkpoint(directory: Path, what: Literal["model", "encoder"], dtype: torch.dtype) -> tuple[Any, Any]:
    """(model, tokenizer) on the CPU, frozen: a causal language model, or an encoder without a head.

    transformers fills with random numbers what a checkpoint does not hold; that is refused here. Raises DataError
    where something cannot be loaded, weights are missing, left over or not finite, or the vocabularies do not fit.
    """
    import transformers
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    kind: Any = transformers.AutoModelForCausalLM if what == "model" else transformers.AutoModel
    try:
        model, report = kind.from_pretrained(
            directory, dtype=dtype, use_safetensors=True, output_loading_info=True, **LOCAL
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory, **LOCAL)
    except Exception as error:  # Whatever a library makes of broken files.
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"the {what} cannot be loaded: {said}", where=directory) from None
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if what == "encoder":
        # A head that it was trained with is not loaded, and one that it was not trained with is not used.
        missing, unexpected = [name for name in missing if "pooler" not in name.split(".")], []
    for names, fault in ((missing, "lacks"), (unexpected, "holds more than the architecture has:")):
        if names:
            raise DataError(f"the checkpoint {fault} {shortened(names)}", where=directory, hint=WHOLE)
    rows = model.get_input_embeddings().num_embeddings
    if tokenizer.vocab_size > rows:  # Tokens that were added to it for padding may be more.
        raise DataError(
            f"the tokenizer has {tokenizer.vocab_size} tokens and the {what} embeds {rows}",
            where=directory,
            hint="They are not of the same model.",
        )
    model.requires_grad_(False).eval()
    if broken := next((name for name, weight in model.named_parameters() if not weight.isfinite().all()), None):
        raise DataError(
            f"the {what}'s weight {broken!r} holds NaN or infinity",
            where=directory,
            hint=f"Fetch the {what} again; if it is whole, its values may be too large for this --dtype.",
        )
    return model, tokenizer
