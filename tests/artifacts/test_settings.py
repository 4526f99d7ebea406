"""`perpcs.toml`: written, read, layered and checked."""

from __future__ import annotations

import tomllib

import msgspec
import pytest

from perpcs_cli.artifacts.settings import (
    FILE,
    AssembleSettings,
    EmbedSettings,
    GateSettings,
    LoraSettings,
    PredictSettings,
    PrimeSettings,
    Settings,
    TrainSettings,
    declared,
    make_settings,
    read_settings,
    set_task_adapter,
    to_toml,
)
from perpcs_cli.errors import DataError, UsageError

TRAIN = TrainSettings(batch_size=6, lr=2e-5)
SETTINGS = Settings(
    task="movie_tagging",
    model='a "quoted" näme\\',
    lora=LoraSettings(),
    adapt=TRAIN,
    train=TRAIN,
    gate=GateSettings(batch_size=4, lr=1e-5, steps=100),
    assemble=AssembleSettings(top_k=3, batch_size=16, top_p=0.9, sample=True),
    embed=EmbedSettings(),
    prime=PrimeSettings(similar=3, budget=30, data_fraction=0.6),
    predict=PredictSettings(max_new_tokens=32),
)
PLAIN = tomllib.loads(to_toml(SETTINGS))


def test_round_trip(tmp_path):
    (tmp_path / FILE).write_text(to_toml(SETTINGS))
    assert make_settings(read_settings(tmp_path / FILE)) == SETTINGS


def test_the_text():
    lines = to_toml(SETTINGS).splitlines()
    assert lines[0] == 'format = "perpcs.workspace/3"'
    assert lines[1] == 'task = "movie_tagging"'
    at = lines.index("[lora]")
    assert lines[at - 1] == ""
    assert lines[at + 5] == 'targets = ["q_proj", "k_proj", "v_proj", "o_proj"]'
    assert "steps = 100" in lines
    assert sum(line.startswith("steps") for line in lines) == 1, "what is not set is not written"


def test_later_layers_win_key_by_key():
    made = make_settings(PLAIN, {"seed": 1, "lora": {"rank": 4}}, {"lora": {"alpha": 2}, "seed": 2})
    assert (made.seed, made.lora.rank, made.lora.alpha, made.lora.dropout) == (2, 4, 2.0, 0.05)
    assert made.train == SETTINGS.train
    assert PLAIN["lora"]["rank"] == 8, "the layers themselves stay as they are"


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"colour": "red"}, "unknown field `colour`"),
        ({"lora": {"ranks": 4}}, r"unknown field `ranks` - at `\$.lora`"),
        ({"lora": {"rank": "8"}}, r"Expected `int`, got `str` - at `\$.lora.rank`"),
        ({"assemble": {"sample": "False"}}, r"Expected `bool`, got `str` - at `\$.assemble.sample`"),
        ({"assemble": {"scoring": "mine"}}, "Invalid enum value 'mine'"),
        ({"dtype": "int8"}, "Invalid enum value 'int8'"),
        ({"lora": {"init": "mine"}}, "Invalid enum value 'mine'"),
        ({"preset": "per-pcs"}, r"Invalid enum value 'per-pcs' - at `\$.preset`"),
        ({"train": {"dropout": 0.1}}, r"unknown field `dropout` - at `\$.train`"),
        ({"lora": 8}, r"Expected `object`, got `int` - at `\$.lora`"),
        ({"train": {"lr": True}}, "Expected `float`, got `bool`"),
    ],
)
def test_unknown_keys_and_wrong_types(layer, message):
    with pytest.raises(UsageError, match=message):
        make_settings(PLAIN, layer, where="perpcs.toml")


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"lora": {"rank": 0}}, "lora.rank"),
        ({"lora": {"alpha": 0}}, "lora.alpha"),
        ({"gate": {"weight_decay": -0.1}}, "gate.weight_decay"),
        ({"gate": {"clip": -0.1}}, "gate.clip"),
        ({"lora": {"targets": []}}, "lora.targets"),
        ({"lora": {"dropout": 1.0}}, "lora.dropout"),
        ({"gate": {"dropout": 1.0}}, "gate.dropout"),
        ({"train": {"batch_size": 0}}, "train.batch_size"),
        ({"train": {"batch_size": 10**400}}, r"train\.batch_size is too large a number"),
        ({"lora": {"rank": 5000}}, r"lora\.rank must be at least 1 and at most 4096, and is 5000"),
        ({"prime": {"bounds": ["a", "b"]}}, "Expected `float`, got `str`"),
        ({"gate": {"steps": 0}}, r"gate\.steps must be at least 1, and is 0"),
        ({"adapt": {"lr": 0.0}}, "adapt.lr"),
        ({"adapt": {"lr": float("nan")}}, "adapt.lr"),
        ({"train": {"warmup": 1.1}}, "train.warmup"),
        ({"assemble": {"top_k": 0}}, "assemble.top_k"),
        ({"assemble": {"top_p": 0.0}}, "assemble.top_p"),
        ({"assemble": {"temperature": 0.0}}, "assemble.temperature"),
        ({"predict": {"batch_rows": 0}}, "predict.batch_rows"),
        ({"max_length": 7}, "max_length must be at least 8"),
    ],
)
def test_values_out_of_range(layer, message):
    with pytest.raises(UsageError, match=message):
        make_settings(PLAIN, layer)


