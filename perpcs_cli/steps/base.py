"""The base model of a step: told by its fingerprint before anything is loaded, loaded when it is needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import msgspec

from perpcs_cli.errors import DataError, PerpcsError
from perpcs_cli.steps.job import Outcome
from perpcs_cli.steps.report import Report
from perpcs_cli.steps.workspace import Workspace

if TYPE_CHECKING:
    from perpcs_cli.model.engine.batching import Encoded
    from perpcs_cli.model.loading.base import Base
    from perpcs_cli.model.loading.identity import Identity
    from perpcs_cli.model.loading.known_identity import Asked, KnownIdentity
    from perpcs_cli.model.loading.tokenizer_info import Reads
    from perpcs_cli.tasks.prompts import Prompt


T = TypeVar("T")

_kept: ContextVar[dict[tuple[object, ...], Base] | None] = ContextVar("kept", default=None)
"""The last base that was loaded, by all that it was loaded from; None outside of `kept_base`."""


@contextmanager
def kept_base() -> Iterator[None]:
    """Keep the last base that a step loads, so that several steps in this block load it once."""
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


class StepModel:
    """The base that the settings name, with its task adapter unless `adapted` is false.

    Without `pieces` it needs no linear layers that could carry them. `changed`: the step will change the model, so
    nobody else may get it. `trains`: the step will train on it, which not every number type is good for. `beside`: the
    same model without its task adapter, which stays loaded and shares its weights.
    """

    def __init__(
        self,
        workspace: Workspace,
        report: Report,
        *,
        adapted: bool = True,
        pieces: bool = True,
        changed: bool = False,
        trains: bool = False,
        beside: StepModel | None = None,
    ) -> None:
        self.settings = workspace.settings
        self._report = report
        self._task_adapter = self.settings.task_adapter if adapted else ""
        self._targets = self.settings.lora.targets if pieces else ()
        self._changed = changed
        self._trains = trains
        self._beside = beside

    @cached_property
    def identity(self) -> Identity:
        """What it is, looked at now. Raises what `identify` raises, and DataError where it was another one before."""
        from perpcs_cli.model.loading.identity import identify
        from perpcs_cli.model.loading.known_identity import forget, remember

        settings = self.settings
        state = self._asked.state()
        found = identify(
            settings.model,
            self._task_adapter,
            device=settings.device,
            dtype=settings.dtype,
            quantize=settings.quantize,
            trains=self._trains,
        )
        known = vars(self).get("_known")
        if known and (known.fingerprint, known.description) != (found.fingerprint, found.describe()):
            # Else the next run would know it, too.
            forget(self._asked)
            raise DataError("the model has changed while this command ran", where=settings.model, hint="Run it again.")
        remember(self._asked, state, found.fingerprint, found.describe())
        return found

    @property
    def _asked(self) -> Asked:
        from perpcs_cli.model.loading.known_identity import Asked

        settings = self.settings
        return Asked(
            settings.model, self._task_adapter, settings.device, settings.dtype, settings.quantize, self._trains
        )

    @cached_property
    def _known(self) -> KnownIdentity | None:
        from perpcs_cli.model.loading.known_identity import recall

        return None if "identity" in vars(self) else recall(self._asked)

    @property
    def fingerprint(self) -> str:
        """Of the base with its task adapter, for provenances: as it was last looked at, if nothing has changed."""
        return self._known.fingerprint if self._known else self.identity.fingerprint

    def describe(self) -> dict[str, str]:
        """What changes results, for an artifact's provenance; known as the fingerprint is."""
        return self._known.description if self._known else self.identity.describe()

    @cached_property
    def chat(self) -> tuple[str, str] | None:
        """What its chat template puts before and after a message, None without one; known as the fingerprint is."""
        from perpcs_cli.model.loading.known_identity import remember

        if self._known and self._known.chat is not msgspec.UNSET:
            return self._known.chat
        from perpcs_cli.model.engine.chat_prompts import chat_ends

        state = self._asked.state()
        found = chat_ends(self._vocabulary.tokenizer)
        remember(self._asked, state, self.fingerprint, self.describe(), found)
        return found

    @cached_property
    def base(self) -> Base:
        """The model itself, loaded when it is first used."""
        import torch

        from perpcs_cli.model.engine.memory import watched
        from perpcs_cli.model.loading.base import load_base, with_task_adapter
        from perpcs_cli.model.loading.number_type import choose_dtype, read_widths
        from perpcs_cli.model.packed.check import check_packed

        settings = self.settings
        key = (settings.model, self._targets, self.fingerprint, settings.device, self.describe()["dtype"])
        kept = None if self._changed else _kept.get()
        found = kept.get(key) if kept else None
        if found is not None:
            return found
        if kept is not None:
            # Before the next one is loaded: two may not fit.
            kept.clear()
        try:
            with watched():
                if self._beside is None:
                    base = load_base(self.identity, targets=self._targets)
                else:
                    base = with_task_adapter(self._beside.base, self.identity)
                check_packed(base)
        except torch.OutOfMemoryError:
            raise PerpcsError(
                f"the model {settings.model!r} does not fit into the memory of {self.identity.device}",
                hint="Try --dtype bfloat16, --quantize 4bit, another --device, or a smaller model.",
            ) from None
        if kept is not None:
            kept[key] = base
        weights = "" if settings.quantize == "none" else f"{settings.quantize}, "
        shape = f"{weights}{base.describe()['dtype']} on {base.device}"
        merged = f" + {self._task_adapter}" if self._task_adapter else ""
        layers = f", {len(base.targets)} linear layers" if self._targets else ""
        self._report.note(f"base: {settings.model}{merged}, {shape}{layers}")
        if (
            self._trains
            and choose_dtype(settings.dtype, base.device, read_widths(self.identity.directory)) == torch.float16
        ):
            self._report.note("float16 is fast here and not for training; this step takes float32")
        return base

    @cached_property
    def _vocabulary(self) -> Reads:
        from perpcs_cli.model.loading.tokenizer_info import load_vocabulary

        return load_vocabulary(self.identity.directory)

    @property
    def reader(self) -> Reads:
        """What tokenizes: the base where it is loaded already, else its vocabulary alone."""
        return self.base if "base" in vars(self) else self._vocabulary

    def encode(self, prompts: Iterable[Prompt], *, who: str, reserve: int = 0) -> list[Encoded]:
        """Tokenize prompts, and tell how many had to be cut to fit. Errors name `who`."""
        from perpcs_cli.model.engine.batching import encode

        try:
            rows = [
                replace(encode(self.reader, prompt, self.settings.max_length, reserve=reserve), who=who)
                for prompt in prompts
            ]
        except DataError as error:
            raise DataError(error.what, where=who, hint=error.hint) from None
        cut = [row.cut for row in rows if row.cut]
        if cut:
            self._report.warn(
                f"{who}: {len(cut)} of {len(rows)} inputs are longer than the context; "
                f"their articles were cut from the left, {max(cut)} tokens at most"
            )
        return rows

    def check_room(
        self, prompts: Mapping[str, Iterable[Prompt]], outcomes: Iterable[Outcome[T]], *, reserve: int = 0
    ) -> None:
        """Raise DataError where a prompt of a user whose output is still to do does not fit: the real run would end
        there, and a dry one is asked whether it would."""
        for name in dict.fromkeys(one.name for one in outcomes if one.state == "to do"):
            self.encode(prompts[name], who=f"user {name}", reserve=reserve)
