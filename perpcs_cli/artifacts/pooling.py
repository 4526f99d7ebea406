"""From sharers to a pool: checking that they fit together, stacking their gates, and checking it all again later."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from perpcs_cli.artifacts import store, tensors
from perpcs_cli.artifacts.adapter import Adapter, open_adapter
from perpcs_cli.artifacts.embeddings import Embeddings, write_shared
from perpcs_cli.artifacts.gate import FILE as GATE_FILE
from perpcs_cli.artifacts.gate import GateCard, read_gates
from perpcs_cli.artifacts.pool import OpenPool, Pool, Sharer, embeddings_path, gates_path, refuse_half_revoked
from perpcs_cli.artifacts.privacy import Guarantee, Mechanism, compose
from perpcs_cli.artifacts.provenance import Provenance
from perpcs_cli.artifacts.pseudonyms import Copies, keep_only, without_place
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
) -> Pool:
    """Check the sharers against each other and write the manifest and the stacked gates.

    `order`: the model's target layers. With `copies`, sharers have pseudonyms, and what they give is copied; with
    `embeddings`, so are the sharers' embeddings. The gates of withheld pieces are stacked as zeros. Raises DataError
    where bases, modules or ranks differ, values are not finite, gates are missing or belong to another adapter, or a
    directory is outside the manifest's.
    """
    refuse_half_revoked(path)
    adapters = [open_adapter(directory) for directory in directories]
    if copies:
        # In the order of the ids, the places of the pseudonyms would tell who is who.
        adapters.sort(key=lambda adapter: copies.name(_own_name(adapter)))
    first = adapters[0]
    import torch

    entries: list[Sharer] = []
    stacks: dict[str, list[Tensor]] = {module: [] for module in order}
    shapes = {module: first.shape(module) for module in order}
    for adapter in adapters:
        _check_alike(adapter, first, shapes)
        name = copies.name(_own_name(adapter)) if copies else _own_name(adapter)
        if twice := [entry.path for entry in entries if entry.user_id == name]:
            raise DataError(
                f"is the same sharer as {twice[0]}: {_own_name(adapter)!r}", where=adapter.path, hint="Remove one."
            )
        digest = _check_finite(adapter)
        shared = shared_pieces(name, len(order), share_ratio, provenance.seed)
        given = list(order) if shared is None else [order[index] for index in shared]
        gate, card = "", None
        vectors: dict[str, Tensor] = {}
        if need_gates:
            trained, card = _checked_gates(adapter, digest, shapes)
            vectors = {m: vector if m in given else torch.zeros_like(vector) for m, vector in trained.items()}
            for module, vector in vectors.items():
                stacks[module].append(vector)
            gate = store.digest_file(adapter.path / GATE_FILE)
        if copies:
            adapter = open_adapter(copies.write(name, adapter, given, vectors, card))
            digest = adapter.digest_weights()
            gate = store.digest_file(adapter.path / GATE_FILE) if need_gates else ""
        try:
            relative = adapter.path.resolve().relative_to(path.parent.resolve())
        except ValueError:
            raise UsageError(
                f"the sharer {adapter.path} is not below the pool's directory {path.parent}",
                hint="A manifest holds relative paths only; write it above its sharers with --out.",
            ) from None
        entries.append(
            Sharer(
                user_id=store.check_id(name, "sharer", where=adapter.path),
                path=str(relative),
                adapter=digest,
                gate=gate,
                shared=shared,
                privacy=compose(_guarantees(adapter, with_gate=need_gates)),
            )
        )
    gates_digest = ""
    if need_gates:
        stacked = {module: torch.stack(stack) for module, stack in stacks.items()}
        tensors.write_tensors(gates_path(path), stacked, {})
        gates_digest = store.digest_file(gates_path(path))
    if embeddings:
        own = [_own_name(adapter) for adapter in adapters]
        write_shared(embeddings_path(path), embeddings, {name: copies.name(name) if copies else name for name in own})
    model = first.config.base_model_name_or_path or ""
    pool = Pool(
        base=first.base,
        model=without_place(model) if copies else model,
        rank=first.config.r,
        scale=first.scale,
        modules=shapes,
        sharers=tuple(entries),
        share_ratio=share_ratio,
        gates=gates_digest,
        pseudonyms=copies is not None,
        embeddings=store.digest_file(embeddings_path(path)) if embeddings else "",
        provenance=provenance,
    )
    store.write_json(path, pool)
    if not embeddings:
        embeddings_path(path).unlink(missing_ok=True)
    keep_only(path, [entry.user_id for entry in entries])
    return pool


def _checked_gates(
    adapter: Adapter, digest: str, shapes: Mapping[str, tuple[int, int]]
) -> tuple[dict[str, Tensor], GateCard]:
    """A sharer's gates by linear layer, with their card, if they belong to its weights."""
    gates, card = read_gates(adapter.path / GATE_FILE)
    if card.adapter != digest:
        raise DataError(
            f"the gates of {_own_name(adapter)!r} belong to another adapter",
            where=gates.path,
            hint="Train them again with `perpcs gate --force`.",
        )
    if extra := sorted(set(gates.keys) - set(shapes), key=tensors.natural):
        raise DataError(f"unexpected tensor {extra[0]!r}", where=gates.path)
    vectors = {module: gates.read(module) for module in shapes}
    for module, vector in vectors.items():
        if tuple(vector.shape) != (shapes[module][1],):
            raise DataError(f"the gate of {module!r} has shape {list(vector.shape)}", where=gates.path)
    return vectors, card


