"""Where the papers' text, their published code and this tool differ: the settings of each preset, with their sources.

Numbers that the papers give by task (batches, epochs, rates, top-k, budgets) are those of the setting `paper` in every
preset. What differs and is no setting is listed in `docs/fidelity.md`, which is made from this table, too.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from perpcs_cli.artifacts.settings import Paper, Preset

DEBERTA = "microsoft/deberta-v3-large"
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")


class Stated(NamedTuple):
    """A setting that a source states: its path, its value, where it stands, and whose it is where it is one's alone."""

    path: str
    value: Any
    source: str
    paper: Paper | None = None


_APPENDIX = "Per-PCs, appendix on hyperparameters"
_CODE_SCHEDULE = "both: util/lr_sched.py, adjust_learning_rate"
_CODE_SHAPE = "both: llama/model.py, ModelArgs"
_CODE_LAYER = "both: llama/model.py, LoraInjectedLinear.forward"
_CODE_PROFILE = "both: gen_profile.py"
_CODE_ANSWERS = "both: lora_composition.py"

PRESETS: dict[Preset, tuple[Stated, ...]] = {
    "perpcs": (),
    "paper": (
        Stated("lora.rank", 8, _APPENDIX),
        Stated("lora.alpha", 8.0, _APPENDIX),
        Stated("lora.dropout", 0.05, _APPENDIX),
        Stated("lora.targets", TARGETS, _APPENDIX),
        Stated("assemble.aggregate", "attention", "Per-PCs, equation 6"),
        Stated("assemble.scoring", "paper", "Per-PCs, equations 4 and 5"),
        Stated("assemble.merge", "product", "Per-PCs, section 3.3: ΔW = Σ w B A"),
        Stated("embed.encoder", DEBERTA, "both papers, experimental set-up"),
        Stated("prime.alpha", (0.0,), "PriME, Table 1"),
        Stated("prime.bounds", (-1.5, 1.5), "PriME, the search's set-up"),
        Stated("prime.merge", "product", "PriME, the merged model: ΔW = Σ w B A"),
        Stated("prime.metric", "sum", "PriME, the objective"),
        Stated("prime.optimizer", "cma", "PriME, the search's set-up"),
        Stated("prime.ties", "base", "PriME, the search's end: the base where no candidate beats it"),
    ),
    "published-code": (
        Stated("max_length", 3000, "both: task_LoRA.py and train_anchor_PEFT.py, --max_seq_len"),
        Stated("white_space", "collapsed", "both: utils.py, get_first_k_tokens"),
        Stated("lora.rank", 8, _CODE_SHAPE),
        Stated("lora.alpha", 8.0, _CODE_SHAPE),
        Stated("lora.dropout", 0.05, _CODE_SHAPE),
        Stated("lora.init", "own", "both: train_anchor_PEFT.py, main, by reset_lora_parameters for each user"),
        Stated("lora.targets", TARGETS, _CODE_SHAPE),
        Stated("adapt.schedule", "cosine", _CODE_SCHEDULE),
        Stated("adapt.warmup", 0.0, "both: task_LoRA.py, --warmup_epochs"),
        Stated("adapt.weight_decay", 0.01, "both: task_LoRA.py, --weight_decay"),
        Stated("adapt.clip", 0.3, "both: task_LoRA.py, --clip"),
        Stated("train.schedule", "cosine", _CODE_SCHEDULE),
        Stated("train.warmup", 0.0, "both: train_anchor_PEFT.py, --warmup_epochs"),
        Stated("train.weight_decay", 0.01, "both: train_anchor_PEFT.py, --weight_decay"),
        Stated("train.clip", 0.3, "Per-PCs: train_anchor_PEFT.py, --clip", "per-pcs"),
        Stated("train.clip", 1.0, "PriME: train_anchor_PEFT.py, --clip", "prime"),
        Stated("gate.schedule", "cosine", _CODE_SCHEDULE),
        Stated("gate.warmup", 0.0, "both: train_anchor_gate.py, --warmup_epochs"),
        Stated("gate.weight_decay", 0.0, "both: train_anchor_gate.py, --weight_decay"),
        Stated("gate.clip", 0.3, "both: train_anchor_gate.py, --clip"),
        Stated("gate.dropout", 0.05, f"{_CODE_LAYER}, in train mode by engine_finetuning.py, train_one_epoch"),
        Stated("assemble.recent", 2000, "both: README, --recent_k of lora_composition.py"),
        Stated("assemble.shuffle", True, "both: llama/model.py, get_new_lora, by torch.randperm"),
        Stated("assemble.keep_k", True, _CODE_LAYER),
        Stated("assemble.sample_from", 10, "both: lora_composition.py, --sample_topk"),
        Stated("assemble.aggregate", "attention", _CODE_LAYER),
        Stated("assemble.scoring", "published", _CODE_LAYER),
        Stated("assemble.merge", "factor", _CODE_LAYER),
        Stated("assemble.temperature", 1.0, "both: lora_composition.py, --agg_temperature"),
        Stated("embed.encoder", DEBERTA, "Per-PCs: anchor_selection/history_anchor.py"),
        Stated("embed.max_length", 512, "Per-PCs: anchor_selection/history_anchor.py"),
        Stated("select.kmeans_seed", 0, "both: history_anchor.py, KMeans"),
        Stated("profile.random_items", 10, f"{_CODE_PROFILE}, --k"),
        Stated("profile.max_new_tokens", 300, _CODE_PROFILE),
        Stated("profile.chat", False, f"{_CODE_PROFILE}, which has no chat template"),
        Stated("profile.temperature", 0.6, _CODE_PROFILE),
        Stated("profile.top_p", 0.9, _CODE_PROFILE),
        Stated("profile.top_k", 10, _CODE_PROFILE),
        Stated("prime.alpha", (0.0,), "PriME: lora_composition_evo.py, --sim_penalty"),
        Stated("prime.bounds", (-1.5, 1.5), "PriME: lora_composition_evo.py, merge_user_loras"),
        Stated("prime.sigma", 0.5, "PriME: nevergrad 1.0.1, p.Array: a sixth of the bounds' range"),
        Stated("prime.merge", "factor", "PriME: llama/model.py, get_weighted_lora"),
        Stated("prime.metric", "sum", "PriME: lora_composition_evo.py, --m_reduce"),
        Stated("prime.optimizer", "nevergrad-cma", "PriME: README, --opt_type cma; nevergrad 1.0.1, CMA with bounds"),
        Stated("prime.prompts", "both", "PriME: data_utils.py, process_profile"),
        Stated("prime.ties", "candidate", "PriME: lora_composition_evo.py, main"),
        Stated("prime.recent", 50, "PriME: lora_composition_evo.py, --recent_k"),
        # Per-PCs' own, 10, is movie tagging's, whose longest answer is as long in every preset.
        Stated("predict.max_new_tokens", 100, "PriME: lora_composition_evo.py, --max_gen_len", "prime"),
        Stated("predict.temperature", 0.1, f"{_CODE_ANSWERS}, --temperature"),
        Stated("predict.top_p", 0.9, f"{_CODE_ANSWERS}, --top_p"),
        Stated("mia.prompts", "both", "PriME: mia.py, by process_profile of data_utils.py"),
        Stated("mia.recent", 50, "PriME: mia.py, --recent_k"),
    ),
}
"""What each preset states; the settings that it does not name are this tool's defaults."""


def preset_settings(preset: Preset, paper: Paper) -> dict[str, Any]:
    """The settings layer of a preset, for one paper's experiments. One that is unknown states nothing."""
    layer: dict[str, Any] = {}
    for path, value, _, only in PRESETS.get(preset, ()):
        if only in (None, paper):
            section, _, key = path.rpartition(".")
            (layer.setdefault(section, {}) if section else layer)[key] = value
    return layer