def test_all_values_out_of_range_are_named_at_once():
    with pytest.raises(UsageError) as caught:
        make_settings(PLAIN, {"lora": {"rank": 0, "dropout": 2}, "assemble": {"top_k": 0}}, where="here")
    assert str(caught.value) == (
        "here: settings: lora.rank must be at least 1 and at most 4096, and is 0; "
        "lora.dropout must be at least 0 and below 1, and is 2.0; "
        "assemble.top_k must be at least 1, and is 0"
    )
    assert make_settings(PLAIN) == SETTINGS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"format = ", "not valid TOML"),
        (b"\xff", "not UTF-8"),
        (b'task = "x"', "expected format = 'perpcs.workspace/3' and found None"),
        (b'format = "perpcs.workspace/2"', "found 'perpcs.workspace/2'"),
    ],
)
def test_broken_files(tmp_path, content, message):
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_settings(tmp_path / FILE)


def test_no_file(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_settings(tmp_path / FILE)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('# mine\ntask_adapter = ""  # none yet\nseed = 1\n', '# mine\ntask_adapter = "a/b"  # none yet\nseed = 1\n'),
        (
            "  task_adapter='old'\n\n[lora]\nrank = 8 # as ever\n",
            '  task_adapter="a/b"\n\n[lora]\nrank = 8 # as ever\n',
        ),
        ('task_adapter = "a \\" # b" # c\n', 'task_adapter = "a/b" # c\n'),
        ("# first\n[lora]\nrank = 8\n", '# first\ntask_adapter = "a/b"\n\n[lora]\nrank = 8\n'),
    ],
)
def test_the_task_adapter_is_named_and_the_rest_stays(tmp_path, before, after):
    (tmp_path / FILE).write_text(before)
    set_task_adapter(tmp_path / FILE, "a/b")
    assert (tmp_path / FILE).read_text() == after
    assert tomllib.loads(after)["task_adapter"] == "a/b"
    set_task_adapter(tmp_path / FILE, "a/b")
    assert (tmp_path / FILE).read_text() == after


def test_a_task_adapters_name_may_hold_anything(tmp_path):
    (tmp_path / FILE).write_text(to_toml(SETTINGS))
    set_task_adapter(tmp_path / FILE, r"a\1 \g<0> 'b' é")
    assert make_settings(read_settings(tmp_path / FILE)).task_adapter == r"a\1 \g<0> 'b' é"


