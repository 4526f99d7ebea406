"""A LoRA in PEFT's own layout: `adapter_model.safetensors` and `adapter_config.json`; pieces are read one by one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from perpcs_cli.artifacts.io import hashing, tensors, typed_files
from perpcs_cli.artifacts.io.limits import RANK, Count
from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.privacy import Guarantee
from perpcs_cli.artifacts.users import Division, User, held_out, newest
from perpcs_cli.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
CARD = "sharer.json"
PREFIX = "base_model.model."


class AdapterConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of PEFT's `adapter_config.json` that decide what a LoRA computes; others are ignored."""

    r: Annotated[int, msgspec.Meta(ge=1, le=RANK)]
    lora_alpha: float
    target_modules: list[str] | str
    base_model_name_or_path: str | None = None
    peft_type: str = "LORA"
    task_type: str | None = "CAUSAL_LM"
    bias: str = "none"
    lora_dropout: float = 0.0
    use_rslora: bool = False
    use_dora: bool = False
    fan_in_fan_out: bool = False
    inference_mode: bool = True
    modules_to_save: list[str] | None = None
    layers_to_transform: list[int] | int | None = None
    rank_pattern: dict[str, Any] = {}
    alpha_pattern: dict[str, Any] = {}
    init_lora_weights: Any = True
    alora_invocation_tokens: list[int] | None = None
    use_qalora: bool = False

    @property
    def scale(self) -> float:
        """alpha / r, or alpha / √r with rank-stabilized LoRA."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)


Unknown = Literal["training data", "settings", "seed", "privacy"]


class Adopted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an adapter that was trained elsewhere came with. Whatever it was trained on, and how, nothing says it."""

    base: str
    """The base that its configuration names; empty where it names none. Nothing but names and shapes was compared."""
    rank: Annotated[int, msgspec.Meta(ge=1, le=RANK)]
    """The largest of its pieces."""
    pieces: Count
    """How many linear layers it changes; the others of this base's target layers have pieces of zeros."""
    unknown: tuple[Unknown, ...]


class Card(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="format", tag="perpcs.sharer/3"
):
    """`sharer.json`: how an adapter was trained. It is the last file written: where it is, training has ended.

    Of one that was trained elsewhere nothing is known but what `adopted` says. With a guarantee of privacy, what
    depends on the data and was not noised (losses, count of tokens) is left out.
    """

    user_id: str
    examples: Count | None
    steps: Count | None
    """None where the adapter was trained elsewhere."""
    tokens: Count | None = None
    """Answer tokens in the training examples, which is what the loss is computed on."""
    first_loss: float | None = None
    last_loss: float | None = None
    """Mean loss per answer token over the first and the last tenth of the steps."""
    digest: str
    """SHA-256 of the weights."""
    scale: float
    """Of `adapter_config.json`, which another alpha would change without a change of the weights."""
    privacy: Guarantee | None = None
    """What the adapter alone guarantees, if it was trained with differential privacy."""
    adopted: Adopted | msgspec.UnsetType = msgspec.UNSET
    """Where it was trained elsewhere."""
    provenance: Provenance


