"""The shape of a decoder, from its configuration alone: nothing is downloaded and no weight is read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from perpcs_cli.artifacts.io import typed_files
from perpcs_cli.artifacts.io.limits import Size
from perpcs_cli.errors import DataError, PerpcsError
from perpcs_cli.model.loading.fetch import resolve_model

CONFIG = "config.json"


@dataclass(frozen=True)
class Shape:
    """A decoder of Llama's kind: normed attention with q, k, v and o, then a gated MLP of three linear layers."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    """Whether the output layer is the embedding."""
    context: int
    """Longest sequence in tokens."""
    biases: int = 0
    """Bias values of a layer."""
    norms: int = 2
    """Norms of the width of the hidden state, in a layer."""
    head_norms: int = 0
    """Norms of the width of a head, in a layer."""

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(d, n) of a layer's linear layers, their outputs and inputs, by the last part of their names."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        h, i = self.hidden, self.intermediate
        return {
            "q_proj": (query, h),
            "k_proj": (key, h),
            "v_proj": (key, h),
            "o_proj": (h, query),
            "gate_proj": (i, h),
            "up_proj": (i, h),
            "down_proj": (h, i),
        }

    @property
    def multiplied(self) -> int:
        """The weights that each token is multiplied with, without the output layer."""
        return self.layers * sum(d * n for d, n in self.linears.values())

    @property
    def parameters(self) -> int:
        """All weights of the model."""
        embeddings = self.vocab * self.hidden * (1 if self.tied else 2)
        small = self.biases + self.norms * self.hidden + self.head_norms * self.head_dim
        return self.multiplied + embeddings + self.layers * small + self.hidden


# Source: `config.json` beside the model cards of meta-llama/Llama-2-7b-hf, Llama-3.1-8B and Llama-3.2-3B, whose chat
# and instruct variants have the same shapes, HuggingFaceTB/SmolLM2-135M-Instruct, microsoft/deberta-v3-large and
# sentence-transformers/all-MiniLM-L6-v2.
KNOWN = {
    "llama-2-7b": Shape(32, 4096, 11008, 32, 32, 128, 32000, tied=False, context=4096),
    "llama-3.1-8b": Shape(32, 4096, 14336, 32, 8, 128, 128256, tied=False, context=131072),
    "llama-3.2-3b": Shape(28, 3072, 8192, 24, 8, 128, 128256, tied=True, context=131072),
    "smollm2-135m": Shape(30, 576, 1536, 9, 3, 64, 49152, tied=True, context=8192),
    # Encoders, of which only the sizes matter.
    "deberta-v3-large": Shape(24, 1024, 4096, 16, 16, 64, 128100, tied=True, context=512),
    "minilm": Shape(6, 384, 1536, 12, 12, 32, 30522, tied=True, context=512),
}


def shape_of(config: dict[str, Any], *, where: object = None) -> Shape:
    """The shape that a `config.json` describes, of the decoder where the model also sees or hears.

    Raises DataError where it is not of Llama's kind.
    """
    if isinstance(text := config.get("text_config"), dict):
        config = {**config, **text}
    try:
        read = msgspec.convert(config, _Config)
    except msgspec.ValidationError as error:
        raise DataError(
            f"describes no decoder of Llama's kind: {error}",
            where=where,
            hint="Plans are made for models with separate q, k, v and o linear layers.",
        ) from None
    family = read.model_type
    shape = Shape(
        layers=read.num_hidden_layers,
        hidden=read.hidden_size,
        intermediate=read.intermediate_size,
        heads=read.num_attention_heads,
        kv_heads=read.num_key_value_heads or read.num_attention_heads,
        head_dim=read.head_dim or read.hidden_size // read.num_attention_heads,
        vocab=read.vocab_size,
        # transformers leaves out what is the family's default.
        tied=family.startswith("gemma") if read.tie_word_embeddings is None else read.tie_word_embeddings,
        context=read.max_position_embeddings or 1 << 30,
        norms=4 if family in ("gemma2", "gemma3_text") else 2,
        head_norms=2 if family in ("qwen3", "gemma3_text") else 0,
    )
    return replace(shape, biases=_biases(read, shape))


class _Config(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of a `config.json`."""

    num_hidden_layers: Size
    hidden_size: Size
    intermediate_size: Size
    num_attention_heads: Size
    vocab_size: Size
    num_key_value_heads: Size | None = None
    head_dim: Size | None = None
    max_position_embeddings: Size | None = None
    tie_word_embeddings: bool | None = None
    model_type: str = ""
    attention_bias: bool = False
    mlp_bias: bool = False


def _biases(config: _Config, shape: Shape) -> int:
    biased = ["q_proj", "k_proj", "v_proj"] if config.model_type == "qwen2" or config.attention_bias else []
    biased += ["o_proj"] if config.attention_bias else []
    biased += ["gate_proj", "up_proj", "down_proj"] if config.mlp_bias else []
    return sum(shape.linears[name][0] for name in biased)


def find_local(name: str) -> Path | None:
    """The directory of a model that is on this machine, or None. Never downloads.

    Raises DataError for a directory that is not there.
    """
    try:
        found = resolve_model(name)
    except DataError:
        raise
    except PerpcsError:
        return None
    if isinstance(found, Path):
        return found
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(found, CONFIG) if "/" in found else None
    return Path(cached).parent if isinstance(cached, str) else None


def find_shape(name: str) -> Shape:
    """The shape of a model on this machine, else of one that is known by name.

    Raises PerpcsError for a model that is neither, DataError where its configuration is of another kind.
    """
    directory = find_local(name)
    if directory is not None:
        path = directory / CONFIG
        return shape_of(typed_files.read_json(path, dict[str, Any]), where=path)
    known = [shape for key, shape in KNOWN.items() if key in name.lower().replace("_", "-")]
    if not known:
        raise PerpcsError(
            f"the shape of {name!r} is not known: it is not on this machine",
            hint=f"Download it, or give a directory with its {CONFIG}. Known without are {', '.join(KNOWN)}.",
        )
    return known[0]
