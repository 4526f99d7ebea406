"""What leaves a sharer in a pseudonymized pool: copies under keyed pseudonyms, of the shared pieces and gates alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from perpcs_cli.artifacts.adapter import CARD, Adapter, Card, write_adapter
from perpcs_cli.artifacts.gate import FILE as GATE_FILE
from perpcs_cli.artifacts.gate import GateCard, write_gates
from perpcs_cli.artifacts.io import atomic, typed_files
from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.pool import OpenPool
from perpcs_cli.artifacts.pools.removal import check_removable, remove_sharer
from perpcs_cli.artifacts.pools.secret import keyed_digest
from perpcs_cli.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

MARK = "s-"
DIGITS = 16


def pseudonym(secret: bytes, user_id: str) -> str:
    """The name of a user in every pseudonymized pool of a workspace: HMAC-SHA-256 of the id, 64 bits of it.

    Without the secret nobody can invert it, confirm a guess, or link it with another workspace's.
    """
    return MARK + keyed_digest(secret, ["sharer", user_id])[:DIGITS]


def own_names(pool: OpenPool, secret: bytes | None, user_id: str) -> set[str]:
    """What a user may be called among a pool's sharers: with the workspace's secret, by its pseudonym."""
    return {user_id, pseudonym(secret, user_id)} if pool.manifest.pseudonyms and secret else {user_id}


@dataclass(frozen=True)
class Copies:
    """Where the copies of a pool go, one directory per pseudonym, and the key of the pseudonyms."""

    root: Path
    secret: bytes
    provenance: Provenance
    """The pool's. What a sharer's own files say of its training stays with the sharer."""

    def name(self, user_id: str) -> str:
        """The sharer's pseudonym."""
        return pseudonym(self.secret, user_id)

    def write(
        self, name: str, adapter: Adapter, modules: Sequence[str], gates: dict[str, Tensor], gate_card: GateCard | None
    ) -> Path:
        """Write a sharer's copy: the pieces of `modules`, their `gates`, and cards with nothing but guarantees.

        Counts, losses, seeds and digests of the user's data are left out; so are withheld pieces.
        """
        origin = msgspec.structs.replace(self.provenance, base=adapter.base)
        privacy = adapter.card.privacy if adapter.card else None
        # Names of whole layers where some are withheld: PEFT would otherwise make up the ones that are missing.
        partial = len(modules) < len(adapter.modules)
        config = msgspec.structs.replace(
            adapter.config,
            target_modules=list(modules) if partial else adapter.config.target_modules,
            base_model_name_or_path=without_place(adapter.config.base_model_name_or_path or ""),
        )
        directory = self.root / name
        with atomic.replacing_directory(directory) as temporary:
            pieces = {module: adapter.piece(module) for module in modules}
            digest = write_adapter(temporary, pieces, config, version("peft"))
            card = Card(
                user_id=name,
                examples=0,
                steps=0,
                digest=digest,
                scale=config.scale,
                privacy=privacy,
                provenance=origin,
            )
            typed_files.write_json(temporary / CARD, card)
            if gate_card:
                shared = GateCard(user_id=name, adapter=digest, steps=0, privacy=gate_card.privacy, provenance=origin)
                write_gates(temporary / GATE_FILE, {module: gates[module] for module in modules}, shared)
        return directory


def check_starts(adapters: Sequence[Adapter]) -> None:
    """Raise DataError where a LoRA's start gives its name away: training hardly turns A, so that it is known again."""
    if named := [adapter for adapter in adapters if _starts_from_name(adapter)]:
        raise DataError(
            "the LoRA started from an A drawn from its name, which would let whoever guesses the name confirm it",
            where=named[0].path,
            hint="Train it again with --init shared, or build the pool without --pseudonymize.",
        )


def _starts_from_name(adapter: Adapter) -> bool:
    lora = adapter.card.provenance.settings.get("lora") if adapter.card else None
    return isinstance(lora, dict) and lora.get("init") == "own"


def check_copies(pool: Path) -> None:
    """Raise DataError where something else stands among the copies of an earlier pool, which will be replaced."""
    for directory in copies_root(pool).glob(f"{MARK}*"):
        check_removable(directory)


def keep_only(pool: Path, names: Collection[str]) -> None:
    """Delete the copies of an earlier pool at this place, but for those of `names`."""
    root = copies_root(pool)
    for directory in root.glob(f"{MARK}*"):
        if directory.name not in names:
            remove_sharer(directory)
    if root.exists() and not any(root.iterdir()):
        root.rmdir()


def without_place(name: str) -> str:
    """A model's name without the directories of the machine that it lies on."""
    return Path(name).name if Path(name).is_absolute() else name


def copies_root(pool: Path) -> Path:
    """Where the copies of a pool lie: `pool-files` beside `pool.json`."""
    return pool.with_name(f"{pool.stem}-files")
