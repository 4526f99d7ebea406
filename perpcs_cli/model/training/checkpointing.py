"""Gradient checkpointing of the base while pieces are trained."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from perpcs_cli.model.loading.base import Base


class checkpointing:
    """Gradient checkpointing while the block lasts; the model is left as it was."""

    def __init__(self, base: Base, wanted: bool) -> None:
        self.base = base
        self.wanted = wanted

    def __enter__(self) -> None:
        if self.wanted:
            with _quiet():
                # Dropout draws the same again by itself, and nothing else draws.
                self.base.model.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
            # transformers lets gradients reach the embeddings and would leave that on; this kind has no need of it.
            self.base.model.disable_input_require_grads()
            for module in self.base.model.modules():
                # Only a layer in training mode is checkpointed; the others stay as they are, without dropout.
                module.training = getattr(module, "gradient_checkpointing", False)

    def __exit__(self, *_: object) -> None:
        if self.wanted:
            with _quiet():
                self.base.model.gradient_checkpointing_disable()
            self.base.model.eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warning of newer transformers that checkpointing has another name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
