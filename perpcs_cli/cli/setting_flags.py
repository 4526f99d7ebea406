"""Flags made from the declarations of the settings: name, type, range, help, variable and default come from there."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec
import typer

from perpcs_cli.artifacts.declarations import Declared
from perpcs_cli.artifacts.settings import declared
from perpcs_cli.errors import PerpcsError, UsageError

BY_TASK = "by the task"
"""Shown where neither the declaration nor a workspace tells the default."""


def setting(path: str) -> Any:
    """The flag of one setting: `perpcs.toml`'s key, as `seed` or `train.lr`."""
    one = declared()[path]
    name = f"--{one.flag}"
    switch = f"{name}/--no-{one.flag}" if one.kind is bool else name
    ranged = one.kind is int and one.limits
    least = max((meta.ge for meta in one.limits if meta.ge is not None), default=None) if ranged else None
    option = typer.Option(
        switch,
        # Those of a section are read by `from_environment`, which commands with and without their flags do alike.
        envvar=None if one.section else one.variable,
        help=one.help,
        min=least,
        metavar="<numbers>" if _is_numbers(one) else None,
        show_default=default_in_words(one, one.default),
    )
    option.setting = path
    return option


def _is_numbers(one: Declared) -> bool:
    return getattr(one.kind, "__origin__", None) is tuple


UNSET = {
    "prime.popsize": "4 + 3 ln n",
    "prime.recent": "all",
    "prime.race": "off",
    "mia.recent": "all",
    "assemble.similar": "all",
    "profile.chat": "where the model has a chat template",
}
"""What settings without a value mean, in words."""


def default_in_words(one: Declared, value: Any) -> str:
    """A setting's value as help shows it."""
    if value is None:
        return UNSET.get(one.path, "not set")
    if not isinstance(value, str | int | float | bool | tuple | list):
        return "of the workspace" if one.path in ("task", "model") else BY_TASK
    if isinstance(value, bool):
        return f"{'' if value else 'no-'}{one.flag}"
    if isinstance(value, tuple | list):
        return ",".join(end if isinstance(end, str) else f"{end:g}" for end in value)
    return f"{value:g}" if isinstance(value, float) else str(value) or "none"


class Section:
    """The flags over one section of `perpcs.toml`, all made from its declarations. `given`: those that were given."""

    name: ClassVar[str]
    only: ClassVar[tuple[str, ...]]
    """The keys that have flags here; empty for all."""

    panel: ClassVar[str]
    """Its title in help; empty for none."""

    def __init_subclass__(cls, name: str, only: tuple[str, ...] = (), panel: str = "") -> None:
        cls.name, cls.only, cls.panel = name, only, panel

    def __init__(self, **values: Any) -> None:
        self.given = {}
        for key, value in values.items():
            if value is not None:
                one = declared()[f"{self.name}.{key}"]
                self.given[key] = numbers(value, one, f"--{one.flag}") if _is_numbers(one) else value

    @classmethod
    def parameters(cls) -> list[inspect.Parameter]:
        """One for each setting of the section that has a flag."""
        found = []
        for one in declared().values():
            if one.section == cls.name and one.flag and (not cls.only or one.key in cls.only):
                kind = str if _is_numbers(one) else one.kind
                hint: Any = Annotated[kind | None, setting(one.path)]
                found.append(inspect.Parameter(one.key, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint))
        return found


class LoraFlags(Section, name="lora", panel="LoRA"):
    """The shape of a new adapter."""


class AdaptFlags(Section, name="adapt", panel="Training"):
    """How the task adapter is trained."""


class TrainFlags(Section, name="train", panel="Training"):
    """How sharers' LoRAs are trained."""


class GateFlags(Section, name="gate", panel="Training"):
    """How gates are trained."""


class AssembleFlags(Section, name="assemble", panel="Assembly"):
    """How gate scores become weights."""


class PrimeFlags(Section, name="prime", panel="Search"):
    """How PriME searches."""


class EmbedFlags(Section, name="embed", panel="Encoder"):
    """What reads the users' texts."""


class SelectFlags(Section, name="select", panel="Clusters"):
    """How sharers are selected."""


class ProfileFlags(Section, name="profile", panel="Profile"):
    """How profiles are written."""


class PredictFlags(Section, name="predict", panel="Decoding"):
    """How answers are decoded."""


class MiaFlags(Section, name="mia", panel="Items"):
    """Which items are attacked, in which prompts."""


class BatchFlags(Section, name="predict", only=("batch_tokens", "batch_rows"), panel="Batches"):
    """How many rows run together."""


class ScoredFlags(Section, name="prime", only=("data_fraction", "prompts")):
    """What of the history PriME scores on."""


class AnswerRoomFlags(Section, name="predict", only=("max_new_tokens",)):
    """How much room an answer gets."""


def over(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Layers of one section, later ones over earlier ones; epochs that are given win over steps from below."""
    found: dict[str, Any] = {}
    for layer in layers:
        lone = layer.get("epochs") is not None and layer.get("steps") is None
        found = {**found, **layer, **({"steps": None} if lone else {})}
    return found


def from_environment(environment: Mapping[str, str], *, top: bool = False) -> dict[str, Any]:
    """The settings that variables give, as a layer: those of sections, with `top` also those above them.

    Raises UsageError for a value of another type.
    """
    found: dict[str, Any] = {}
    for one in declared().values():
        text = environment.get(one.variable)
        if not text or not one.flag or not (one.section or top):
            continue
        try:
            own = numbers(text, one, one.variable) if _is_numbers(one) else None
            value = own or msgspec.convert(text, one.kind, strict=False)
        except msgspec.ValidationError as error:
            raise UsageError(str(error), where=one.variable) from None
        (found.setdefault(one.section, {}) if one.section else found)[one.key] = value
    return found


def numbers(text: str, one: Declared, where: str) -> list[float]:
    """`0,0.2,1` → [0, 0.2, 1]; of a range `B` → [-B, B]. Raises UsageError for what is no number."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"not numbers separated by commas: {text!r}", where=where) from None
    return [-values[0], values[0]] if one.path == "prime.bounds" and len(values) == 1 else values


def defaults_in_force(arguments: list[str], environment: Mapping[str, str]) -> dict[str, str]:
    """{path: value in words} of the settings that hold without flags, by the environment and the workspace of a command
    line; without a workspace, of those that the environment gives."""
    from perpcs_cli.steps.workspace import Places, open_workspace

    place = environment.get("PERPCS_WORKSPACE", "")
    for at, word in enumerate(arguments):
        if word in ("-w", "--workspace") and at + 1 < len(arguments):
            place = arguments[at + 1]
        elif word.startswith("--workspace="):
            place = word.partition("=")[2]
    try:
        given = from_environment(environment, top=True)
        settings = open_workspace(Path(place), **given).settings if Places(Path(place)).settings_file.exists() else None
    except PerpcsError:
        # Help is shown all the same; the command itself will say what is wrong.
        return {}
    found = {}
    for path, one in declared().items():
        if settings:
            table = getattr(settings, one.section) if one.section else settings
            found[path] = default_in_words(one, getattr(table, one.key))
        elif one.key in (table := given.get(one.section, {}) if one.section else given):
            found[path] = default_in_words(one, table[one.key])
    return found
