"""Taking sharers out of a pool, and out of the recipes over it, so that nothing mentions them and nothing is half-done.

What is to be done is first written down beside the manifest (`pool.revoking.json`). While that file is there,
`open_pool` refuses the pool. Every step leaves alone what is done already, so a run that was stopped is finished by
doing all steps again; the last one deletes the file.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from perpcs_cli.artifacts.embeddings import read_embeddings, without_users
from perpcs_cli.artifacts.io import atomic, hashing, tensors, typed_files
from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.packed_recipes import change_recipes, each_recipe, files_in, is_packed, packed_path
from perpcs_cli.artifacts.piece_digests import keep_lines, read_line, tensors_digest
from perpcs_cli.artifacts.pool import OpenPool, Pool, beside, embeddings_path, gates_path, pieces_path, revocation_path
from perpcs_cli.artifacts.pools.removal import check_removable, remove_sharer
from perpcs_cli.artifacts.pools.secret import keyed_digest
from perpcs_cli.artifacts.recipe import Method, Recipe, uses, without_sharers
from perpcs_cli.artifacts.trace import TraceHeader
from perpcs_cli.errors import DataError

Then = Literal["renormalize", "delete"]


class Lost(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A recipe that was deleted, or would be, and what it was made from."""

    path: str
    """Its file, which others share if it is a packed one."""
    user_id: str
    method: Method
    provenance: Provenance

    @property
    def named(self) -> str:
        """The recipe as a person is told of it."""
        return f"{self.path}, {self.user_id}" if is_packed(Path(self.path)) else self.path

    @property
    def place(self) -> Path:
        """The directory or packed file that it goes to."""
        return packed_path(Path(self.path)) if is_packed(Path(self.path)) else Path(self.path).parent


class Revocation(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="format", tag="perpcs.revocation/3"
):
    """A revocation that is under way. Paths are absolute, since it may be finished from another directory."""

    sharers: tuple[str, ...]
    """As the pool names them."""
    names: tuple[str, ...]
    """All their names: pseudonyms, and ids where they are known."""
    before: str
    """SHA-256 of the manifest with them."""
    then: Then
    """What becomes of the recipes that use them."""
    recipes: tuple[str, ...]
    """Directories and packed files of recipes."""
    traces: str
    """Directory of PriME's traces."""
    embeddings: str
    """The workspace's embeddings."""
    directories: tuple[str, ...]
    """What else is deleted: the sharers' own directories or copies."""
    lost: tuple[Lost, ...] = ()
    """The deleted recipes that are made again, once the pool is whole."""
    seal: str = ""
    """Of the workspace: a note that came with a pool from elsewhere would have it delete what the giver likes."""


class Remaking(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="format", tag="perpcs.remaking/3"
):
    """What is left of a revocation when nobody is mentioned any more: recipes to be made again."""

    lost: tuple[Lost, ...]
    seal: str = ""
    """As in a revocation."""


Note = TypeVar("Note", Revocation, Remaking)


def sealed(note: Note, secret: bytes) -> Note:
    """The note with the workspace's seal: HMAC-SHA-256 of its content."""
    plain = msgspec.structs.replace(note, seal="")
    return msgspec.structs.replace(note, seal=keyed_digest(secret, plain))


def _read_note(path: Path, kind: type[Note], secret: bytes | None) -> Note | None:
    """The note at `path`, None where there is none. Raises DataError where another workspace has written it."""
    if not path.exists():
        return None
    note = typed_files.read_json(path, kind)
    if not secret or not hmac.compare_digest(note.seal.encode(), sealed(note, secret).seal.encode()):
        raise DataError(
            "was not written by this workspace, and nothing of it was done",
            where=path,
            hint="Use the --workspace that began it. If it came with a pool from elsewhere, delete it.",
        )
    return note


def plan(
    pool: OpenPool,
    names: dict[str, set[str]],
    then: Then,
    *,
    recipes: Sequence[Path],
    traces: Path,
    embeddings: Path,
    directories: Sequence[Path],
) -> Revocation:
    """What is to be done to take sharers, {their name in the pool: all their names}, out of a whole pool.

    Raises DataError for what could not be finished: broken gates or embeddings, and a directory that holds more than
    one sharer's files.
    """
    if pool.manifest.gates:
        gates = pool.gates()
        for module in pool.modules:
            gates.read(module)
    for index, sharer in enumerate(pool.manifest.sharers):
        read_line(pieces_path(pool.path), index, pool.modules, sharer.pieces)
    if pool.manifest.embeddings:
        pool.embeddings()
    if embeddings.exists():
        read_embeddings(embeddings)
    kept = [pool.path, *(pool.path.parent / s.path for s in pool.manifest.sharers if s.user_id not in names)]
    resolved = {path: path.resolve() for path in kept} if directories else {}
    for directory in directories:
        place = directory.resolve()
        if inner := [path for path, there in resolved.items() if there.is_relative_to(place)]:
            raise DataError(f"would be deleted, and holds {inner[0]}", where=directory, hint="Build the pool again.")
        check_removable(directory)
    return Revocation(
        sharers=tuple(names),
        names=tuple(sorted(set().union(*names.values()))),
        before=pool.digest,
        then=then,
        recipes=tuple(str(path.resolve()) for path in recipes),
        traces=str(traces.resolve()),
        embeddings=str(embeddings.resolve()),
        directories=tuple(str(path.resolve()) for path in directories),
    )


