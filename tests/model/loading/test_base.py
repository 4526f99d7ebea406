"""Loading: fingerprints, the task adapter, and what is refused."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch
from helpers import GEMMA3_LAYERS, SHAPE, TARGETS, load_base, merged, random_rows, write_sharer
from safetensors.torch import load_file, save_file

from perpcs_cli.artifacts.adapter import CARD
from perpcs_cli.errors import DataError, PerpcsError, UsageError
from perpcs_cli.model.engine.batching import make_batch
from perpcs_cli.model.loading.base import find_targets, merge_adapter, with_task_adapter
from perpcs_cli.model.loading.identity import choose_device, fingerprint_model, identify
from perpcs_cli.model.loading.tokenizer_info import load_vocabulary
from perpcs_cli.model.packed.check import check_packed


def load(path, **options):
    return load_base(str(path), **{"targets": TARGETS, "device": "cpu", "dtype": "float32", **options})


@pytest.fixture
def copied(tiny_dir, tmp_path):
    """A copy of the tiny model that may be spoilt."""
    return shutil.copytree(tiny_dir, tmp_path / "model")


def test_targets_come_in_the_models_order(tiny):
    expected = [f"model.layers.{n}.self_attn.{p}" for n in range(2) for p in TARGETS]
    assert list(tiny.targets) == expected
    shapes = [tuple(layer.weight.shape) for layer in tiny.targets.values()]
    assert shapes == [(64, 64), (32, 64), (32, 64), (64, 64)] * 2


def test_what_a_base_knows(tiny, tiny_dir):
    assert (tiny.context, tiny.stop, tiny.pad) == (256, (1,), 0)
    assert tiny.describe() == {"model": str(tiny_dir), "dtype": "float32", "device": "cpu"}
    assert not tiny.model.training
    assert not any(parameter.requires_grad for parameter in tiny.model.parameters())


def test_all_end_of_sequence_tokens_stop(copied):
    settings = json.loads((copied / "generation_config.json").read_text())
    (copied / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": [7, 1, 9]}))
    assert load(copied).stop == (1, 7, 9)


def test_a_resaved_and_sharded_model_has_the_same_fingerprint(tiny, tmp_path):
    tiny.model.save_pretrained(tmp_path, max_shard_size="100KB")
    tiny.tokenizer.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert fingerprint_model(tmp_path) == tiny.fingerprint


def test_any_changed_tensor_changes_the_fingerprint(tiny, copied):
    tensors = load_file(copied / "model.safetensors")
    seen = {tiny.fingerprint}
    for name in ("model.embed_tokens.weight", "model.layers.1.self_attn.o_proj.weight", "model.norm.weight"):
        changed = {**tensors, name: tensors[name] + 1e-3}
        save_file(changed, copied / "model.safetensors", metadata={"format": "pt"})
        seen.add(fingerprint_model(copied))
    assert len(seen) == 4


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json"])
def test_configuration_and_tokenizer_change_the_fingerprint(tiny, copied, file):
    content = json.loads((copied / file).read_text())
    (copied / file).write_text(json.dumps({**content, "rms_norm_eps": 1e-3, "version": "1.1"}))
    assert fingerprint_model(copied) != tiny.fingerprint


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("generation_config.json", {"eos_token_id": [1, 7]}),
        ("tokenizer_config.json", {"add_bos_token": True}),
        ("tokenizer_config.json", {"chat_template": "{{ messages }}"}),
        ("tokenizer_config.json", {"do_lower_case": True}),
        ("special_tokens_map.json", {"eos_token": "<pad>"}),
        ("added_tokens.json", {"<more>": 400}),
    ],
)
def test_what_changes_prompts_and_their_ends_changes_the_fingerprint(tiny, copied, file, changes):
    before = json.loads((copied / file).read_text()) if (copied / file).exists() else {}
    (copied / file).write_text(json.dumps({**before, **changes}))
    assert fingerprint_model(copied) != tiny.fingerprint


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("generation_config.json", {"temperature": 0.3, "transformers_version": "4.0"}),
        ("tokenizer_config.json", {"name_or_path": "elsewhere", "is_local": True}),
    ],
)
def test_what_changes_no_result_does_not_change_it(tiny, copied, file, changes):
    before = json.loads((copied / file).read_text())
    (copied / file).write_text(json.dumps({**before, **changes}))
    assert fingerprint_model(copied) == tiny.fingerprint


def test_a_chat_template_is_the_same_in_either_place(tiny, copied):
    template = "{% for message in messages %}é{% endfor %}"
    (copied / "chat_template.jinja").write_text(template)
    beside = fingerprint_model(copied)
    (copied / "chat_template.jinja").unlink()
    before = json.loads((copied / "tokenizer_config.json").read_text())
    (copied / "tokenizer_config.json").write_text(json.dumps({**before, "chat_template": template}))
    assert fingerprint_model(copied) == beside != tiny.fingerprint


def test_the_task_adapter_is_merged(tiny, tiny_dir, tmp_path):
    pieces = write_sharer(tmp_path / "task", tiny, seed=3)
    adapted = load(tiny_dir, task_adapter=str(tmp_path / "task"))
    assert adapted.fingerprint != tiny.fingerprint
    assert adapted.fingerprint == load(tiny_dir, task_adapter=str(tmp_path / "task")).fingerprint
    inputs = make_batch(tiny, random_rows(tiny, [(10, 0)])).inputs()
    expected = merged(tiny, [pieces], {module: [(0, 1.0)] for module in tiny.targets})
    with torch.inference_mode():
        torch.testing.assert_close(adapted.model(**inputs).logits, expected.model(**inputs).logits)
        assert not torch.allclose(adapted.model(**inputs).logits, tiny.model(**inputs).logits, atol=0.1)


def test_a_base_with_and_one_without_the_task_adapter_share_weights(tiny, tiny_dir, tmp_path):
    write_sharer(tmp_path / "task", tiny, seed=3)
    plain = load(tiny_dir)
    before = {name: one.clone() for name, one in plain.model.state_dict().items()}
    identity = identify(str(tiny_dir), str(tmp_path / "task"), device="cpu", dtype="float32")
    adapted, alone = with_task_adapter(plain, identity), load(tiny_dir, task_adapter=str(tmp_path / "task"))
    assert adapted.fingerprint == alone.fingerprint
    assert [*adapted.targets] == [*alone.targets]
    for name, one in adapted.model.state_dict().items():
        assert torch.equal(one, alone.model.state_dict()[name]), name
        assert torch.equal(plain.model.state_dict()[name], before[name]), name
        changed = name.removesuffix(".weight") in plain.targets
        assert (one.data_ptr() == plain.model.state_dict()[name].data_ptr()) != changed, name
    assert all(adapted.model.get_submodule(name) is layer for name, layer in adapted.targets.items())
    assert with_task_adapter(plain, plain.identity) is plain


def test_another_task_adapter_is_another_base(tiny, tiny_dir, tmp_path):
    for seed in (3, 4):
        write_sharer(tmp_path / f"task{seed}", tiny, seed=seed)
    bases = [load(tiny_dir, task_adapter=str(tmp_path / f"task{seed}")) for seed in (3, 4)]
    assert bases[0].fingerprint != bases[1].fingerprint


def test_an_adapter_of_another_base_is_refused(tiny, tiny_dir, tmp_path):
    write_sharer(tmp_path / "task", tiny, seed=3)
    card = tmp_path / "task" / CARD
    card.write_text(card.read_text().replace(tiny.fingerprint, "0" * 64))
    with pytest.raises(DataError, match="trained on another base model"):
        load(tiny_dir, task_adapter=str(tmp_path / "task"))


def test_an_adapter_that_does_not_fit_is_refused(tiny, tmp_path):
    class Odd:
        path, scale, modules = tmp_path, 1.0, ["model.layers.0.self_attn.q_proj"]

        def piece(self, module):
            return torch.zeros(2, 8), torch.zeros(64, 2)

    with pytest.raises(DataError, match=r"is for a 64 × 8 layer; the model's is 64 × 64"):
        merge_adapter(tiny.model, Odd())
    Odd.modules = ["model.layers.7.self_attn.q_proj"]
    with pytest.raises(DataError, match=r"has a piece for 'model\.layers\.7"):
        merge_adapter(tiny.model, Odd())


def test_gpt2_has_no_such_layers(model_dir):
    with pytest.raises(PerpcsError, match="GPT2LMHeadModel has no linear layers named q_proj") as caught:
        load(model_dir("gpt2"))
    assert "c_attn (Conv1D)" in caught.value.hint


def test_a_missing_target_is_named(tiny):
    with pytest.raises(PerpcsError, match="no linear layers named qkv_proj") as caught:
        find_targets(tiny.model, ("q_proj", "qkv_proj"))
    assert "gate_proj (Linear)" in caught.value.hint


def test_pickled_weights_are_never_opened(copied, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "opened"), "w"))

    (copied / "model.safetensors").unlink()
    torch.save({"weight": Evil()}, copied / "pytorch_model.bin")
    with pytest.raises(DataError, match="holds no safetensors file"):
        load(copied)
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize("keep", [0, 5, 200, -1, -5000])
def test_truncated_weights(copied, keep):
    data = (copied / "model.safetensors").read_bytes()
    (copied / "model.safetensors").write_bytes(data[:keep])
    with pytest.raises(DataError, match="not a whole safetensors file"):
        load(copied)


@pytest.mark.parametrize(
    "data",
    [b"\xff" * 64, b"\x02" + b"\0" * 7 + b"[]", b"\x0a" + b"\0" * 7 + b'{"a": {}}\n'],
    ids=["huge header", "header no object", "entry without offsets"],
)
def test_weights_that_are_no_safetensors(copied, data):
    (copied / "model.safetensors").write_bytes(data)
    with pytest.raises(DataError, match="not a whole safetensors file"):
        load(copied)


@pytest.mark.parametrize("text", ["{", "[]", '{"model_type": "nothing-of-the-kind"}'])
def test_a_broken_configuration(copied, text):
    (copied / "config.json").write_text(text)
    with pytest.raises(DataError):
        load(copied)


def test_a_missing_tokenizer(copied):
    for path in copied.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(DataError, match="cannot be loaded"):
        load(copied)


def test_a_pad_that_is_not_embedded(tiny_dir):
    base = load(tiny_dir)
    base.tokenizer.add_special_tokens({"pad_token": "<more>"})
    assert base.tokenizer.pad_token_id == 400
    assert base.pad == base.stop[0]


def test_devices_and_dtypes(tiny_dir):
    with pytest.raises(UsageError, match="the device 'abacus' cannot be used"):
        load(tiny_dir, device="abacus")
    with pytest.raises(UsageError, match="no such dtype: 'int8'"):
        load(tiny_dir, dtype="int8")
    assert load(tiny_dir, dtype="bfloat16").dtype == torch.bfloat16


def test_a_model_to_train_is_not_in_float16(tiny_dir):
    with pytest.raises(UsageError, match="float16 is not for training"):
        identify(str(tiny_dir), device="cpu", dtype="float16", trains=True)


def test_cuda_is_made_reliable(monkeypatch):
    asked = []
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    monkeypatch.setattr(torch, "empty", lambda *_, **how: None)
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda *_, **__: pytest.fail("for training alone"))
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", asked.append)
    assert choose_device("cuda:0") == torch.device("cuda", 0)
    assert (os.environ["CUBLAS_WORKSPACE_CONFIG"], asked) == (":4096:8", [False])


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_where_there_is_none(tiny_dir):
    with pytest.raises(UsageError, match="the device 'cuda' cannot be used"):
        load(tiny_dir, device="cuda")


def test_a_model_that_also_sees(tiny, tmp_path):
    """Pieces, context and end of sequence are those of its decoder, and none is put on its vision tower."""
    import transformers

    special = {"pad_token_id": 0, "bos_token_id": 1}
    text = {**SHAPE, **special, "head_dim": 16, "vocab_size": 400, "layer_types": GEMMA3_LAYERS, "eos_token_id": 7}
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Gemma3Config(
        text_config=text,
        vision_config={**vision, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=1,
        image_token_index=399,
        boi_token_index=397,
        eoi_token_index=398,
        eos_token_id=9,
    )
    transformers.Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    tiny.tokenizer.save_pretrained(tmp_path)
    base = load(tmp_path)
    assert list(base.targets) == [f"model.language_model.layers.{n}.self_attn.{p}" for n in range(2) for p in TARGETS]
    assert (base.context, base.stop) == (256, (1, 9, 7))
    vocabulary = load_vocabulary(tmp_path)
    assert (vocabulary.context, vocabulary.stop) == (256, (1, 9, 7))
    check_packed(base)
    with pytest.raises(PerpcsError, match="no linear layers named out_proj") as caught:
        find_targets(base.model, ("out_proj",))
    assert "fc1" not in str(caught.value.hint)
