"""`perpcs export`: what PEFT and transformers load is the recipe's model, and its card says what is in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from shell import DATA, RUNTIME, USAGE, Shell, refused
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from perpcs_cli.artifacts.adapter import open_adapter
from perpcs_cli.artifacts.pool import open_pool
from perpcs_cli.artifacts.recipe import read_recipe, unpack
from perpcs_cli.steps.export import compared_logits, export

IDS = torch.arange(5, 60)[None]
CONVERTER = """import pathlib, sys
out = sys.argv[sys.argv.index("--outfile") + 1]
pathlib.Path(out).write_text(" ".join(sys.argv[1:]))
"""


def plain_base(shell: Shell) -> Any:
    """The base without its task adapter."""
    return AutoModelForCausalLM.from_pretrained(shell.model, dtype=torch.float32).eval()


def add(model: Any, module: str, update: Tensor) -> None:
    """Change one linear layer of a model."""
    weight = model.get_submodule(module).weight
    weight.data = (weight.double() + update).float()


def of_recipe(shell: Shell, recipe: str, merge: str = "product", pool: str = "pool.json") -> Tensor:
    """The logits that the papers' formulas give: everything in full matrices."""
    model = plain_base(shell)
    task = open_adapter(shell.root / "task-adapter")
    for module in task.modules:
        a, b = (factor.double() for factor in task.piece(module))
        add(model, module, task.scale * b @ a)
    opened = open_pool(shell.root / pool)
    weights = unpack(read_recipe(shell.root / recipe, pool=opened.digest), opened.modules, where=recipe)
    for module, mix in weights.items():
        found = [(opened.adapter(opened.places[name]), weight) for name, weight in mix]
        pieces = [(*map(Tensor.double, one.piece(module)), one.scale, weight) for one, weight in found]
        if merge == "product":
            update = sum((w * s * b @ a for a, b, s, w in pieces), torch.zeros(1))
        else:
            update = sum(w * s * b for _, b, s, w in pieces) @ sum(w * a for a, _, _, w in pieces)
        add(model, module, update)
    with torch.inference_mode():
        return model(input_ids=IDS).logits


def by_peft(shell: Shell, place: str, *first: str) -> Tensor:
    """What PEFT alone makes of adapters, one upon the other."""
    model = plain_base(shell)
    for one in first:
        model = PeftModel.from_pretrained(model, str(shell.root / one)).merge_and_unload()
    with torch.inference_mode():
        return PeftModel.from_pretrained(model, str(shell.root / place)).eval()(input_ids=IDS).logits


def check_vllm(directory: Path, most: int) -> None:
    """What vLLM's PEFTHelper and its loader demand of an adapter's files."""
    config = json.loads((directory / "adapter_config.json").read_text())
    assert config["r"] <= most
    assert (config["bias"], config["use_dora"], config["modules_to_save"]) == ("none", False, None)
    assert config["rank_pattern"] == config["alpha_pattern"] == {}
    for key, tensor in load_file(directory / "adapter_model.safetensors").items():
        module, _, side = key.removeprefix("base_model.model.").rpartition(".lora_")
        assert key.startswith("base_model.model.model.layers.")
        assert module.rsplit(".", 1)[-1] in config["target_modules"]
        assert tensor.shape[0 if side == "A.weight" else 1] == config["r"]
        assert side in ("A.weight", "B.weight")


@pytest.fixture
def recipe(shell: Shell) -> str:
    """A recipe with weights for several sharers."""
    return f"recipes/{shell.ids('target')[0]}.json"


