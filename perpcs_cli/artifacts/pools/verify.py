"""Checking a pool's files: against its manifest, and against the sharers that it would be built from now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from perpcs_cli.artifacts.adapter import Adapter, names_of, open_adapter
from perpcs_cli.artifacts.gate import FILE as GATE_FILE
from perpcs_cli.artifacts.gate import GateCard, read_gates
from perpcs_cli.artifacts.io import hashing, tensors
from perpcs_cli.artifacts.piece_digests import stored_digest
from perpcs_cli.artifacts.pool import OpenPool
from perpcs_cli.artifacts.pools import known_pool
from perpcs_cli.artifacts.pools.norms import check_norms
from perpcs_cli.artifacts.privacy import Guarantee, Mechanism
from perpcs_cli.errors import DataError

if TYPE_CHECKING:
    from perpcs_cli.artifacts.embeddings import Embeddings


def verify_pool(pool: OpenPool, max_norm: float | None = None) -> list[str]:
    """Everything wrong with a pool's files, as sentences; an empty list if it is whole.

    Pieces above the manifest's bound on norms, or above `max_norm`, are wrong.
    """
    bound = min((one for one in (max_norm, pool.manifest.max_norm) if one is not None), default=None)
    problems = []
    first = None
    for index, sharer in enumerate(pool.manifest.sharers):
        try:
            adapter = pool.open(index)
            pool.check_whole(index)
            first = first or adapter
            check_alike(adapter, first, pool.given(index))
            if adapter.base != pool.manifest.base:
                problems.append(f"{adapter.path}: has another base model than the manifest says")
            for key in adapter.file.keys:
                adapter.file.read_array(key)
            # It is the manifest's, by which the file has just been checked.
            adapter.check_digest(sharer.adapter)
            if bound is not None:
                check_norms(adapter, sharer.user_id, pool.given(index), bound)
            if sharer.gate and hashing.digest_file(adapter.path / GATE_FILE) != sharer.gate:
                problems.append(f"{adapter.path / GATE_FILE}: has changed since the pool was built")
                continue
            card = read_gates(adapter.path / GATE_FILE)[1] if sharer.gate else None
            if mechanisms(sharer.privacy) != mechanisms(*guarantees(adapter, card)):
                problems.append(f"{adapter.path}: does not guarantee the privacy that the manifest says")
        except DataError as error:
            problems.append(str(error))
    try:
        if pool.manifest.gates:
            pool.gates().check()
        if pool.manifest.embeddings:
            pool.embeddings()
    except DataError as error:
        problems.append(str(error))
    return problems


def verify_changed(pool: OpenPool) -> list[str]:
    """The same, reading nothing of a pool that was whole when it was last looked through and has not changed since."""
    state = known_pool.state_of(pool)
    if state and state == known_pool.recall(pool.path, "whole"):
        return []
    problems = verify_pool(pool)
    if not problems:
        known_pool.remember(pool.path, "whole", state)
    return problems


def is_built_from(
    pool: OpenPool, directories: Mapping[str, Path], *, gates: bool, embeddings: Embeddings | None
) -> bool:
    """Whether a pool is whole and has just what the sharers {name in the pool: directory} give now.

    In a pool of pseudonyms the copies are compared with the sharers' own files, number by number. A pool that was
    found to be so, and has not changed since, is not read again.
    """
    if set(pool.ids) != set(directories) or bool(pool.manifest.gates) != gates:
        return False
    if bool(pool.manifest.embeddings) != (embeddings is not None):
        return False
    state = known_pool.state_of(pool, [directories[name] for name in pool.ids], embeddings)
    if state and state == known_pool.recall(pool.path, "given"):
        return True
    if verify_changed(pool) or not _is_given(pool, directories, gates=gates):
        return False
    if embeddings is not None and not _same_embeddings(embeddings, pool.embeddings(), directories):
        return False
    known_pool.remember(pool.path, "given", state)
    return True


def _is_given(pool: OpenPool, directories: Mapping[str, Path], *, gates: bool) -> bool:
    """Whether each sharer's files are the sharer's own, or copies that hold the same."""
    for index, name in enumerate(pool.ids):
        directory = directories[name]
        if pool.directory(index).resolve() == directory.resolve():
            continue
        own, given = open_adapter(directory), pool.open(index)
        if (own.base, own.scale) != (given.base, given.scale) or not _same_files(own, given, gates=gates):
            return False
    return True


def _same_embeddings(own: Embeddings, theirs: Embeddings, directories: Mapping[str, Path]) -> bool:
    """Whether a pool carries the sharers' embeddings as they are now."""
    if own.card.provenance != theirs.card.provenance:
        return False
    named = {name: open_adapter(path).user_id for name, path in directories.items()}
    return all((own.vector(user) == theirs.vector(name)).all() for name, user in named.items())


def _same_files(own: Adapter, copy: Adapter, *, gates: bool) -> bool:
    """Whether a copy holds just what is shared of a sharer's pieces and gates."""
    pairs = [(own.piece(m), copy.piece(m)) for m in copy.modules if m in own.modules]
    if len(pairs) < len(copy.modules) or not all(x.equal(y) for pair in pairs for x, y in zip(*pair, strict=True)):
        return False
    if not gates:
        return True
    mine, theirs = read_gates(own.path / GATE_FILE)[0], read_gates(copy.path / GATE_FILE)[0]
    return all(mine.read(module).equal(theirs.read(module)) for module in theirs.keys)


def guarantees(adapter: Adapter, gates: GateCard | None) -> list[Guarantee | None]:
    """What the adapter and, where they are given too, its gates guarantee, each alone."""
    own = [adapter.card.privacy if adapter.card else None]
    return [*own, gates.privacy] if gates else own


def mechanisms(*known: Guarantee | None) -> tuple[Mechanism, ...]:
    """The mechanisms of guarantees that hold together; none where one of them is missing."""
    given = [one for one in known if one]
    return tuple(m for one in given for m in one.mechanisms) if len(given) == len(known) else ()


def check_alike(adapter: Adapter, first: Adapter, shapes: Mapping[str, Sequence[int]]) -> None:
    """Raise DataError where an adapter has another base or other linear layers than the first one."""
    where = adapter.path
    if adapter.card is None:
        raise DataError("holds no sharer.json: it was not trained by perpcs, or not to its end", where=where)
    if adapter.base != first.base:
        raise DataError(f"trained on another base model than {first.path}", where=where)
    missing = set(shapes) - set(adapter.modules)
    extra = set(adapter.modules) - set(shapes)
    if missing or extra:
        odd = sorted(missing or extra, key=tensors.natural)[0]
        raise DataError(f"{'has no' if missing else 'has an unexpected'} piece for {odd!r}", where=where)
    for module, (outputs, inputs) in shapes.items():
        if adapter.shape(module) != (outputs, inputs):
            raise DataError(f"the piece of {module!r} is not for a {outputs} × {inputs} layer", where=where)


def check_finite(adapter: Adapter) -> tuple[str, dict[str, str]]:
    """Read every piece once; the digest of the weights, and {linear layer: digest} of the pieces."""
    pieces = {module: stored_digest(adapter.file, *names_of(module)) for module in adapter.modules}
    return adapter.digest_weights(), pieces