def affected_recipes(todo: Revocation) -> list[Lost]:
    """The recipes over the pool that use, or mention, the sharers. Raises DataError for one that cannot be read."""
    return [
        Lost(path=str(file), user_id=recipe.user_id, method=recipe.method, provenance=recipe.provenance)
        for file in _files(todo)
        for recipe in each_recipe(file)
        if recipe.pool == todo.before and uses(recipe, todo.names)
    ]


def affected_traces(todo: Revocation) -> list[Path]:
    """PriME's traces that hold candidates of the sharers' LoRAs."""
    return [path for path, header, _ in _traces(todo) if set(header.sharers) & set(todo.names)]


def begin(pool: Path, todo: Revocation, secret: bytes) -> None:
    """Write down what is to be done: from here on the pool is refused until `finish` has come to its end."""
    typed_files.write_json(revocation_path(pool), sealed(todo, secret))


def pending(pool: Path, secret: bytes | None) -> Revocation | None:
    """The revocation that was stopped half-way, if there is one. Raises DataError for another workspace's."""
    return _read_note(revocation_path(pool), Revocation, secret)


def to_remake(pool: Path, secret: bytes | None) -> tuple[Lost, ...]:
    """The recipes that are still to be made again. Raises DataError for a note of another workspace."""
    note = _read_note(remaking_path(pool), Remaking, secret)
    return note.lost if note else ()


def remaking_path(pool: Path) -> Path:
    """Where it says that recipes are still to be made again: beside the manifest."""
    return beside(pool, ".remaking.json")


def finish(pool: Path, todo: Revocation, secret: bytes) -> None:
    """Do everything that has not been done yet; the manifest changes before the recipes, the note goes last."""
    manifest = typed_files.read_json(pool, Pool)
    rest = tuple(sharer for sharer in manifest.sharers if sharer.user_id not in todo.sharers)
    if len(rest) < len(manifest.sharers):
        gates = _keep_gates(pool, manifest, todo) if manifest.gates else ()
        kept = [place for place, sharer in enumerate(manifest.sharers) if sharer.user_id not in todo.sharers]
        keep_lines(pieces_path(pool), kept, len(manifest.modules))
        carried = manifest.embeddings
        if carried:
            if embeddings_path(pool).exists():
                without_users(embeddings_path(pool), todo.names)
            carried = hashing.digest_file(embeddings_path(pool)) if rest else ""
        typed_files.write_json(pool, msgspec.structs.replace(manifest, sharers=rest, gates=gates, embeddings=carried))
    after = hashing.digest_file(pool)

    def bound(recipe: Recipe) -> Recipe | None:
        if recipe.pool != todo.before:
            return recipe
        if uses(recipe, todo.names):
            if todo.then == "delete":
                return None
            recipe = without_sharers(recipe, todo.names)
        return msgspec.structs.replace(recipe, pool=after)

    for file in _files(todo):
        change_recipes(file, bound)
    for path, header, rest_of_it in _traces(todo):
        if set(header.sharers) & set(todo.names):
            path.unlink()
        else:
            _rebind(path, header, rest_of_it, after)
    if Path(todo.embeddings).exists():
        without_users(Path(todo.embeddings), todo.names)
    for directory in todo.directories:
        remove_sharer(Path(directory))
    if todo.lost:
        # An earlier revocation may have been stopped while recipes were made again.
        again = {(one.path, one.user_id): one for one in [*to_remake(pool, secret), *todo.lost]}
        typed_files.write_json(remaking_path(pool), sealed(Remaking(lost=tuple(again.values())), secret))
    revocation_path(pool).unlink()


def _keep_gates(pool: Path, manifest: Pool, todo: Revocation) -> tuple[str, ...]:
    """Take the sharers' rows out of the stacked gates; the digests of what is left. A file that has the right number
    of rows is the one that a stopped run has written."""
    import torch

    path = gates_path(pool)
    kept = [index for index, sharer in enumerate(manifest.sharers) if sharer.user_id not in todo.sharers]
    if not kept:
        path.unlink(missing_ok=True)
        return ()
    file = tensors.open_tensors(path)
    if file.shape(file.keys[0])[0] != len(kept):
        rows = torch.tensor(kept)
        tensors.write_tensors(path, {module: file.read(module)[rows] for module in file.keys}, {})
        file = tensors.open_tensors(path)
    return tuple(tensors_digest(file.read(module)) for module in manifest.modules)


def _files(todo: Revocation) -> Iterator[Path]:
    """The files with recipes, over this pool or another."""
    return chain.from_iterable(files_in(Path(place)) for place in todo.recipes)


def _traces(todo: Revocation) -> Iterator[tuple[Path, TraceHeader, bytes]]:
    """The traces over the pool as it was before: path, header and all other lines."""
    for path in sorted(Path(todo.traces).glob("*.jsonl")):
        first, _, rest = typed_files.read_bytes(path).partition(b"\n")
        try:
            header = msgspec.json.decode(first, type=TraceHeader)
        except typed_files.UNREADABLE as error:
            raise DataError(f"not a trace of perpcs: {error}", where=path) from None
        if header.provenance.inputs.get("pool") == todo.before:
            yield path, header, rest


def _rebind(path: Path, header: TraceHeader, rest: bytes, pool: str) -> None:
    """Let a trace that does not concern the sharers go on with the new pool."""
    inputs = {**header.provenance.inputs, "pool": pool}
    bound = msgspec.structs.replace(header, provenance=msgspec.structs.replace(header.provenance, inputs=inputs))
    with atomic.replacing(path) as temporary:
        temporary.write_bytes(msgspec.json.encode(bound) + b"\n" + rest)
