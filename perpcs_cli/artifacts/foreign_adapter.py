"""A LoRA that was trained elsewhere, as PEFT saved it: what a plain one is, and the same as an adapter of one rank.

What decides what a LoRA computes is checked by name: an unknown setting is refused, for it might change the result.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from perpcs_cli.artifacts.adapter import CONFIG, PREFIX, AdapterConfig, find_weights
from perpcs_cli.artifacts.io import tensors, typed_files
from perpcs_cli.artifacts.io.limits import RANK
from perpcs_cli.errors import DataError, shortened

if TYPE_CHECKING:
    from torch import Tensor

UNSUPPORTED = {
    "use_dora": "DoRA (use_dora)",
    "lora_bias": "a bias of lora_B (lora_bias)",
    "modules_to_save": "layers that were trained whole (modules_to_save)",
    "trainable_token_indices": "trained tokens (trainable_token_indices)",
    "target_parameters": "LoRA on parameters (target_parameters)",
    "layer_replication": "replicated layers (layer_replication)",
    "alora_invocation_tokens": "activated LoRA (alora_invocation_tokens)",
    "use_qalora": "QA-LoRA (use_qalora)",
    "use_bdlora": "block-diagonal LoRA (use_bdlora)",
    "velora_config": "VeLoRA (velora_config)",
    "monteclora_config": "MonteCLoRA (monteclora_config)",
    "arrow_config": "Arrow (arrow_config)",
    "kasa_config": "KaSA (kasa_config)",
}
"""Keys of PEFT's configuration that make more of a LoRA than w · B A, where they are set."""
BASE_CHANGED = ("pissa", "olora", "loftq", "corda", "lora_ga")
"""Starts of `init_lora_weights` that presuppose that the base's own weights were changed when training began."""
NEUTRAL = {
    *("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "r", "target_modules", "exclude_modules", "lora_alpha", "lora_dropout", "fan_in_fan_out"),
    *("bias", "use_rslora", "init_lora_weights", "layers_to_transform", "layers_pattern", "rank_pattern"),
    *("alpha_pattern", "megatron_config", "megatron_core", "loftq_config", "eva_config", "corda_config"),
    *("lora_ga_config", "qalora_group_size", "runtime_config", "ensure_weight_tying"),
}
"""Keys that are read, or that say nothing of what the saved tensors compute on a plain linear layer.

`fan_in_fan_out` is one of these: PEFT takes it back on a linear layer, and perpcs has pieces on no others."""


@dataclass(frozen=True)
class ForeignAdapter:
    """An opened adapter of somebody else's. `factors` reads one linear layer's; nothing else is loaded."""

    path: Path
    config: AdapterConfig
    file: tensors.TensorFile
    keys: dict[str, tuple[str, str]]
    """Linear layer, as the file calls it → the tensors of A and B."""

    @property
    def rank(self) -> int:
        """The largest of its pieces."""
        return max(self.shapes[module][0] for module in self.keys)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, int, int]]:
        """Linear layer → (r, d, n), from the file's header. Raises DataError where PEFT would not load a piece."""
        found = {}
        for module, pair in self.keys.items():
            a, b = map(self.file.shape, pair)
            rank = int(_by_pattern(self.config.rank_pattern, module, self.config.r))
            if len(a) != 2 or len(b) != 2:
                what = f"the piece of {module!r} has shapes {a} and {b}: LoRA on convolutions is not supported"
                raise DataError(what, where=self.file.path)
            if a[0] != rank or b[1] != rank:
                what = f"the piece of {module!r} has shapes {a} and {b}, and its rank is {rank} by {CONFIG}"
                raise DataError(what, where=self.file.path)
            found[module] = (rank, b[0], a[1])
        return found

    def scale(self, module: str) -> float:
        """What B A of one linear layer is multiplied by: alpha / r, or alpha / √r where it is rank-stabilized."""
        rank, _, _ = self.shapes[module]
        alpha = _by_pattern(self.config.alpha_pattern, module, self.config.lora_alpha)
        return alpha / (math.sqrt(rank) if self.config.use_rslora else rank)

    def fit(self, layers: Mapping[str, tuple[int, int]]) -> dict[str, str]:
        """The linear layer in the file for each of the model's `layers`, with their (d, n), that has a piece there.

        A name that is the end of another is the same layer: some models are saved with a prefix. Raises DataError for
        a piece that is for none of them, or for one of another shape.
        """
        found: dict[str, str] = {}
        for module, (_, d, n) in self.shapes.items():
            ends = [one for one in layers if one.endswith(f".{module}") or module.endswith(f".{one}")]
            (target,) = (module,) if module in layers else ends if len(ends) == 1 else ("",)
            if not target or target in found:
                raise DataError(
                    f"the adapter changes {module!r}, which is not among the model's target layers",
                    where=self.path,
                    hint="Check --model, and set lora.targets in perpcs.toml to all target modules of the adapters.",
                )
            if layers[target] != (d, n):
                rows, columns = layers[target]
                raise DataError(
                    f"the piece of {module!r} is for a {d} × {n} layer, and the model's is {rows} × {columns}",
                    where=self.path,
                    hint="It was trained on another base. Check --model.",
                )
            found[target] = module
        return found

    def as_pieces(self, layers: Mapping[str, tuple[int, int]]) -> tuple[dict[str, tuple[Tensor, Tensor]], float]:
        """(linear layer → (A [r, n], B [d, r]), the scale of all): the same update on the model's `layers`.

        r is its largest rank. Smaller ones are filled with zeros, and layers without a piece get one of zeros. Where
        the scales differ they are multiplied into B, in float32. Raises what `fit` and reading raise.
        """
        import torch
        from torch.nn.functional import pad

        fitting, rank = self.fit(layers), self.rank
        scales = {self.scale(module) for module in fitting.values()}
        common = scales.pop() if len(scales) == 1 else None
        found = {}
        for target, (d, n) in layers.items():
            module = fitting.get(target)
            if module is None:
                found[target] = (torch.zeros(rank, n), torch.zeros(d, rank))
                continue
            a, b = map(self.file.read, self.keys[module])
            if common is None:
                b = (b.double() * self.scale(module)).float()
            missing = rank - len(a)
            found[target] = (pad(a, (0, 0, 0, missing)), pad(b, (0, missing)))
        return found, 1.0 if common is None else common