def test_an_adapter_is_the_recipe(shell: Shell, recipe: str) -> None:
    done = shell(f"export {recipe} -o out --license mit")
    assert done.exit_code == 0, done.stderr
    told = json.loads((shell.root / "out/export.json").read_text())
    assert f"out\trank {told['rank']}, exact\t" in done.stdout
    assert torch.allclose(by_peft(shell, "out"), of_recipe(shell, recipe), atol=1e-4)
    assert not torch.allclose(by_peft(shell, "out"), plain_base(shell)(input_ids=IDS).logits, atol=1e-2)
    check_vllm(shell.root / "out", 64)
    assert told["compared"]["difference"] <= 1e-4 * told["compared"]["largest"]
    assert (told["compared"]["prompts"], told["task_adapter"]) == (3, "folded in")
    card = (shell.root / "out/README.md").read_text()
    for words in (
        "\nlicense: mit\n",
        f"--max-lora-rank {next(one for one in (8, 16, 32, 64) if one >= told['rank'])}`",
        "load it on the plain base",
        "no guarantee of differential privacy",
        *(f"`{name}`" for name in told["sharers"]),
    ):
        assert words in card
    assert shell.ids("target")[0] not in card
    # perpcs itself runs it on the plain base.
    assert shell("predict --adapter out --task-adapter none --name out --max-new-tokens 8").exit_code == 0
    assert shell("predict --recipes recipes --max-new-tokens 8 --force").exit_code == 0
    answers = [
        [json.loads(line)["output"] for line in (shell.root / f"predictions/{name}.jsonl").read_text().splitlines()]
        for name in ("out", "per-pcs")
    ]
    assert answers[0][:2] == answers[1][:2]


def test_the_factor_merge_keeps_the_rank(shell: Shell, recipe: str) -> None:
    assert shell("assemble --plain --top-k 2 --merge factor --force").exit_code == 0
    assert shell(f"export {recipe} --name-task-adapter").exit_code == 0
    place = f"exports/per-pcs/{Path(recipe).stem}"
    assert json.loads((shell.root / place / "export.json").read_text())["rank"] == 8
    expected = of_recipe(shell, recipe, merge="factor")
    assert torch.allclose(by_peft(shell, place, "task-adapter"), expected, atol=1e-4)
    assert "It stands upon the task adapter with the digest" in (shell.root / place / "README.md").read_text()


def test_a_lower_rank_states_its_error(shell: Shell, recipe: str) -> None:
    done = shell(f"export {recipe} --max-rank 3 -o out --json")
    told = json.loads(done.stdout)
    assert told["rank"] == 3
    check_vllm(shell.root / "out", 8)
    exact = shell(f"export {recipe} --max-rank 4000 -o exact --json")
    assert json.loads(exact.stdout)["errors"] == {}
    pair = [open_adapter(shell.root / name) for name in ("out", "exact")]
    for module, error in told["errors"].items():
        near, whole = ((b.double() @ a.double()) for a, b in (one.piece(module) for one in pair))
        values = torch.linalg.svdvals(whole)
        assert error == pytest.approx(float((near - whole).norm() / whole.norm()), abs=1e-4)
        assert error == pytest.approx(float((values[3:].square().sum() / values.square().sum()).sqrt()), abs=1e-4)
    assert f"{max(told['errors'].values()):.4f} at most" in (shell.root / "out/README.md").read_text()


def test_full_weights(shell: Shell, recipe: str) -> None:
    done = shell(f"export {recipe} --merged -o out")
    assert done.exit_code == 0, done.stderr
    assert "out\tfull weights\t" in done.stdout
    model = AutoModelForCausalLM.from_pretrained(shell.root / "out", dtype=torch.float32).eval()
    with torch.inference_mode():
        found = model(input_ids=IDS).logits
    assert torch.allclose(found, of_recipe(shell, recipe), atol=1e-4)
    assert AutoTokenizer.from_pretrained(shell.root / "out")("a b")["input_ids"]
    assert shell("predict --base --model out --task-adapter none --name merged --max-new-tokens 4").exit_code == 0


def test_of_a_pool_of_pseudonyms_no_id_is_told(shell: Shell, recipe: str) -> None:
    assert shell("pool build --pseudonymize --force --out secret.json").exit_code == 0
    line = "assemble --plain --top-k 2 --pool secret.json --out hidden"
    assert shell(line).exit_code == 0
    done = shell(f"export {recipe.replace('recipes', 'hidden')} --pool secret.json -o out")
    assert done.exit_code == 0, done.stderr
    assert "names" not in done.stderr
    text = "".join((shell.root / "out" / name).read_text() for name in ("README.md", "export.json"))
    assert not [name for name in shell.ids("candidate") if name in text]
    assert "`s-" in text
    assert str(shell.model) not in text


