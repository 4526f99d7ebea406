"""What tokenizing needs to know of a model: its tokenizer, its end of sequence and its longest sequence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from perpcs_cli.errors import DataError

LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""For transformers: nothing is fetched, and no code that lies beside a model is run, not even after a question."""


class Reads(Protocol):
    """Anything that can tokenize prompts: a loaded base, or a vocabulary alone."""

    @property
    def tokenizer(self) -> Any:
        """A fast tokenizer."""

    @property
    def stop(self) -> tuple[int, ...]:
        """End-of-sequence token ids; the first closes an answer in training."""

    @property
    def context(self) -> int:
        """Longest sequence that the model was made for, in tokens."""


@dataclass(frozen=True)
class Vocabulary:
    """A model's way to read, without its weights."""

    tokenizer: Any
    stop: tuple[int, ...]
    context: int


def load_vocabulary(directory: Path) -> Vocabulary:
    """Read tokenizer and configuration of a model's directory. Raises DataError where they cannot be read."""
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig
    from transformers.utils import logging

    logging.set_verbosity_error()
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, **LOCAL)
        configs = [AutoConfig.from_pretrained(directory, **LOCAL)]
        if (directory / "generation_config.json").exists():
            configs.insert(0, GenerationConfig.from_pretrained(directory, local_files_only=True))
    except Exception as error:  # Whatever a library makes of broken files.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"the model's tokenizer cannot be loaded: {reason}", where=directory) from None
    configs.append(configs[-1].get_text_config(decoder=True))
    return Vocabulary(tokenizer, stop_tokens(tokenizer, *configs), longest_sequence(configs[-1]))


def stop_tokens(tokenizer: Any, *configs: Any) -> tuple[int, ...]:
    """The end-of-sequence tokens of a tokenizer, then of configurations. Raises DataError where there is none."""
    ids: list[int] = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    for config in configs:
        more = getattr(config, "eos_token_id", None)
        ids += more if isinstance(more, list) else [] if more is None else [more]
    if not ids:
        raise DataError("neither the model nor its tokenizer names an end-of-sequence token")
    return tuple(dict.fromkeys(int(i) for i in ids))


def longest_sequence(config: Any) -> int:
    """The longest sequence of a model's configuration, in tokens; of its decoder, where it reads more than text."""
    text = config.get_text_config(decoder=True)
    return int(getattr(text, "max_position_embeddings", None) or 1 << 30)