@dataclass(frozen=True)
class Adapter:
    """An opened adapter. `piece` reads one linear layer's factors, which `check` may refuse; nothing else is loaded."""

    path: Path
    config: AdapterConfig
    card: Card | None
    file: tensors.TensorFile
    check: Callable[[str, Tensor, Tensor], None] | None = field(default=None, compare=False)

    @property
    def base(self) -> str:
        """Fingerprint of the base that it was trained on; empty where it does not say."""
        return self.card.provenance.base if self.card else ""

    @property
    def user_id(self) -> str:
        """The user whose adapter it is."""
        return self.card.user_id if self.card else self.path.name

    @cached_property
    def modules(self) -> list[str]:
        """The names of the linear layers it changes."""
        names = {key.removeprefix(PREFIX).rsplit(".lora_", 1)[0] for key in self.file.keys}
        return sorted(names, key=tensors.natural)

    @property
    def scale(self) -> float:
        """What B A is multiplied by."""
        return self.config.scale

    def piece(self, module: str) -> tuple[Tensor, Tensor]:
        """(A [r, n], B [d, r]) of one linear layer, as stored, without the scale."""
        a, b = map(self.file.read, names_of(module))
        self.shape(module)
        if self.check:
            self.check(module, a, b)
        return a, b

    def shape(self, module: str) -> tuple[int, int]:
        """(d, n) of one linear layer, from the file's header. Raises DataError where A and B are no pair."""
        a, b = map(self.file.shape, names_of(module))
        if len(a) != 2 or len(b) != 2 or a[0] != self.config.r or b[1] != self.config.r:
            raise DataError(
                f"the piece of {module!r} has shapes {a} and {b}, not rank {self.config.r}", where=self.file.path
            )
        return b[0], a[1]

    def digest_weights(self) -> str:
        """SHA-256 of the weights. Raises DataError where they are not the ones that training wrote."""
        digest = hashing.digest_file(self.file.path)
        self.check_digest(digest)
        return digest

    def check_digest(self, digest: str) -> None:
        """Raise DataError where `digest`, that of the weights, is not of the ones that training wrote."""
        if self.card and digest != self.card.digest:
            hint = "Train again with --force."
            raise DataError("the weights have changed since they were trained", where=self.file.path, hint=hint)

    def digest(self) -> str:
        """SHA-256 of the weights and of what the configuration makes of them."""
        return hashing.digest_value([self.digest_weights(), self.scale])

    def is_source_of(self, copy: Adapter) -> bool:
        """Whether a copy of some of the pieces was made of this adapter; its first piece tells."""
        module = copy.modules[0]
        if module not in self.modules:
            return False
        return all(x.float().equal(y.float()) for x, y in zip(copy.piece(module), self.piece(module), strict=True))

    def check_base(self, base: str) -> None:
        """Raise DataError where it was trained on another base than the one with the fingerprint `base`."""
        if self.base and self.base != base:
            raise DataError(
                "the adapter was trained on another base model or task adapter",
                where=self.path,
                hint="Check --model and --task-adapter.",
            )

    def check_layers(self, layers: Mapping[str, tuple[int, int]]) -> None:
        """Raise DataError where it changes other linear layers than `layers`, the model's target layers with (d, n)."""
        for module in self.modules:
            if module not in layers:
                raise DataError(
                    f"the adapter changes {module!r}, which is not among the model's target layers",
                    where=self.path,
                    hint="Check --model, and set lora.targets in perpcs.toml to the adapter's target modules.",
                )
            if self.shape(module) != layers[module]:
                (d, n), (rows, columns) = self.shape(module), layers[module]
                raise DataError(
                    f"the piece of {module!r} is for a {d} × {n} layer, and the model's is {rows} × {columns}",
                    where=self.path,
                    hint="Check --model.",
                )

    def check_fits(self, base: str, layers: Mapping[str, tuple[int, int]]) -> None:
        """Both."""
        self.check_base(base)
        self.check_layers(layers)


def names_of(module: str) -> tuple[str, str]:
    """What a linear layer's A and B are called in the file."""
    return f"{PREFIX}{module}.lora_A.weight", f"{PREFIX}{module}.lora_B.weight"