def test_it_is_made_once_and_kept_whole(shell: Shell, recipe: str) -> None:
    line = f"export {recipe} -o out"
    assert shell(f"{line} --dry-run").stdout == "out\tto do\n"
    assert not (shell.root / "out").exists()
    assert shell(line).exit_code == 0
    before = shell.walk()
    assert "out is finished already" in shell(line).stderr
    assert shell.walk() == before
    assert "max_rank None -> 2" in refused(shell(f"{line} --max-rank 2"), DATA)
    with (shell.root / "out/adapter_model.safetensors").open("ab") as file:
        file.write(b" ")
    assert "has changed since it was exported" in refused(shell(line), DATA)
    assert shell(f"{line} --force").exit_code == 0
    (shell.root / "mine").mkdir()
    (shell.root / "mine/notes.txt").write_text("mine")
    assert refused(shell(f"export {recipe} -o mine"), USAGE).startswith("mine: already exists")


def test_other_logits_than_the_recipes_are_an_error(shell: Shell, recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    true, calls = compared_logits.logits, []

    def off(*arguments: Any) -> Iterator[Tensor]:
        calls.append(1)
        return (one + len(calls) for one in true(*arguments))

    monkeypatch.setattr(export, "logits", off)
    assert "gives other logits than the recipe, by 1 of" in refused(shell(f"export {recipe} -o out"), RUNTIME)
    assert not (shell.root / "out").exists()


def test_gguf_by_a_converter(shell: Shell, recipe: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    line = f"export {recipe} --gguf -o out"
    monkeypatch.setenv("PATH", str(tmp_path))
    message = refused(shell(line), USAGE)
    assert message.startswith("--gguf: llama.cpp's convert_lora_to_gguf.py is not on the PATH")
    assert "git clone https://github.com/ggml-org/llama.cpp" in message
    assert refused(shell(f"{line} --llama-cpp {tmp_path}"), USAGE).startswith(f"{tmp_path}: holds no convert_lora")
    for name in ("convert_lora_to_gguf.py", "convert_hf_to_gguf.py"):
        (tmp_path / name).write_text(CONVERTER)
    done = shell(f"{line} --llama-cpp {tmp_path}")
    assert done.exit_code == 0, done.stderr
    said = (shell.root / "out/adapter.gguf").read_text()
    assert said.endswith(f"--outtype f32 --base {shell.model}")
    assert "adapter.gguf" in json.loads((shell.root / "out/export.json").read_text())["files"]
    assert "`adapter.gguf` is the same for llama.cpp" in (shell.root / "out/README.md").read_text()
    assert shell(f"export {recipe} --gguf --merged -o full --llama-cpp {tmp_path}").exit_code == 0
    assert (shell.root / "full/model.gguf").read_text().endswith("--outtype f32")
    (tmp_path / "convert_lora_to_gguf.py").write_text("raise SystemExit('no such architecture')")
    message = refused(shell(f"{line} --force --llama-cpp {tmp_path}"), RUNTIME)
    assert "ended with 1 and said: no such architecture" in message
    assert (shell.root / "out/adapter.gguf").read_text() == said


def test_what_cannot_be(shell: Shell, recipe: str) -> None:
    for line, says, code in (
        (f"export {recipe} --merged --max-rank 3", "--max-rank: full weights have no rank", USAGE),
        (f"export {recipe} --merged --quantize 4bit", "--merged: nothing can be added to weights in 4 bits", USAGE),
        ("export recipes", "recipes: is a directory", USAGE),
        ("export nowhere.json", "nowhere.json: no such file", DATA),
        ("export pool.json", "pool.json: ", DATA),
        ("export users.jsonl", "users.jsonl: ", DATA),
        (f"export {recipe} --license a:b", "--license: 'a:b' is no licence's name", USAGE),
        (f"export {recipe} --llama-cpp .", "--llama-cpp: is for --gguf", USAGE),
        (f"export {recipe} --task-adapter none", "pool.json: the pool was built on another base", DATA),
    ):
        assert refused(shell(line), code).startswith(says), line


def test_a_recipe_that_adds_nothing(shell: Shell, recipe: str) -> None:
    told = json.loads((shell.root / recipe).read_text())
    (shell.root / "none.json").write_text(json.dumps({**told, "sharers": [], "weights": {"*": [[]]}}))
    refusal = refused(shell("export none.json --name-task-adapter -o out"), DATA)
    assert refusal.startswith("none.json: the recipe is the base model")
    assert shell("export none.json -o out").exit_code == 0
    assert torch.allclose(by_peft(shell, "out"), by_peft(shell, "task-adapter"), atol=1e-5)
    assert "Nobody's pieces" in (shell.root / "out/README.md").read_text()