def _own_name(adapter: Adapter) -> str:
    return adapter.card.user_id if adapter.card else adapter.path.name


def shared_pieces(user_id: str, pieces: int, ratio: float, seed: int) -> tuple[int, ...] | None:
    """The pieces that a sharer gives: `ratio` of them, drawn by seed and sharer. None for all."""
    if ratio >= 1:
        return None
    draw = random.Random(store.digest_value([seed, "share", user_id]))
    return tuple(sorted(draw.sample(range(pieces), round(ratio * pieces))))


def verify_pool(pool: OpenPool) -> list[str]:
    """Everything wrong with a pool's files, as sentences; an empty list if it is whole."""
    problems = []
    first = None
    for index, sharer in enumerate(pool.manifest.sharers):
        try:
            adapter = pool.adapter(index)
            first = first or adapter
            _check_alike(adapter, first, pool.given(index))
            if (adapter.base, adapter.config.r, adapter.scale) != (
                pool.manifest.base,
                pool.manifest.rank,
                pool.manifest.scale,
            ):
                problems.append(f"{adapter.path}: has another base model, rank or scale than the manifest says")
            _check_finite(adapter)
            if sharer.gate and store.digest_file(adapter.path / GATE_FILE) != sharer.gate:
                problems.append(f"{adapter.path / GATE_FILE}: has changed since the pool was built")
            elif _mechanisms(sharer.privacy) != _mechanisms(*_guarantees(adapter, with_gate=bool(sharer.gate))):
                problems.append(f"{adapter.path}: does not guarantee the privacy that the manifest says")
        except DataError as error:
            problems.append(str(error))
    try:
        if pool.manifest.gates:
            gates = pool.gates()
            for module in pool.modules:
                gates.read(module)
        if pool.manifest.embeddings:
            pool.embeddings()
    except DataError as error:
        problems.append(str(error))
    return problems


def _guarantees(adapter: Adapter, *, with_gate: bool) -> list[Guarantee | None]:
    """What the adapter and, where they are given too, its gates guarantee, each alone."""
    own = [adapter.card.privacy if adapter.card else None]
    return [*own, read_gates(adapter.path / GATE_FILE)[1].privacy] if with_gate else own


def _mechanisms(*guarantees: Guarantee | None) -> tuple[Mechanism, ...]:
    known = [one for one in guarantees if one]
    return tuple(m for one in known for m in one.mechanisms) if len(known) == len(guarantees) else ()


def _check_alike(adapter: Adapter, first: Adapter, shapes: dict[str, tuple[int, int]]) -> None:
    where = adapter.path
    if adapter.card is None:
        raise DataError("holds no sharer.json: it was not trained by perpcs, or not to its end", where=where)
    if adapter.base != first.base:
        raise DataError(f"trained on another base model than {first.path}", where=where)
    if adapter.config.r != first.config.r or adapter.scale != first.scale:
        raise DataError(f"rank {adapter.config.r} and scale {adapter.scale} differ from {first.path}'s", where=where)
    missing = set(shapes) - set(adapter.modules)
    extra = set(adapter.modules) - set(shapes)
    if missing or extra:
        odd = sorted(missing or extra, key=tensors.natural)[0]
        raise DataError(f"{'has no' if missing else 'has an unexpected'} piece for {odd!r}", where=where)
    for module, (outputs, inputs) in shapes.items():
        if adapter.shape(module) != (outputs, inputs):
            raise DataError(f"the piece of {module!r} is not for a {outputs} × {inputs} layer", where=where)


def _check_finite(adapter: Adapter) -> str:
    """Read every piece once; the digest of the weights."""
    for module in adapter.modules:
        adapter.piece(module)
    return adapter.digest_weights()