def open_foreign_adapter(path: Path) -> ForeignAdapter:
    """Open a PEFT directory of a plain LoRA, of one rank or of several.

    Raises DataError where it is missing, pickled, broken, or more than a plain LoRA, and says which part.
    """
    weights = find_weights(path)
    told = typed_files.read_json(path / CONFIG, dict[str, Any])
    refused = [words for key, words in UNSUPPORTED.items() if told.get(key)]
    kind, bias, start = (told.get(key) for key in ("peft_type", "bias", "init_lora_weights"))
    refused += [f"another method than LoRA (peft_type {kind!r})"] if kind not in ("LORA", None) else []
    refused += [f"trained biases (bias {bias!r})"] if bias not in ("none", None) else []
    if isinstance(start, str) and start.startswith(BASE_CHANGED):
        refused.append(
            f"a start that changed the base's own weights (init_lora_weights {start!r}; PEFT can convert it when it "
            "saves: path_initial_model_for_weight_conversion)"
        )
    known = NEUTRAL | UNSUPPORTED.keys()
    refused += [f"a setting that perpcs does not know ({key})" for key, one in told.items() if one and key not in known]
    if refused:
        raise DataError(f"not a plain LoRA; not supported: {shortened(refused)}", where=path / CONFIG)
    if told.get("target_modules") is None:
        # The tensors say which layers have pieces.
        told["target_modules"] = []
    try:
        config = msgspec.convert({key: one for key, one in told.items() if one is not None}, AdapterConfig)
    except msgspec.ValidationError as error:
        raise DataError(f"AdapterConfig does not have the expected fields: {error}", where=path / CONFIG) from None
    _check_numbers(config, path / CONFIG)
    file = tensors.open_tensors(weights)
    return ForeignAdapter(path, config, file, _pairs(file))


def _check_numbers(config: AdapterConfig, where: Path) -> None:
    """Raise DataError for patterns that are not plain names, and for ranks and alphas that no LoRA has."""
    for name, pattern in (("rank_pattern", config.rank_pattern), ("alpha_pattern", config.alpha_pattern)):
        if odd := [key for key in pattern if not re.fullmatch(r"\^?[A-Za-z0-9_.]{1,500}", key)]:
            # One of a stranger's could take longer than anybody's life.
            what = f"{name} has {odd[0][:60]!r}, a regular expression; only names of layers are supported"
            raise DataError(what, where=where)
    for rank in config.rank_pattern.values():
        if not isinstance(rank, int) or not 1 <= rank <= RANK:
            raise DataError(f"rank_pattern has the rank {str(rank)[:20]}; 1 to {RANK} can be", where=where)
    for alpha in (config.lora_alpha, *config.alpha_pattern.values()):
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < abs(alpha) < 1e9:
            raise DataError(f"the alpha {str(alpha)[:20]} is no number that a LoRA could be scaled with", where=where)


def _by_pattern(pattern: Mapping[str, float], module: str, default: float) -> float:
    """What the first fitting key says of a linear layer: its name or the end of it, with `^` its whole name."""
    for key, value in pattern.items():
        if module == key.removeprefix("^") or (key[0] != "^" and module.endswith(f".{key}")):
            return value
    return default


def _pairs(file: tensors.TensorFile) -> dict[str, tuple[str, str]]:
    """Linear layer → the names of its A and B. Raises DataError for tensors of anything else, and for lone ones."""
    found: dict[str, dict[str, str]] = {}
    for key in file.keys:
        module, _, rest = key.removeprefix(PREFIX).rpartition(".lora_")
        # In training PEFT's tensors bear the adapter's name, and some tools save them so.
        if not module or not re.fullmatch(r"[AB](\.[^.]+)?\.weight", rest):
            odd = next((one for one in file.keys if "lora_embedding" in one), key)
            raise DataError(f"not a plain LoRA; not supported: {_what(odd)} (tensor {odd!r})", where=file.path)
        side, sides = rest[0], found.setdefault(module, {})
        if side in sides:
            raise DataError(f"holds two adapters: {sides[side]!r} and {key!r}", where=file.path, hint="Save one alone.")
        sides[side] = key
    if lone := [module for module, sides in found.items() if len(sides) < 2]:
        raise DataError(f"missing tensors: A or B of {lone[0]!r}", where=file.path)
    if not found:
        raise DataError("holds no tensors", where=file.path)
    return {module: (found[module]["A"], found[module]["B"]) for module in sorted(found, key=tensors.natural)}


def _what(key: str) -> str:
    """What a tensor that is neither A nor B belongs to, in words."""
    if "lora_embedding" in key:
        return "LoRA on embeddings"
    if "lora_magnitude" in key:
        return "DoRA"
    return "a trained bias" if key.endswith("bias") else "weights beside A and B"
