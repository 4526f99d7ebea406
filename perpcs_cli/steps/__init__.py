"""What a command does to a workspace, callable from Python: no flags, no printing.

    from perpcs_cli import steps

    workspace = steps.open_workspace(Path("work"), assemble={"top_k": 2})
    outcomes = steps.assemble(workspace, steps.Who(("u42",)))

Each step is loaded when it is first used, and says what became of what it was to write (`job.Outcome`).
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_ROOMS = {
    "workspace": ("Places", "Who", "Workspace", "open_workspace"),
    "init_workspace": ("init",),
    "inspect.status": ("status",),
    "data.fetch_lamp": ("fetch_lamp",),
    "data.import_users": ("import_users",),
    "data.synth": ("synth",),
    "data.split": ("split",),
    "data.prompt": ("prompt",),
    "data.profile": ("profile",),
    "data.embed": ("embed",),
    "data.select": ("select",),
    "share.adapt": ("adapt",),
    "share.train_sharer": ("train_sharer",),
    "share.adopt": ("adopt",),
    "share.gate": ("gate",),
    "share.pool": ("build_pool",),
    "share.revoke": ("revoke",),
    "personalize.similar": ("similar",),
    "personalize.retrieve": ("retrieve",),
    "personalize.assemble": ("assemble",),
    "personalize.prime": ("prime",),
    "export.export": ("export",),
    "evaluate.predict": ("predict",),
    "evaluate.metrics": ("evaluate_predictions", "write_lamp"),
    "evaluate.mia": ("mia",),
    "evaluate.audit": ("audit",),
}
"""Where each step lives in this package."""
_PLACES = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = sorted(_PLACES)


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"there is no step {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
