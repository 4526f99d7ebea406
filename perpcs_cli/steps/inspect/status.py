"""Where a workspace stands: which steps are done, partial, stale and why, or missing, and what comes next.

Read from cards, manifests and digests alone: no model, no tensor and no prompt. A step is stale where what it was made
from is not what stands there now. What was made with other settings than `perpcs.toml` has now is not: settings may
be flags' own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from perpcs_cli.artifacts.adapter import CARD, Card
from perpcs_cli.artifacts.embeddings import read_embeddings
from perpcs_cli.artifacts.gate import FILE as GATES
from perpcs_cli.artifacts.gate import read_gates
from perpcs_cli.artifacts.io import hashing, typed_files
from perpcs_cli.artifacts.pool import open_pool
from perpcs_cli.artifacts.selection import FILE as SELECTION
from perpcs_cli.artifacts.selection import read_selection
from perpcs_cli.artifacts.split import FILE as SPLIT
from perpcs_cli.artifacts.split import read_split
from perpcs_cli.errors import shortened
from perpcs_cli.steps.inspect.outputs import Outputs
from perpcs_cli.steps.inspect.step_state import Found, Step, looked
from perpcs_cli.steps.share.gate import sharer_names
from perpcs_cli.steps.workspace import Places

NEXT = {
    "init": "perpcs import FILES",
    "fetch lamp": "perpcs split",
    "import": "perpcs split",
    "synth": "perpcs split",
    "split": "perpcs adapt",
    "adapt": "perpcs train-sharer",
    "select": "perpcs train-sharer",
    "train-sharer": "perpcs gate",
    "adopt": "perpcs gate",
    "gate": "perpcs pool build",
    "pool build": "perpcs assemble",
    "embed": "perpcs prime",
    "profile": "perpcs embed --what profile",
    "assemble": "perpcs predict",
    "retrieve": "perpcs predict --recipes recipes-retrieve",
    "prime": "perpcs predict --recipes recipes-prime",
    "predict": "perpcs eval",
    "eval": "perpcs mia",
    "mia": "perpcs audit",
    "audit": "perpcs report",
    "plan": "perpcs sweep",
    "sweep": "perpcs table",
}
"""Command → what usually comes after it."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """All steps in the order of a workflow, and the next command to type."""

    steps: list[Step]
    next: str


def status(places: Places) -> Status:
    """Look at a workspace's files. A broken one is a step's state, and no error."""
    look = _Look(places)
    steps = [step for part in look.parts() for step in part]
    start = "" if places.settings_file.exists() or look.users else "perpcs init . --task TASK"
    return Status(steps=steps, next=start or _next(steps))


def _next(steps: Sequence[Step]) -> str:
    """The first command that mends something; else that of the first step that is missing after the last one done."""
    for step in steps:
        if step.state not in ("done", "missing"):
            return step.command
    required = [step for step in steps if not step.optional]
    last = max((place for place, step in enumerate(required) if step.state == "done"), default=-1)
    return next((step.command for step in required[last + 1 :]), "perpcs audit")


@dataclass
class _Look:
    """One look at a workspace; what an earlier step has found is known to a later one."""

    places: Places
    users: int = 0
    users_digest: str = ""
    lists: dict[str, list[str]] = field(default_factory=dict)
    cards: dict[str, Card] = field(default_factory=dict)
    gates: dict[str, str] = field(default_factory=dict)
    """Sharer → digest of the file of gates."""
    pool: str = ""
    """Digest of the manifest."""

    def parts(self) -> Iterator[list[Step]]:
        """The steps, part by part, in the order in which they are made."""
        places = self.places
        yield [looked(places.root, "users", places.users, "perpcs import FILES", self._users)]
        yield [self.one("split", places.splits / SPLIT, self._split)]
        if (places.splits / SELECTION).exists():
            yield [self.one("select", places.splits / SELECTION, self._selection, optional=True)]
        if places.task_adapter.exists():
            yield [self.one("adapt", places.task_adapter, self._task_adapter, optional=True)]
        yield [self.one("train-sharer", places.sharers, self._sharers)]
        yield [looked(places.root, "gate", places.sharers, "perpcs gate", self._gates, files=GATES)]
        yield [self.one("pool build", places.pool, self._pool)]
        if places.embeddings().exists():
            yield [self.one("embed", places.embeddings(), self._embeddings, optional=True)]
        made = Outputs(places, self.pool, self.lists.get("target", ()))
        yield from (made.recipes(), made.predictions(), made.metrics(), made.leakage())

    def one(self, name: str, path: Path, look: Callable[[], Found], *, optional: bool = False) -> Step:
        """A step that is named as its command."""
        return looked(self.places.root, name, path, f"perpcs {name}", look, optional=optional)

    def _users(self) -> Found:
        path = self.places.users
        self.users = sum(1 for _ in typed_files.lines(path))
        self.users_digest = hashing.digest_file(path)
        return "done", f"{self.users} users", ""

    def _split(self) -> Found:
        found = read_split(self.places.splits / SPLIT)
        parts = found.parts
        self.lists |= {"base": parts.base, "target": parts.target, "candidate": parts.candidate}
        what = f"{len(parts.base)} base users, {len(parts.target)} targets, {len(parts.candidate)} candidates"
        said = found.provenance.inputs.get(self.places.users.name)
        if said and self.users_digest and said != self.users_digest:
            return "stale", what, "users.jsonl has changed since"
        return "done", what, ""

    def _selection(self) -> Found:
        found = read_selection(self.places.splits / SELECTION)
        self.lists["sharer"] = [one.user_id for one in found.chosen]
        what = f"{len(found.chosen)} of {found.candidates} candidates"
        gone = sorted(set(self.lists["sharer"]) - set(self.lists.get("candidate", self.lists["sharer"])))
        return ("stale", what, f"{shortened(gone)}: no candidate any more") if gone else ("done", what, "")

    def _task_adapter(self) -> Found:
        card = typed_files.read_json(self.places.task_adapter / CARD, Card)
        return "done", f"loss {card.first_loss:.2f} → {card.last_loss:.2f}", ""

    def _sharers(self) -> Found:
        names = sharer_names(self.places.sharers)
        self.cards = {
            name: typed_files.read_json(self.places.sharers / name / CARD, Card)
            for name in names
            if (self.places.sharers / name / CARD).exists()
        }
        wanted = self.lists.get("sharer") or self.lists.get("candidate") or names
        have = [name for name in wanted if name in self.cards]
        what = f"{len(have)} of {len(wanted)} sharers" if have != names else f"{len(have)} sharers"
        bases = {card.provenance.base for card in self.cards.values()}
        if len(bases) > 1:
            return "stale", what, f"they were trained on {len(bases)} different bases"
        if len(have) < len(wanted):
            missing = [name for name in wanted if name not in self.cards]
            return "partial" if self.cards else "missing", what, f"not trained: {shortened(missing)}"
        return "done", what, ""

    def _gates(self) -> Found:
        stale, missing = [], []
        for name, card in self.cards.items():
            path = self.places.sharers / name / GATES
            if not path.exists():
                missing.append(name)
                continue
            self.gates[name] = hashing.digest_file(path)
            if read_gates(path)[1].adapter != card.digest:
                stale.append(name)
        what = f"{len(self.cards) - len(missing)} of {len(self.cards)} sharers"
        if stale:
            return "stale", what, f"trained again since: {shortened(stale)}"
        if missing:
            return "partial" if self.gates else "missing", what, f"no gates: {shortened(missing)}"
        return ("done" if self.cards else "missing"), what, ""

    def _pool(self) -> Found:
        opened = open_pool(self.places.pool)
        self.pool = opened.digest
        manifest = opened.manifest
        what = f"{len(manifest.sharers)} sharers, rank {manifest.rank}, {len(manifest.modules)} linear layers"
        if manifest.pseudonyms:
            return "done", f"{what}, under pseudonyms", ""
        given = {sharer.user_id: sharer for sharer in manifest.sharers}
        changed = [
            name
            for name, sharer in given.items()
            if name in self.cards
            and (sharer.adapter != self.cards[name].digest or (sharer.gate and sharer.gate != self.gates.get(name)))
        ]
        listed = self.lists.get("sharer") or self.lists.get("candidate")
        absent = [name for name in self.cards if name not in given and (listed is None or name in listed)]
        if changed:
            return "stale", what, f"changed since: {shortened(changed)}"
        return ("stale", what, f"not in it: {shortened(absent)}") if absent else ("done", what, "")

    def _embeddings(self) -> Found:
        found = len(read_embeddings(self.places.embeddings()).card.users)
        what = f"{found} of {self.users} users"
        return ("partial" if found < self.users else "done"), what, ""
