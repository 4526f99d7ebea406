"""User embeddings: the encoder's states, averaged over tokens, then over the items of a history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perpcs_cli.errors import DataError
from perpcs_cli.model import transfers
from perpcs_cli.model.engine.batching import Encoded, by_budget
from perpcs_cli.model.engine.memory import Halving
from perpcs_cli.model.loading.checkpoint import load_checkpoint
from perpcs_cli.model.loading.identity import Identity

BATCH_TOKENS = 16384
BATCH_ROWS = 64


@dataclass(frozen=True)
class Encoder:
    """A frozen encoder that is ready to run."""

    name: str
    model: Any
    tokenizer: Any
    device: torch.device
    limit: int
    """Tokens read of a text; what is longer is cut at its end."""

    @torch.inference_mode()
    def embed(self, texts: Sequence[str], who: str = "") -> Tensor:
        """One user's embedding [H] in float32: the mean over the user's texts of the masked mean over tokens.

        It does not depend on other users' texts. Where the device's memory runs out, smaller batches go on. Raises
        DataError where it is not finite, PerpcsError for a text of `who` that does not fit into the memory.
        """
        how = {"truncation": True, "max_length": self.limit, "split_special_tokens": True}
        rows = [
            Encoded(f"text {number}", self.tokenizer(text, **how)["input_ids"], [], who=who)
            for number, text in enumerate(texts, start=1)
        ]
        total = torch.zeros((), device=self.device)
        for batch in by_budget([len(row) for row in rows], BATCH_TOKENS, BATCH_ROWS):
            parts = Halving[Encoded](lambda row: [row]).run([rows[i] for i in batch], self._states)
            total = total + torch.cat(parts).sum(0)
        mean = transfers.fetch(total / len(texts))
        if not np.isfinite(mean).all():
            raise DataError("the encoder gives NaN or infinity", where=self.name, hint="Try --dtype float32.")
        return torch.tensor(mean)

    def _states(self, batch: Sequence[Encoded]) -> Tensor:
        rows = [row.prompt for row in batch]
        width = max(len(row) for row in rows)
        pad = self.tokenizer.pad_token_id or 0
        lines = np.array([row + [pad] * (width - len(row)) for row in rows], np.int64)
        inside = (np.arange(width) < np.array(list(map(len, rows)))[:, None]).astype(np.int64)
        upload = transfers.Upload(self.device)
        ids, mask = upload.add(lines), upload.add(inside)
        upload.send()
        states = self.model(input_ids=ids.tensor, attention_mask=mask.tensor).last_hidden_state
        return masked_mean(states, mask.tensor)


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """The mean of `states` [rows, tokens, H] where `mask` [rows, tokens] is 1, [rows, H]. Float32."""
    weights = mask[..., None].float()
    return (states.float() * weights).sum(1) / weights.sum(1)


def load_encoder(identity: Identity, max_length: int) -> Encoder:
    """Load an encoder, from safetensors only. It reads `max_length` tokens of a text, and no more than it was made for.

    Of an encoder-decoder model the encoder is taken. Raises DataError for a model that cannot be loaded.
    """
    model, tokenizer = load_checkpoint(identity.directory, "encoder", identity.dtype)
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    limits = (max_length, tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None))
    model.to(identity.device)
    return Encoder(identity.name, model, tokenizer, identity.device, min(int(limit) for limit in limits if limit))
