"""`pool.json`: the manifest of what sharers give, with all gates beside it in one tensor per linear layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec

from perpcs_cli.artifacts import piece_digests
from perpcs_cli.artifacts.adapter import WEIGHTS, Adapter, open_adapter
from perpcs_cli.artifacts.embeddings import Embeddings, read_embeddings
from perpcs_cli.artifacts.io import hashing, safe_paths, tensors, typed_files
from perpcs_cli.artifacts.io.limits import RANK, Count, Fraction, Positive, Size
from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.privacy import Guarantee
from perpcs_cli.artifacts.stacked_gates import Gates, changed_gates
from perpcs_cli.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor


class Sharer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One sharer's entry. `path` is relative to the manifest; `shared` lists indices into the pool's modules."""

    user_id: str
    path: str
    adapter: str
    """SHA-256 of the adapter's weights."""
    pieces: str
    """SHA-256 of the sharer's line in `pool.pieces.txt`, which has the digest of each piece."""
    gate: str
    """SHA-256 of the gate file; empty where the sharer has no gates."""
    shared: tuple[Count, ...] | None = None
    """The pieces that this sharer gives; None for all."""
    rank: Annotated[int, msgspec.Meta(ge=1, le=RANK)] | None = None
    """Of this sharer's LoRA; None where it is the pool's."""
    scale: float | None = None
    """What this sharer's B A is multiplied by; None where it is the pool's."""
    privacy: Guarantee | None = None
    """What this sharer's pieces and gates guarantee together; None for nothing. An embedding is not covered."""


class Pool(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="format", tag="perpcs.pool/4"
):
    """The manifest: one base, the linear layers in the model's order with their shapes, the sharers."""

    base: str
    model: str
    rank: Annotated[int, msgspec.Meta(ge=1, le=RANK)]
    """No sharer's is larger. Where pieces of different ranks run side by side, smaller ones are filled with zeros."""
    scale: float
    """What B A is multiplied by, of every sharer whose entry says nothing else."""
    modules: Annotated[dict[str, tuple[Size, Size]], msgspec.Meta(min_length=1)]
    """Linear layer → (d, n), its outputs and inputs."""
    sharers: tuple[Sharer, ...]
    share_ratio: Fraction
    gates: tuple[str, ...]
    """SHA-256 of the stacked gates of each linear layer; empty where a sharer has none."""
    max_norm: Positive | None = None
    """The largest Frobenius norm of scale · B A that a piece was let in with; None for any."""
    pseudonyms: bool = False
    """Whether the ids are pseudonyms and the files are copies that hold nothing else of the sharers."""
    embeddings: str = ""
    """SHA-256 of the sharers' embeddings; empty where the pool does not carry them."""
    provenance: Provenance