def test_every_setting_is_declared_with_help_in_the_order_of_the_file():
    content = msgspec.to_builtins(SETTINGS)
    tables = {key: table for key, table in content.items() if isinstance(table, dict)}
    plain = [key for key in content if key not in tables and key != "format"]
    assert list(declared()) == [*plain, *(f"{name}.{key}" for name, table in tables.items() for key in table)]
    assert all(one.help.strip() and one.path == path for path, one in declared().items())


@pytest.mark.parametrize(
    ("path", "section", "key", "flag", "variable"),
    [
        ("seed", "", "seed", "seed", "PERPCS_SEED"),
        ("task_adapter", "", "task_adapter", "task-adapter", "PERPCS_TASK_ADAPTER"),
        ("train.batch_size", "train", "batch_size", "batch-size", "PERPCS_TRAIN_BATCH_SIZE"),
        ("lora.alpha", "lora", "alpha", "lora-alpha", "PERPCS_LORA_ALPHA"),
        ("prime.alpha", "prime", "alpha", "alpha", "PERPCS_PRIME_ALPHA"),
        ("lora.targets", "lora", "targets", None, "PERPCS_LORA_TARGETS"),
    ],
)
def test_names(path, section, key, flag, variable):
    one = declared()[path]
    assert (one.section, one.key, one.flag, one.variable) == (section, key, flag, variable)


def test_no_two_settings_have_one_variable_and_no_two_of_a_section_one_flag():
    assert len({one.variable for one in declared().values()}) == len(declared())
    flags = [(one.section, one.flag) for one in declared().values() if one.flag]
    assert len(set(flags)) == len(flags)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("seed", -1, "at least 0, and is -1"),
        ("lora.alpha", 0, "above 0, and is 0.0"),
        ("lora.dropout", 1, "at least 0 and below 1, and is 1.0"),
        ("train.warmup", 1.5, "at least 0 and at most 1, and is 1.5"),
        ("train.lr", 1000, "above 0 and below 1000, and is 1000.0"),
        ("assemble.top_p", 0, "above 0 and at most 1, and is 0.0"),
        ("prime.popsize", 1, "at least 2, and is 1"),
        ("prime.alpha", [0, -1], "at least 0, and is -1"),
        ("prime.bounds", [float("-inf"), 1], "a finite number, and is -inf"),
    ],
)
def test_ranges_in_words(path, value, words):
    assert declared()[path].problem(value) == f"{path} must be {words}"
    section, _, key = path.rpartition(".")
    with pytest.raises(UsageError) as caught:
        make_settings(PLAIN, {section: {key: value}} if section else {key: value})
    assert caught.value.what == f"settings: {path} must be {words}"


def test_ranges_and_choices_for_the_reference():
    found = {path: declared()[path].range for path in ("lora.dropout", "prime.alpha", "assemble.merge", "model")}
    assert found == {
        "lora.dropout": "at least 0 and below 1",
        "prime.alpha": "at least 0",
        "assemble.merge": "product, factor",
        "model": "",
    }


def test_lists_have_at_least_one_value():
    for path in ("lora.targets", "prime.alpha"):
        assert declared()[path].problem([]) == f"{path} must have at least 1 value, and has none"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_infinity_are_refused_everywhere(value):
    numbers = [one for one in declared().values() if isinstance(one.default, float) or one.limits[0].gt is not None]
    assert len(numbers) > 15
    for one in numbers:
        assert one.path in str(one.problem(value))
        with pytest.raises(UsageError, match=rf"settings: {one.path} must be .*, and is {value}"):
            make_settings(PLAIN, {one.section: {one.key: value}})


@pytest.mark.parametrize("bounds", [[0.5, 1.0], [-1.0, -0.5], [1.0, -1.0], [0.0, 0.0]])
def test_bounds_are_a_range_around_zero(bounds):
    with pytest.raises(UsageError, match=r"prime\.bounds must be a range around 0, and is \("):
        make_settings(PLAIN, {"prime": {"bounds": bounds}})


def test_defaults_are_in_range():
    for one in declared().values():
        if one.default is not msgspec.NODEFAULT:
            assert one.problem(one.default) is None
