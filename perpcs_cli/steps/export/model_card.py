"""The model card of an export, as hubs show it: what it is, how to load it, what is in it and what it gives away."""

from __future__ import annotations

import json
import re

from perpcs_cli.artifacts.exported import Exported
from perpcs_cli.artifacts.privacy import RELATION, spoken
from perpcs_cli.model.loading.catalogue import CATALOGUE

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's --max-lora-rank may be (`MaxLoRARanks` in its `vllm/config/lora.py`, version 0.27)."""
METHODS = {
    "per-pcs": "Per-PCs: pieces of sharers' LoRAs, chosen for each linear layer by gate scores",
    "prime": "PriME: sharers' LoRAs, weighted by an evolution strategy on the user's history",
    "retrieve": "PEFT retrieval: the most similar sharers' LoRAs, by the softmax of the similarities",
    "uniform": "the most similar sharers' LoRAs, with equal weights",
    "single": "the most similar sharer's LoRA",
}


def model_card(told: Exported, *, task_adapter: str, gguf: str) -> str:
    """README.md. `task_adapter`: the digest of the one that must be loaded first, or nothing; `gguf`: a file's name."""
    head = [
        f"base_model: {_yaml(told.model)}",
        f"base_model_relation: {'adapter' if told.form == 'adapter' else 'finetune'}",
    ]
    head += [f"library_name: {'peft' if told.form == 'adapter' else 'transformers'}"]
    head += [f"license: {_yaml(told.license)}"] if told.license else []
    parts = [
        "\n".join(["---", *head, "pipeline_tag: text-generation", "tags:", "- lora", "- perpcs", "---"]),
        f"# A personal {'adapter' if told.form == 'adapter' else 'model'}",
        _what(told),
        "## Use",
        *_use(told, task_adapter, gguf),
        "## What is in it",
        _sharers(told),
        "## How exact it is",
        _exactness(told),
        "## Privacy",
        _privacy(told),
        "## Licence",
        _licence(told),
    ]
    return "\n\n".join(parts) + "\n"


def max_lora_rank(rank: int) -> int | None:
    """The least --max-lora-rank with which vLLM takes an adapter of this rank; None where it takes none so large."""
    return next((one for one in VLLM_RANKS if one >= rank), None)


def _what(told: Exported) -> str:
    merge = "ΔW = Σ w B A" if told.merge == "product" else "ΔW = (Σ w B)(Σ w A)"
    form = (
        f"A PEFT LoRA of rank {told.rank}, scale 1," if told.form == "adapter" else "Full weights, with everything in,"
    )
    return f"{form} for `{told.model}`. Made by {METHODS[told.method]}; {merge}. Exported by {told.provenance.tool}."


def _use(told: Exported, task_adapter: str, gguf: str) -> list[str]:
    if told.form == "merged":
        code = 'AutoModelForCausalLM.from_pretrained("DIRECTORY")'
        parts = [f"```python\nfrom transformers import AutoModelForCausalLM\n\nmodel = {code}\n```"]
    else:
        load = f'model = AutoModelForCausalLM.from_pretrained("{told.model}")'
        lines = ["from peft import PeftModel", "from transformers import AutoModelForCausalLM", "", load]
        if told.task_adapter == "named":
            lines.append('model = PeftModel.from_pretrained(model, "TASK-ADAPTER").merge_and_unload()')
        parts = ["\n".join(["```python", *lines, 'model = PeftModel.from_pretrained(model, "DIRECTORY")', "```"])]
        if told.task_adapter == "named":
            parts.append(
                f"It stands upon the task adapter with the digest `{task_adapter}`, which must be in the base's "
                "weights first: without it, this is another model."
            )
        elif told.task_adapter == "folded in":
            parts.append("The task adapter is part of it: load it on the plain base.")
        least = max_lora_rank(told.rank or 1)
        parts.append(
            f"In vLLM: `--enable-lora --max-lora-rank {least}`."
            if least
            else f"vLLM takes no rank above {VLLM_RANKS[-1]}; export it with `--max-rank {VLLM_RANKS[-1]}`."
        )
    if gguf:
        parts.append(
            f"`{gguf}` is the same for llama.cpp, as its own converter wrote it; its logits were not compared."
        )
    return parts


def _sharers(told: Exported) -> str:
    if not told.sharers:
        return "Nobody's pieces: the recipe is the base model."
    rows = [f"| {_cell(name)} | {part.weight:.4f} | {spoken(part.privacy)} |" for name, part in told.sharers.items()]
    head = ["The weight is the mean over the linear layers.", "", "| sharer | weight | differential privacy |"]
    return "\n".join([*head, "|---|---|---|", *rows])


def _exactness(told: Exported) -> str:
    seen = told.compared
    lines = [
        f"On {seen.prompts} prompts, in {seen.dtype}, the logits differ from the recipe's by at most "
        f"{seen.difference:.2g}; the largest logit is {seen.largest:.3g}."
    ]
    if told.errors:
        lines += [
            "",
            f"The rank was lowered to {told.rank} by singular values. Relative error of the update by Frobenius norm: "
            f"{told.worst:.4f} at most, {told.mean:.4f} in the mean of the linear layers.",
            "",
            "| linear layer | error |",
            "|---|---|",
            *(f"| `{module}` | {error:.4f} |" for module, error in told.errors.items()),
        ]
    return "\n".join(lines)


def _privacy(told: Exported) -> str:
    bare = [name for name, part in told.sharers.items() if not part.privacy]
    lines = ["It was made from the history of the user whom it is for, and for this no guarantee is given."]
    if told.task_adapter == "folded in":
        lines.append("Nor is one for the users on whose data the task adapter was trained.")
    if bare:
        whose = "The sharers'" if len(bare) == len(told.sharers) else f"{len(bare)} of {len(told.sharers)} sharers'"
        lines.append(
            f"{whose} pieces carry no guarantee of differential privacy: it may give away what those users' histories "
            "hold."
        )
    if len(bare) < len(told.sharers):
        lines.append(
            "Where the table gives (epsilon, delta), it holds of this file as it does of the sharer's pieces, of which "
            f"it is computed: {RELATION}."
        )
    return " ".join(lines)


def _yaml(text: str) -> str:
    """A text that remains one value, whatever is in it."""
    return text if re.fullmatch(r"[A-Za-z][A-Za-z0-9./_-]*", text) else json.dumps(text)


def _cell(name: str) -> str:
    """An id that remains one cell: ids come from others."""
    return "`" + name.replace("`", "'").replace("|", "\\|") + "`"


def _licence(told: Exported) -> str:
    base = next((one.licence for one in CATALOGUE.values() if one.hub == told.model), "")
    own = f"{told.license}." if told.license else "Not stated."
    return f"{own} The base model's own licence{f', {base},' if base else ''} applies to what is made of it."