@dataclass(frozen=True)
class OpenPool:
    """A manifest and its directory. Adapters are opened when they are first used, and each piece is checked when it is
    read."""

    path: Path
    manifest: Pool
    digest: str
    _adapters: dict[int, Adapter] = field(default_factory=dict)

    @cached_property
    def modules(self) -> list[str]:
        """The linear layers, in the model's order."""
        return list(self.manifest.modules)

    @cached_property
    def ids(self) -> list[str]:
        """The sharers' ids; their position is their index everywhere."""
        return [sharer.user_id for sharer in self.manifest.sharers]

    @cached_property
    def places(self) -> dict[str, int]:
        """A sharer's id → its index."""
        return {name: place for place, name in enumerate(self.ids)}

    def directory(self, index: int) -> Path:
        """Where a sharer's files lie; opening the pool has checked that it is inside of the manifest's directory."""
        return self.path.parent / self.manifest.sharers[index].path

    def adapter(self, index: int) -> Adapter:
        """One sharer's adapter, which stays open. Raises what `open` raises."""
        if index not in self._adapters:
            self._adapters[index] = self.open(index)
        return self._adapters[index]

    def open(self, index: int) -> Adapter:
        """One sharer's adapter, for who looks at all of them and keeps none.

        Raises DataError where it is missing; reading a piece does, where it is not what the manifest recorded.
        """
        sharer = self.manifest.sharers[index]
        directory = self.directory(index)
        adapter = open_adapter(directory)
        digests = piece_digests.read_line(pieces_path(self.path), index, self.modules, sharer.pieces)

        def check(module: str, a: Tensor, b: Tensor) -> None:
            if piece_digests.tensors_digest(a, b) != digests.get(module):
                raise self._changed(index)

        rank, scale = sharer.rank or self.manifest.rank, self.manifest.scale if sharer.scale is None else sharer.scale
        if (adapter.config.r, adapter.scale) != (rank, scale):
            raise DataError(
                f"the adapter of {sharer.user_id!r} has rank {adapter.config.r} and scale {adapter.scale:g}, "
                f"and the pool says {rank} and {scale:g}",
                where=directory,
                hint=piece_digests.AGAIN,
            )
        return replace(adapter, check=check)

    def check_whole(self, index: int) -> None:
        """Raise DataError where a sharer's file is not, to the last byte, what the manifest recorded."""
        sharer = self.manifest.sharers[index]
        if hashing.digest_file(self.directory(index) / WEIGHTS) != sharer.adapter:
            raise self._changed(index)

    def _changed(self, index: int) -> DataError:
        sharer = self.manifest.sharers[index]
        return DataError(
            f"the adapter of {sharer.user_id!r} has changed since the pool was built",
            where=self.directory(index) / WEIGHTS,
            hint=piece_digests.AGAIN,
        )

    def gates(self) -> Gates:
        """All gates. Raises DataError where there are none."""
        path = gates_path(self.path)
        if not self.manifest.gates:
            raise DataError("the pool was built without gates", where=self.path, hint="Train them with `perpcs gate`.")
        if not path.exists() or len(self.manifest.gates) != len(self.modules):
            raise changed_gates(path)
        file = tensors.open_tensors(path)
        for module, (_, inputs) in self.manifest.modules.items():
            # Gates are found by position: a list of sharers of another length would give them to the wrong ones.
            if file.shape(module) != [len(self.ids), inputs]:
                expected = [len(self.ids), inputs]
                raise DataError(f"the gates of {module!r} have shape {file.shape(module)}, not {expected}", where=path)
        return Gates(file, dict(zip(self.modules, self.manifest.gates, strict=True)))

    def embeddings(self) -> Embeddings:
        """The sharers' embeddings that the pool carries. Raises DataError where it carries none."""
        path = embeddings_path(self.path)
        if not self.manifest.embeddings:
            raise DataError(
                "the pool does not carry its sharers' embeddings",
                where=self.path,
                hint="Make them with `perpcs embed`, then build the pool again with `perpcs pool build --force`.",
            )
        if not path.exists() or hashing.digest_file(path) != self.manifest.embeddings:
            raise DataError(
                "the pool's embeddings are missing or have changed", where=path, hint="Build the pool again."
            )
        return read_embeddings(path)

    def given(self, index: int) -> dict[str, tuple[int, int]]:
        """The linear layers, with (d, n), that a sharer's files have pieces of: a copy has the shared ones alone."""
        modules, shared = self.manifest.modules, self.shares(index)
        return {m: modules[m] for m in self.modules if m in shared} if self.manifest.pseudonyms else modules

    def shares(self, index: int) -> set[str]:
        """The linear layers whose pieces a sharer gives."""
        shared = self.manifest.sharers[index].shared
        return set(self.modules) if shared is None else {self.modules[i] for i in shared}

    def withheld(self) -> dict[str, list[int]]:
        """The places of the sharers who keep their piece to themselves, by linear layer."""
        found: dict[str, list[int]] = {module: [] for module in self.modules}
        for place, sharer in enumerate(self.manifest.sharers):
            if sharer.shared is not None:
                given = set(sharer.shared)
                for index, module in enumerate(self.modules):
                    if index not in given:
                        found[module].append(place)
        return found


