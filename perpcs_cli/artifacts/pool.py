"""`pool.json`: the manifest of what sharers give, with all gates beside it in one tensor per linear layer."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from perpcs_cli.artifacts import store, tensors
from perpcs_cli.artifacts.adapter import WEIGHTS, Adapter, open_adapter
from perpcs_cli.artifacts.gate import FILE as GATE_FILE
from perpcs_cli.artifacts.gate import read_gates
from perpcs_cli.artifacts.provenance import Provenance
from perpcs_cli.errors import DataError, UsageError


class Sharer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One sharer's entry. `path` is relative to the manifest; `shared` lists indices into the pool's modules."""

    user_id: str
    path: str
    adapter: str
    """SHA-256 of the adapter's weights."""
    gate: str
    """SHA-256 of the gate file; empty where the sharer has no gates."""
    shared: tuple[int, ...] | None = None
    """The pieces that this sharer gives; None for all."""


class Pool(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="format", tag="perpcs.pool/1"
):
    """The manifest: one base, one rank, the linear layers in the model's order with their shapes, the sharers."""

    base: str
    model: str
    rank: int
    scale: float
    modules: dict[str, tuple[int, int]]
    """Linear layer → (d, n), its outputs and inputs."""
    sharers: tuple[Sharer, ...]
    share_ratio: float
    gates: str
    """SHA-256 of the stacked gates; empty where a sharer has none."""
    provenance: Provenance


@dataclass(frozen=True)
class OpenPool:
    """A manifest and its directory. Adapters are opened, and their digests checked, when they are first used."""

    path: Path
    manifest: Pool
    digest: str
    _adapters: dict[int, Adapter] = field(default_factory=dict)

    @property
    def modules(self) -> list[str]:
        """The linear layers, in the model's order."""
        return list(self.manifest.modules)

    @property
    def ids(self) -> list[str]:
        """The sharers' ids; their position is their index everywhere."""
        return [sharer.user_id for sharer in self.manifest.sharers]

    def adapter(self, index: int) -> Adapter:
        """One sharer's adapter. Raises DataError where it is missing or not what the manifest recorded."""
        if index not in self._adapters:
            sharer = self.manifest.sharers[index]
            directory = store.inside(self.path.parent, sharer.path, where=self.path)
            adapter = open_adapter(directory)
            if store.digest_file(directory / WEIGHTS) != sharer.adapter:
                raise DataError(
                    f"the adapter of {sharer.user_id!r} has changed since the pool was built",
                    where=directory / WEIGHTS,
                    hint="Build the pool again with `perpcs pool build --force`.",
                )
            self._adapters[index] = adapter
        return self._adapters[index]

    def gates(self) -> tensors.TensorFile:
        """All gates, [sharers, n] per linear layer, memory-mapped."""
        path = gates_path(self.path)
        if not self.manifest.gates:
            raise DataError("the pool was built without gates", where=self.path, hint="Train them with `perpcs gate`.")
        if not path.exists() or store.digest_file(path) != self.manifest.gates:
            raise DataError("the pool's gates are missing or have changed", where=path, hint="Build the pool again.")
        file = tensors.open_tensors(path)
        for module, (_, inputs) in self.manifest.modules.items():
            # Gates are found by position: a list of sharers of another length would give them to the wrong ones.
            if file.shape(module) != [len(self.ids), inputs]:
                expected = [len(self.ids), inputs]
                raise DataError(f"the gates of {module!r} have shape {file.shape(module)}, not {expected}", where=path)
        return file

    def shares(self, index: int) -> set[str]:
        """The linear layers whose pieces a sharer gives."""
        shared = self.manifest.sharers[index].shared
        return set(self.modules) if shared is None else {self.modules[i] for i in shared}


def gates_path(pool: Path) -> Path:
    """Where the stacked gates lie: beside the manifest."""
    return pool.with_suffix(".gates.safetensors")


def open_pool(path: Path) -> OpenPool:
    """Read a manifest. Raises DataError where it is missing, broken, or a path leaves its directory."""
    if not path.exists():
        raise DataError("there is no pool", where=path, hint="Build it with `perpcs pool build`.")
    manifest = store.read_json(path, Pool)
    for sharer in manifest.sharers:
        store.check_id(sharer.user_id, "sharer", where=path)
        store.inside(path.parent, sharer.path, where=path)
        if any(not 0 <= i < len(manifest.modules) for i in sharer.shared or ()):
            raise DataError(f"{sharer.user_id!r} shares a piece that is not in the list of modules", where=path)
    if len({s.user_id for s in manifest.sharers}) < len(manifest.sharers) or not manifest.sharers:
        raise DataError("a sharer is listed twice, or there is none", where=path)
    return OpenPool(path, manifest, store.digest_file(path))


