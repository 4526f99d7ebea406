"""Which model a step asks: as it was when it was last looked at, if nothing has changed since, else looked at now."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec

from perpcs_cli.errors import DataError
from perpcs_cli.model.loading.known_identity import Asked, KnownIdentity, forget, recall, remember

if TYPE_CHECKING:
    from perpcs_cli.model.loading.identity import Identity


class ModelIdentity:
    """A model by the settings that name it. What is known of it already needs no torch."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked

    @cached_property
    def found(self) -> Identity:
        """What it is, looked at now. Raises what `identify` raises, and DataError where it was another one before."""
        from perpcs_cli.model.loading.identity import identify

        asked, state = self._asked, self._asked.state()
        found = identify(
            asked.model,
            asked.task_adapter,
            device=asked.device,
            dtype=asked.dtype,
            quantize=asked.quantize,
            trains=asked.trains,
        )
        known = vars(self).get("_known")
        if known and (known.fingerprint, known.description) != (found.fingerprint, found.describe()):
            # Else the next run would know it, too.
            forget(asked)
            raise DataError("the model has changed while this command ran", where=asked.model, hint="Run it again.")
        remember(asked, state, found.fingerprint, found.describe())
        return found

    @cached_property
    def _known(self) -> KnownIdentity | None:
        return None if "found" in vars(self) else recall(self._asked)

    @property
    def fingerprint(self) -> str:
        """Of the model with its task adapter, for provenances: as it was last looked at, if nothing has changed."""
        return self._known.fingerprint if self._known else self.found.fingerprint

    def describe(self) -> dict[str, str]:
        """What changes results, for an artifact's provenance; known as the fingerprint is."""
        return self._known.description if self._known else self.found.describe()

    def chat(self, read: Callable[[], tuple[str, str] | None]) -> tuple[str, str] | None:
        """What its chat template puts around a message, which `read` tells where it is not known."""
        if self._known and self._known.chat is not msgspec.UNSET:
            return self._known.chat
        state, found = self._asked.state(), read()
        remember(self._asked, state, self.fingerprint, self.describe(), found)
        return found