def find_weights(path: Path) -> Path:
    """The weights in a PEFT directory. Raises DataError where there are none, or only pickled ones."""
    if (path / WEIGHTS).exists():
        return path / WEIGHTS
    pickled = [p.name for p in path.glob("*") if p.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl")]
    if pickled:
        raise DataError(
            f"{pickled[0]} is a pickle, which can run code when it is loaded; it was not opened",
            where=path,
            hint=f"Convert the adapter to {WEIGHTS} with PEFT, on a machine where you trust the file.",
        )
    raise DataError(f"holds no {WEIGHTS}", where=path, hint="`perpcs train-sharer` and `perpcs adapt` write it.")


def open_adapter(path: Path) -> Adapter:
    """Open a PEFT LoRA directory.

    Raises DataError where it is missing, pickled, broken, not a plain LoRA, or has tensors beyond A and B.
    """
    weights = find_weights(path)
    config = typed_files.read_json(path / CONFIG, AdapterConfig)
    refused = {
        "peft_type": config.peft_type != "LORA",
        "use_dora": config.use_dora,
        "bias": config.bias != "none",
        "fan_in_fan_out": config.fan_in_fan_out,
        "modules_to_save": bool(config.modules_to_save),
        "rank_pattern": bool(config.rank_pattern),
        "alpha_pattern": bool(config.alpha_pattern),
        # These presuppose that the base's own weights were changed when training began.
        "init_lora_weights": isinstance(config.init_lora_weights, str)
        and config.init_lora_weights.startswith(("pissa", "olora", "loftq", "corda", "lora_ga")),
        "alora_invocation_tokens": bool(config.alora_invocation_tokens),
        "use_qalora": config.use_qalora,
    }
    if any(refused.values()):
        names = ", ".join(name for name, bad in refused.items() if bad)
        hint = "`perpcs adopt` makes a sharer of one rank of it." if names.endswith("_pattern") else None
        raise DataError(f"not a plain LoRA of one rank: {names}", where=path / CONFIG, hint=hint)
    file = tensors.open_tensors(weights)
    pairs: dict[str, set[str]] = {}
    for key in file.keys:
        module, _, rest = key.removeprefix(PREFIX).rpartition(".lora_")
        if not key.startswith(PREFIX) or rest not in ("A.weight", "B.weight"):
            raise DataError(f"unexpected tensor {key!r}: a LoRA has nothing but lora_A and lora_B", where=weights)
        pairs.setdefault(module, set()).add(rest)
    single = [module for module, sides in pairs.items() if len(sides) != 2]
    if single or not pairs:
        raise DataError(f"missing tensors: A or B of {single[0]!r}" if single else "holds no tensors", where=weights)
    card = typed_files.read_json(path / CARD, Card) if (path / CARD).exists() else None
    if card and card.scale != config.scale:
        raise DataError(
            f"the scale is {config.scale:g}, and it was trained with {card.scale:g}",
            where=path / CONFIG,
            hint="Restore r and lora_alpha, or train again with --force.",
        )
    return Adapter(path, config, card, file)


def divided(adapter: Adapter, user: User) -> tuple[User, User]:
    """The user with the history that the adapter may have seen, and with what `train-sharer --hold-out` kept away.

    Without --hold-out these are the whole history and nothing.
    """
    if not adapter.card:
        return held_out(user, 0.0, 0)
    origin = adapter.card.provenance
    try:
        told = msgspec.convert(origin.settings, Division)
    except msgspec.ValidationError as error:
        raise DataError(f"does not tell what it kept away: {error}", where=adapter.path / CARD) from None
    return held_out(newest(user, told.recent) if told.hold_out else user, told.hold_out, origin.seed)


def write_adapter(
    path: Path, pieces: dict[str, tuple[Tensor, Tensor]], config: AdapterConfig, peft_version: str
) -> str:
    """Write an adapter into an existing directory and return the SHA-256 of its weights.

    `pieces`: linear layer → (A [r, n], B [d, r]). The files hold nothing of the training text.
    """
    named = {name: one for module, pair in pieces.items() for name, one in zip(names_of(module), pair, strict=True)}
    tensors.write_tensors(path / WEIGHTS, named, {"format": "pt"})
    targets = config.target_modules
    ordered = targets if isinstance(targets, str) else sorted(targets)
    plain = msgspec.to_builtins(msgspec.structs.replace(config, target_modules=ordered))
    alpha = config.lora_alpha
    plain["lora_alpha"] = int(alpha) if float(alpha).is_integer() else alpha
    typed_files.write_json(path / CONFIG, {**plain, "peft_version": peft_version})
    return hashing.digest_file(path / WEIGHTS)