def beside(pool: Path, suffix: str) -> Path:
    """A file beside the manifest `pool`, named like it. Raises DataError where that is a directory."""
    if pool.is_dir():
        raise DataError("is a directory, and no pool", where=pool, hint="Name the manifest, as DIR/pool.json.")
    return pool.with_suffix(suffix)


def gates_path(pool: Path) -> Path:
    """Where the stacked gates lie: beside the manifest."""
    return beside(pool, ".gates.safetensors")


def pieces_path(pool: Path) -> Path:
    """Where the digests of the sharers' pieces lie: beside the manifest."""
    return beside(pool, ".pieces.txt")


def embeddings_path(pool: Path) -> Path:
    """Where the sharers' embeddings lie, if the pool carries them: beside the manifest."""
    return beside(pool, ".embeddings.safetensors")


def revocation_path(pool: Path) -> Path:
    """Where a revocation that is under way says so: beside the manifest."""
    return beside(pool, ".revoking.json")


def refuse_half_revoked(path: Path) -> None:
    """Raise DataError where sharers are being taken out of the pool at `path`, and that has not come to its end."""
    if revocation_path(path).exists():
        raise DataError(
            "a revocation was stopped half-way",
            where=revocation_path(path),
            hint="Finish it with `perpcs pool revoke`, without ids.",
        )


def open_pool(path: Path) -> OpenPool:
    """Read a manifest. Raises DataError where it is missing, broken, or a path leaves its directory."""
    if not path.exists():
        raise DataError("there is no pool", where=path, hint="Build it with `perpcs pool build`.")
    refuse_half_revoked(path)
    manifest = typed_files.read_json(path, Pool)
    given = round(manifest.share_ratio * len(manifest.modules))
    if large := [sharer.user_id for sharer in manifest.sharers if (sharer.rank or 0) > manifest.rank]:
        raise DataError(f"{large[0]!r} has a larger rank than {manifest.rank}, the pool's", where=path)
    safe_paths.check_inside(path.parent, (sharer.path for sharer in manifest.sharers), where=path)
    for sharer in manifest.sharers:
        safe_paths.check_id(sharer.user_id, "sharer", where=path)
        if any(i >= len(manifest.modules) for i in sharer.shared or ()):
            raise DataError(f"{sharer.user_id!r} shares a piece that is not in the list of modules", where=path)
        if sharer.shared is not None and len(set(sharer.shared)) < len(sharer.shared):
            raise DataError(f"{sharer.user_id!r} shares a piece twice", where=path)
        if len(manifest.modules if sharer.shared is None else sharer.shared) != given:
            raise DataError(f"{sharer.user_id!r} does not share {given} pieces, as the pool's share says", where=path)
    if len({s.user_id for s in manifest.sharers}) < len(manifest.sharers):
        raise DataError("a sharer is listed twice", where=path)
    return OpenPool(path, manifest, hashing.digest_file(path))


def check_base(pool: OpenPool, fingerprint: str, model: str) -> None:
    """Raise DataError where the pool was built on another base model or task adapter."""
    if pool.manifest.base != fingerprint:
        raise DataError(
            "the pool was built on another base model or task adapter",
            where=pool.path,
            hint=f"Its model is {pool.manifest.model!r}, fingerprint {pool.manifest.base[:12]}…; "
            f"this is {model!r}, {fingerprint[:12]}…. Check --model and --task-adapter.",
        )


def check_layers(pool: OpenPool, layers: Mapping[str, tuple[int, int]]) -> None:
    """Raise DataError where the pool was built for other target layers than the model's `layers` with their (d, n)."""
    known = pool.manifest.modules
    if odd := sorted((m for m in {**layers, **known} if layers.get(m) != known.get(m)), key=tensors.natural):
        raise DataError(
            f"the pool's pieces and the model's target layers differ, in {odd[0]!r}",
            where=pool.path,
            hint="Set lora.targets in perpcs.toml to the target modules that the sharers were trained with.",
        )
