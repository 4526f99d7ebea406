"""How many tokens are in a training pass at a time, so that what is kept for its gradient fits."""

from __future__ import annotations

from perpcs_cli.model.engine.memory import total_bytes
from perpcs_cli.model.loading.base import Base
from perpcs_cli.model.training.order import MOST

SHARE = 0.25
"""Of a device's memory, for what the passes of a training keep."""


def pass_tokens(base: Base) -> int:
    """Tokens of a pass whose activations fill a quarter of the device's memory, at most `MOST`.

    Of its memory and not of what is free, so that the same command adds up in the same order every time.
    """
    text = base.model.config.get_text_config(decoder=True)
    # A layer keeps three inputs of its MLP, about ten of its attention and pieces, and two norms'. Norms that are not
    # fused keep them in float32.
    layer = base.dtype.itemsize * (3 * getattr(text, "intermediate_size", 4 * text.hidden_size) + 10 * text.hidden_size)
    token = text.num_hidden_layers * (layer + 8 * text.hidden_size)
    total = total_bytes(base.device)
    return max(1, min(MOST, int(SHARE * total / token))) if total else MOST
