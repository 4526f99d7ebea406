"""What tests make on the spot: random pieces and rows, models with explicitly merged weights, sharers and pools."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from perpcs_cli.artifacts.adapter import CARD, AdapterConfig, Card, write_adapter
from perpcs_cli.artifacts.gate import FILE as GATE_FILE
from perpcs_cli.artifacts.gate import GateCard, write_gates
from perpcs_cli.artifacts.io import hashing, typed_files
from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.pool import OpenPool, open_pool
from perpcs_cli.artifacts.pools.build import build_pool
from perpcs_cli.model.engine.batching import Encoded
from perpcs_cli.model.loading import base as base_room
from perpcs_cli.model.loading.base import Base
from perpcs_cli.model.loading.identity import identify

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
SIZE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
SHAPE = {**SIZE, "intermediate_size": 96, "max_position_embeddings": 256, "initializer_range": 0.15}
GEMMA3_LAYERS = ["sliding_attention", "full_attention"]


def load_base(
    name: str, *, targets: tuple[str, ...], task_adapter: str = "", device: str = "auto", dtype: str = "auto"
) -> Base:
    """Find a model and load it."""
    return base_room.load_base(identify(name, task_adapter, device=device, dtype=dtype), targets=targets)


Pieces = dict[str, tuple[Tensor, Tensor]]
"""Linear layer → (A [r, n], B [d, r])."""


def random_pieces(base: Base, seed: int, rank: int = 4) -> Pieces:
    """A piece for every target, large enough to change what the model says."""
    generator = torch.Generator().manual_seed(seed)
    return {
        module: (
            torch.randn(rank, linear.in_features, generator=generator) / linear.in_features**0.5,
            torch.randn(linear.out_features, rank, generator=generator) / 2,
        )
        for module, linear in base.targets.items()
    }


def random_rows(base: Base, lengths: list[tuple[int, int]], seed: int = 0) -> list[Encoded]:
    """Rows of random tokens, of the given (prompt, answer) lengths; answers end with end of sequence."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda count: torch.randint(2, len(base.tokenizer), (count,), generator=generator).tolist()  # noqa: E731
    return [
        Encoded(f"row{number}", draw(prompt), [*draw(answer - 1), base.stop[0]] if answer else [])
        for number, (prompt, answer) in enumerate(lengths)
    ]


@dataclasses.dataclass
class MemoryAdapter:
    """An adapter that lies in memory and keeps a list of what was read."""

    pieces: Pieces
    scale: float = 1.0
    reads: list[str] = dataclasses.field(default_factory=list)

    def piece(self, module: str) -> tuple[Tensor, Tensor]:
        self.reads.append(module)
        return self.pieces[module]


def merged(
    base: Base, sharers: list[Pieces], recipe: dict[str, list[tuple[int, float]]], merge: str = "product"
) -> Base:
    """A copy of the base with a recipe added to its weights, computed in float64."""
    model = copy.deepcopy(base.model)
    for module, mix in recipe.items():
        linear = model.get_submodule(module)
        a_sum, b_sum, total = 0.0, 0.0, torch.zeros(linear.weight.shape, dtype=torch.float64)
        for sharer, weight in mix:
            a, b = (factor.double() for factor in sharers[sharer][module])
            a_sum, b_sum, total = a_sum + weight * a, b_sum + weight * b, total + weight * (b @ a)
        delta = total if merge == "product" or not mix else b_sum @ a_sum
        linear.weight.data = (linear.weight.double() + delta).to(linear.weight.dtype)
    return dataclasses.replace(base, model=model, targets={name: model.get_submodule(name) for name in base.targets})


def provenance(base: str = "", seed: int = 0) -> Provenance:
    """A provenance that says little."""
    return Provenance(command="test", settings={}, seed=seed, base=base)


def write_sharer(directory: Path, base: Base, seed: int, *, rank: int = 4, gates: bool = True) -> Pieces:
    """Write a sharer with random pieces (scale 1) and gates into `directory`, whose name is its id."""
    pieces = random_pieces(base, seed, rank)
    directory.mkdir(parents=True)
    config = AdapterConfig(
        r=rank, lora_alpha=rank, target_modules=list(TARGETS), base_model_name_or_path="tiny", lora_dropout=0.05
    )
    digest = write_adapter(directory, pieces, config, "0.19.0")
    trained = {"user_id": directory.name, "steps": 1, "first_loss": 2.0, "last_loss": 1.0}
    origin = provenance(base.fingerprint)
    card = Card(**trained, examples=1, tokens=1, digest=digest, scale=1.0, provenance=origin)
    typed_files.write_json(directory / CARD, card)
    if gates:
        generator = torch.Generator().manual_seed(seed + 1000)
        vectors = {m: torch.randn(layer.in_features, generator=generator) for m, layer in base.targets.items()}
        write_gates(directory / GATE_FILE, vectors, GateCard(**trained, adapter=digest, provenance=origin))
    return pieces


def write_pool(root: Path, base: Base, sharers: int = 4, *, share_ratio: float = 1.0, seed: int = 0) -> OpenPool:
    """Write sharers s0, s1, … and their pool below `root`."""
    directories = [root / "sharers" / f"s{number}" for number in range(sharers)]
    for number, directory in enumerate(directories):
        if not directory.exists():
            write_sharer(directory, base, number)
    path = root / "pool.json"
    build_pool(
        path,
        directories,
        list(base.targets),
        share_ratio=share_ratio,
        need_gates=True,
        provenance=provenance(base.fingerprint, seed),
    )
    return open_pool(path)


def edit_json(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensor(path: Path, key: str, tensor: Tensor | None) -> None:
    """Replace a tensor in a file, or leave it out, and keep the metadata."""
    metadata = safe_open(path, "pt").metadata()
    named = {**load_file(path), key: tensor}
    if tensor is None:
        del named[key]
    save_file(named, path, metadata=metadata)


def short_of_memory(base: Any, monkeypatch: Any, most: int) -> list[int]:
    """Let every pass of more than `most` tokens, padding included, run out of memory; returns their sizes, in order."""
    sizes: list[int] = []
    embeddings = base.model.get_input_embeddings()
    whole = embeddings.forward

    def forward(ids: Tensor) -> Tensor:
        sizes.append(ids.numel())
        if ids.numel() > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(ids)

    monkeypatch.setattr(embeddings, "forward", forward)
    return sizes


def hub_cache(root: Path, hub_id: str, model: Path, *, commit: str = "a" * 40) -> Path:
    """Put a model into a cache as the hub's library lays it out, of links to `model`; the directory of its snapshot."""
    home = root / "--".join(["models", *hub_id.split("/")])
    snapshot = home / "snapshots" / commit
    for directory in (home / "refs", home / "blobs", snapshot):
        directory.mkdir(parents=True, exist_ok=True)
    for path in model.iterdir():
        blob = home / "blobs" / hashing.digest_file(path)
        if not blob.exists():
            blob.symlink_to(path)
        (snapshot / path.name).symlink_to(Path("..", "..", "blobs", blob.name))
    (home / "refs" / "main").write_text(commit)
    return snapshot


def names(directory: Path) -> list[str]:
    """Everything in a directory, hidden files too."""
    return sorted(path.name for path in directory.iterdir())
