"""From sharers to a pool: checking that they fit together, and stacking their gates."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from perpcs_cli.artifacts.adapter import Adapter, open_adapter
from perpcs_cli.artifacts.embeddings import Embeddings, write_shared
from perpcs_cli.artifacts.gate import FILE as GATE_FILE
from perpcs_cli.artifacts.gate import GateCard, read_fitting_gates
from perpcs_cli.artifacts.io import hashing, safe_paths, tensors, typed_files
from perpcs_cli.artifacts.io.leftovers import sweep
from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.piece_digests import line_digest, line_of, tensors_digest, write_lines
from perpcs_cli.artifacts.pool import Pool, Sharer, embeddings_path, gates_path, pieces_path, refuse_half_revoked
from perpcs_cli.artifacts.pools.norms import check_norms
from perpcs_cli.artifacts.pools.pseudonyms import Copies, check_copies, copies_root, keep_only, without_place
from perpcs_cli.artifacts.pools.verify import check_alike, check_finite, guarantees
from perpcs_cli.artifacts.privacy import compose
from perpcs_cli.errors import DataError, UsageError

if TYPE_CHECKING:
    from torch import Tensor


def build_pool(
    path: Path,
    directories: Sequence[Path],
    order: Sequence[str],
    *,
    share_ratio: float,
    need_gates: bool,
    provenance: Provenance,
    copies: Copies | None = None,
    embeddings: Embeddings | None = None,
    max_norm: float | None = None,
) -> Pool:
    """Check the sharers against each other and write the manifest and the stacked gates.

    `order`: the model's target layers. With `copies`, sharers have pseudonyms, and what they give is copied; with
    `embeddings`, so are the sharers' embeddings. The gates of withheld pieces are stacked as zeros. Raises DataError
    where bases or modules differ, values are not finite, a piece that is given has a norm above `max_norm`,
    gates are missing or belong to another adapter, a directory is outside the manifest's, or something else lies where
    an earlier pool's copies may be.
    """
    refuse_half_revoked(path)
    sweep(copies_root(path), below=True)
    check_copies(path)
    if copies:
        # In the order of the ids, the places of the pseudonyms would tell who is who.
        directories = sorted(directories, key=lambda directory: copies.name(open_adapter(directory).user_id))
    first, root = open_adapter(directories[0]), path.parent.resolve()
    import torch

    entries: dict[str, Sharer] = {}
    stacks: dict[str, Tensor] = {}
    shapes = {module: first.shape(module) for module in order}
    names: dict[str, str] = {}
    lines: list[str] = []
    # None of them stays open: they are read one after the other.
    for adapter in map(open_adapter, directories):
        check_alike(adapter, first, shapes)
        name = copies.name(adapter.user_id) if copies else adapter.user_id
        if name in entries:
            raise DataError(
                f"is the same sharer as {entries[name].path}: {adapter.user_id!r}",
                where=adapter.path,
                hint="Remove one.",
            )
        names[adapter.user_id] = name
        digest, pieces = check_finite(adapter)
        shared = shared_pieces(name, len(order), share_ratio, provenance.seed)
        given = list(order) if shared is None else [order[index] for index in shared]
        if max_norm is not None:
            check_norms(adapter, adapter.user_id, given, max_norm)
        gate, card = "", None
        vectors: dict[str, Tensor] = {}
        if need_gates:
            trained, card = _checked_gates(adapter, digest, shapes)
            vectors = {m: vector if m in given else torch.zeros_like(vector) for m, vector in trained.items()}
            for module, vector in vectors.items():
                if module not in stacks:
                    stacks[module] = vector.new_zeros(len(directories), len(vector))
                elif vector.dtype != stacks[module].dtype:
                    stacks[module] = stacks[module].to(torch.promote_types(vector.dtype, stacks[module].dtype))
                stacks[module][len(entries)] = vector
            gate = hashing.digest_file(adapter.path / GATE_FILE)
        if copies:
            adapter = open_adapter(copies.write(name, adapter, given, vectors, card))
            digest, pieces = check_finite(adapter)
            gate = hashing.digest_file(adapter.path / GATE_FILE) if need_gates else ""
        try:
            relative = adapter.path.resolve().relative_to(root)
        except ValueError:
            raise UsageError(
                f"the sharer {adapter.path} is not below the pool's directory {path.parent}",
                hint="A manifest holds relative paths only; write it above its sharers with --out.",
            ) from None
        lines.append(line_of(pieces, order))
        entries[name] = Sharer(
            user_id=safe_paths.check_id(name, "sharer", where=adapter.path),
            path=str(relative),
            adapter=digest,
            pieces=line_digest(lines[-1]),
            gate=gate,
            shared=shared,
            rank=adapter.config.r,
            scale=None if adapter.scale == first.scale else adapter.scale,
            privacy=compose(guarantees(adapter, card)),
        )
    rank = max(sharer.rank or 0 for sharer in entries.values())
    sharers = tuple(msgspec.structs.replace(s, rank=None) if s.rank == rank else s for s in entries.values())
    if need_gates:
        tensors.write_tensors(gates_path(path), stacks, {})
    write_lines(pieces_path(path), lines)
    if embeddings:
        write_shared(embeddings_path(path), embeddings, names)
    model = first.config.base_model_name_or_path or ""
    pool = Pool(
        base=first.base,
        model=without_place(model) if copies else model,
        rank=rank,
        scale=first.scale,
        modules=shapes,
        sharers=sharers,
        share_ratio=share_ratio,
        gates=tuple(tensors_digest(stacks[module]) for module in order) if need_gates else (),
        max_norm=max_norm,
        pseudonyms=copies is not None,
        embeddings=hashing.digest_file(embeddings_path(path)) if embeddings else "",
        provenance=provenance,
    )
    typed_files.write_json(path, pool)
    if not embeddings:
        embeddings_path(path).unlink(missing_ok=True)
    keep_only(path, entries)
    return pool


def _checked_gates(
    adapter: Adapter, digest: str, shapes: Mapping[str, tuple[int, int]]
) -> tuple[dict[str, Tensor], GateCard]:
    """A sharer's gates by linear layer, with their card, if they belong to its weights."""
    import torch

    vectors, card = read_fitting_gates(adapter.path / GATE_FILE, shapes)
    if card.adapter != digest:
        raise DataError(
            f"the gates of {adapter.user_id!r} belong to another adapter",
            where=adapter.path / GATE_FILE,
            hint="Train them again with `perpcs gate --force`.",
        )
    return {module: torch.from_numpy(vector) for module, vector in vectors.items()}, card


def shared_pieces(user_id: str, pieces: int, ratio: float, seed: int) -> tuple[int, ...] | None:
    """The pieces that a sharer gives: `ratio` of them, drawn by seed and sharer. None for all."""
    if ratio >= 1:
        return None
    draw = random.Random(hashing.digest_value([seed, "share", user_id]))
    return tuple(sorted(draw.sample(range(pieces), round(ratio * pieces))))