def check_base(pool: OpenPool, fingerprint: str, model: str, layers: Mapping[str, tuple[int, int]]) -> None:
    """Raise DataError where the pool was built on another base model or task adapter, or for other target layers.

    `layers`: the target layers of the model that runs, with their (d, n).
    """
    if pool.manifest.base != fingerprint:
        raise DataError(
            "the pool was built on another base model or task adapter",
            where=pool.path,
            hint=f"Its model is {pool.manifest.model!r}, fingerprint {pool.manifest.base[:12]}…; "
            f"this is {model!r}, {fingerprint[:12]}…. Check --model and --task-adapter.",
        )
    known = pool.manifest.modules
    if odd := sorted((m for m in {**layers, **known} if layers.get(m) != known.get(m)), key=tensors.natural):
        raise DataError(
            f"the pool's pieces and the model's target layers differ, in {odd[0]!r}",
            where=pool.path,
            hint="Set lora.targets in perpcs.toml to the target modules that the sharers were trained with.",
        )


def build_pool(
    path: Path,
    directories: Sequence[Path],
    order: Sequence[str],
    *,
    share_ratio: float,
    need_gates: bool,
    provenance: Provenance,
) -> Pool:
    """Check the sharers against each other and write the manifest and the stacked gates.

    `order`: the model's target layers. Raises DataError where bases, modules or ranks differ, values are not
    finite, gates are missing or belong to another adapter, or a directory is outside the manifest's.
    """
    adapters = [open_adapter(directory) for directory in directories]
    first = adapters[0]
    import torch

    entries: list[Sharer] = []
    stacks: dict[str, list[torch.Tensor]] = {module: [] for module in order}
    shapes = {module: first.shape(module) for module in order}
    for adapter in adapters:
        _check_alike(adapter, first, shapes)
        name = adapter.card.user_id if adapter.card else adapter.path.name
        if twice := [entry.path for entry in entries if entry.user_id == name]:
            raise DataError(f"is the same sharer as {twice[0]}: {name!r}", where=adapter.path, hint="Remove one.")
        digest = _check_finite(adapter)
        gate = ""
        if need_gates:
            gates, card = read_gates(adapter.path / GATE_FILE)
            if card.adapter != digest:
                raise DataError(
                    f"the gates of {name!r} belong to another adapter",
                    where=gates.path,
                    hint="Train them again with `perpcs gate --force`.",
                )
            if extra := sorted(set(gates.keys) - set(order), key=tensors.natural):
                raise DataError(f"unexpected tensor {extra[0]!r}", where=gates.path)
            for module in order:
                vector = gates.read(module)
                if tuple(vector.shape) != (shapes[module][1],):
                    raise DataError(f"the gate of {module!r} has shape {list(vector.shape)}", where=gates.path)
                stacks[module].append(vector)
            gate = store.digest_file(gates.path)
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
                shared=shared_pieces(name, len(order), share_ratio, provenance.seed),
            )
        )
    gates_digest = ""
    if need_gates:
        stacked = {module: torch.stack(vectors) for module, vectors in stacks.items()}
        tensors.write_tensors(gates_path(path), stacked, {})
        gates_digest = store.digest_file(gates_path(path))
    pool = Pool(
        base=first.base,
        model=first.config.base_model_name_or_path or "",
        rank=first.config.r,
        scale=first.scale,
        modules=shapes,
        sharers=tuple(entries),
        share_ratio=share_ratio,
        gates=gates_digest,
        provenance=provenance,
    )
    store.write_json(path, pool)
    return pool


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
            _check_alike(adapter, first, pool.manifest.modules)
            if (adapter.base, adapter.config.r, adapter.scale) != (
                pool.manifest.base,
                pool.manifest.rank,
                pool.manifest.scale,
            ):
                problems.append(f"{adapter.path}: has another base model, rank or scale than the manifest says")
            _check_finite(adapter)
            if sharer.gate and store.digest_file(adapter.path / GATE_FILE) != sharer.gate:
                problems.append(f"{adapter.path / GATE_FILE}: has changed since the pool was built")
        except DataError as error:
            problems.append(str(error))
    try:
        if pool.manifest.gates:
            gates = pool.gates()
            for module in pool.modules:
                gates.read(module)
    except DataError as error:
        problems.append(str(error))
    return problems


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
