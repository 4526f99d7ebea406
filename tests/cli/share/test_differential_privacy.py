"""Differential privacy on the command line: what is promised, what is told, what is refused."""

from __future__ import annotations

import json
import re
import shutil

import msgspec
import pytest
from shell import USAGE, Shell, named, refused

pytest.importorskip("opacus")

from perpcs_cli.artifacts.adapter import CARD, WEIGHTS, Card
from perpcs_cli.artifacts.gate import FILE as GATE_FILE
from perpcs_cli.artifacts.gate import read_gates
from perpcs_cli.artifacts.io.hashing import digest_value
from perpcs_cli.artifacts.io.typed_files import read_json
from perpcs_cli.artifacts.pool import open_pool, pieces_path
from perpcs_cli.artifacts.pools.secret import FILE as SECRET
from perpcs_cli.artifacts.pools.verify import verify_pool
from perpcs_cli.artifacts.users import read_users, write_users
from perpcs_cli.tasks.examples import training_prompts
from perpcs_cli.tasks.prompts import PLAIN, digest
from perpcs_cli.tasks.spec import get_task

# Its fixtures are long: one process makes them once.
pytestmark = pytest.mark.xdist_group("differential privacy")

TRAIN = "train-sharer --plain --steps 2 --lr 1e-2 --batch-size 2 --user SHARER --out dp"
GATE = "gate --sharers dp --plain --steps 3 --batch-size 2"
BUILD = "pool build --sharers dp --out dp.json"
CANARY = "zanzibarquokka"


def run(shell: Shell, line: str):
    """Run a line that must go well."""
    result = shell(named(shell, line))
    assert result.exit_code == 0, result.stderr
    return result


def sharer(shell: Shell):
    return shell.root / "dp" / shell.ids("candidate")[0]


@pytest.fixture(scope="module")
def private(walked, tmp_path_factory):
    """A sharer with a canary in its history, whose LoRA and gates are private, and their pool."""
    import dataclasses
    import shutil

    root = tmp_path_factory.mktemp("dp") / "work"
    shutil.copytree(walked.root, root)
    shell = dataclasses.replace(walked, root=root, results={})
    users = read_users(root / "users.jsonl")
    user = users[shell.ids("candidate")[0]]
    items = [
        {**item, "text": f"{CANARY} {item['text']}", "title": f"{CANARY} {item['title']}"} for item in user.history
    ]
    users[user.user_id] = msgspec.structs.replace(user, history=items)
    write_users(root / "users.jsonl", list(users.values()))
    lines = {"train": f"{TRAIN} --dp-epsilon 8 --dp-delta 1e-4", "gate": f"{GATE} --dp-noise 1", "build": BUILD}
    for name, line in lines.items():
        shell.results[name] = run(shell, line)
    return shell


def test_the_adapter_says_what_it_guarantees(private):
    card = read_json(sharer(private) / CARD, Card)
    assert 7.99 < card.privacy.epsilon <= 8
    assert (card.privacy.delta, card.privacy.unit) == (1e-4, "item")
    (mechanism,) = card.privacy.mechanisms
    assert (mechanism.what, mechanism.clip, mechanism.sample_rate, mechanism.steps) == ("lora", 1.0, 0.5, 2)
    name = private.ids("candidate")[0]
    assert private.results["train"].stdout == f"{name}\tdp/{name}\t-\t-\t2\tepsilon 8.00, delta 0.0001\n"
    assert f"{name}: epsilon 8.00, delta 0.0001 for each of 4 examples" in private.results["train"].stderr


def test_the_pool_says_what_both_guarantee_together(private):
    from opacus.accountants import RDPAccountant

    pool = open_pool(private.root / "dp.json")
    (entry,) = pool.manifest.sharers
    lora, gate = entry.privacy.mechanisms
    assert (lora.what, gate.what, gate.clip, gate.steps) == ("lora", "gate", 0.1, 3)
    accountant = RDPAccountant()
    for one in (lora, gate):
        for _ in range(one.steps):
            accountant.step(noise_multiplier=one.noise_multiplier, sample_rate=one.sample_rate)
    assert entry.privacy.delta == 1e-5
    assert entry.privacy.epsilon == pytest.approx(accountant.get_epsilon(delta=1e-5))
    shown = re.search(r"epsilon (.*), delta 1e-05", run(private, "pool list --pool dp.json").stdout)
    assert entry.privacy.epsilon <= float(shown[1]) < entry.privacy.epsilon + 0.01
    assert json.loads(run(private, "pool list --pool dp.json --json").stdout)[0]["privacy"]["unit"] == "item"
    assert verify_pool(pool) == []


def test_what_depends_on_the_data_and_was_not_noised_is_not_told(private):
    """No log, no losses, no counts of tokens, no digest that a guess of the data could be compared with."""
    files = {path.name for path in sharer(private).iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors", "sharer.json", GATE_FILE}
    cards = [read_json(sharer(private) / CARD, Card), read_gates(sharer(private) / GATE_FILE)[1]]
    user = read_users(private.root / "users.jsonl")[private.ids("candidate")[0]]
    prompts = training_prompts(get_task("news_headline"), user, PLAIN, seed=0)
    for card in cards:
        assert (card.first_loss, card.last_loss) == (None, None)
        assert digest(prompts) != card.provenance.inputs["examples"]
    assert cards[0].tokens is None
    everything = b"".join(path.read_bytes() for path in [*sharer(private).iterdir(), private.root / "dp.json"])
    secret = (private.root / SECRET).read_bytes()
    for hidden in (
        CANARY.encode(),
        digest(prompts).encode(),
        digest_value(user).encode(),
        secret,
        secret.hex().encode(),
    ):
        assert hidden not in everything
    losses = re.findall(rb'loss\\?": ?(\w+)', everything)
    assert losses == [b"null"] * 4


def test_a_finished_private_sharer_is_recognized(private):
    again = run(private, f"{TRAIN} --dp-epsilon 8 --dp-delta 1e-4")
    assert "1 of 1 users are finished already" in again.stderr
    assert again.stdout == private.results["train"].stdout
    assert "1 of 1 sharers are finished already" in run(private, f"{GATE} --dp-noise 1").stderr
    other = private(named(private, f"{TRAIN} --dp-epsilon 7 --dp-delta 1e-4"))
    assert "was made with other settings: dp.epsilon 8.0 -> 7.0" in other.stderr


def weights(shell, more="", out="dp"):
    run(shell, f"{TRAIN} --dp-noise 1 --force {more}")
    return (sharer(shell) / WEIGHTS).read_bytes()


def test_the_same_secret_gives_the_same_bytes_and_another_one_others(shell):
    first = weights(shell)
    assert weights(shell) == first
    (shell.root / SECRET).unlink()
    assert weights(shell) != first


def test_noise_is_never_used_twice(shell, monkeypatch):
    """Any change of data or settings changes the noise as a whole: the difference of two runs must not be the data."""
    from perpcs_cli.model.training import dp_sgd as module

    keys = []
    true = module.SecretStream
    monkeypatch.setattr(module, "SecretStream", lambda key: keys.append(key) or true(key))
    for more in ("", "--lr 2e-2", "--dp-clip 2", "--seed 1", "--recent 3", "--hold-out 0.3"):
        weights(shell, more)
    weights(shell)
    assert len(set(keys)) == 6
    assert keys[0] == keys[-1]
    assert all(len(key) == 32 for key in keys)


def test_a_private_adapter_with_ordinary_gates_guarantees_nothing(shell):
    run(shell, f"{TRAIN} --dp-noise 1")
    result = run(shell, GATE)
    assert "the gates are trained without differential privacy" in result.stderr
    run(shell, BUILD)
    assert open_pool(shell.root / "dp.json").manifest.sharers[0].privacy is None
    assert re.search(r"\bnone\b", run(shell, "pool list --pool dp.json").stdout)
    # Without the gates, the adapter's own guarantee is the sharer's.
    run(shell, f"{BUILD} --no-gates --force")
    assert (
        open_pool(shell.root / "dp.json").manifest.sharers[0].privacy == read_json(sharer(shell) / CARD, Card).privacy
    )


def test_an_ordinary_adapter_with_private_gates_guarantees_nothing(shell):
    result = run(shell, "gate --plain --steps 2 --dp-epsilon 8 --force --user SHARER")
    assert "the adapter was trained without differential privacy" in result.stderr
    run(shell, "pool build --force")
    assert all(entry.privacy is None for entry in open_pool(shell.root / "pool.json").manifest.sharers)


def test_a_manifest_that_promises_more_than_its_files(private, tmp_path):
    pool = open_pool(private.root / "dp.json")
    (entry,) = pool.manifest.sharers
    less = msgspec.structs.replace(entry.privacy.mechanisms[0], noise_multiplier=100.0)
    false = msgspec.structs.replace(entry.privacy, mechanisms=(less, entry.privacy.mechanisms[1]))
    (private.root / "false.json").write_bytes(
        msgspec.json.encode(
            msgspec.structs.replace(pool.manifest, sharers=(msgspec.structs.replace(entry, privacy=false),))
        )
    )
    shutil.copy(pieces_path(pool.path), private.root / "false.pieces.txt")
    problems = verify_pool(open_pool(private.root / "false.json"))
    for name in ("false.json", "false.pieces.txt"):
        (private.root / name).unlink()
    assert any("does not guarantee the privacy that the manifest says" in problem for problem in problems)


def test_a_delta_that_lets_an_item_be_given_away(shell):
    assert "a delta of 1 / 4 examples or more" in run(shell, f"{TRAIN} --dp-noise 1 --dp-delta 0.5").stderr


def test_a_dry_run_makes_no_secret(shell):
    (shell.root / SECRET).unlink(missing_ok=True)
    for line in (
        f"{TRAIN} --dp-epsilon 8",
        "gate --plain --dp-epsilon 8 --out dp",
        "pool build --pseudonymize --out p.json",
    ):
        assert "to do" in run(shell, f"{line} --dry-run").stdout
        assert not (shell.root / SECRET).exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--plain --dp-epsilon 8 --dp-noise 1", "--dp-epsilon and --dp-noise: give one"),
        ("--plain --dp-delta 1e-5", "--dp-delta: needs --dp-epsilon or --dp-noise"),
        ("--plain --dp-clip 1", "--dp-clip: needs --dp-epsilon or --dp-noise"),
        ("--plain --dp-epsilon 0", "--dp-epsilon: must be above 0, and is 0"),
        ("--plain --dp-noise -1", "--dp-noise: must be above 0, and is -1"),
        ("--plain --dp-noise inf", "--dp-noise': inf is not a finite number"),
        ("--plain --dp-noise nan", "--dp-noise': nan is not a finite number"),
        ("--plain --dp-noise 1 --dp-clip 0", "--dp-clip: must be above 0, and is 0"),
        ("--plain --dp-epsilon 8 --dp-delta 1", "--dp-delta: must be between 0 and 1, and is 1"),
        ("--dp-epsilon 8", "--dp-epsilon: protects each history item only where it is in no example but its own"),
        ("--retrieve 1 --dp-noise 1", "--dp-noise: protects each history item only where"),
        ("--with-profile --dp-noise 1", "--dp-noise: protects each history item only where"),
        ("--plain --dp-epsilon 8 --together 2", "--dp-epsilon: trains one user at a time"),
        ("--plain --dp-epsilon 8 --clip 1", "--dp-epsilon: clips each example's gradient, not a batch's"),
    ],
)
@pytest.mark.parametrize("command", ["train-sharer --out refused", "gate --force"])
def test_what_is_refused(walked, command, flags, message):
    text = refused(walked(named(walked, f"{command} --user SHARER --steps 1 {flags}")), USAGE)
    assert message in text
    assert not (walked.root / "refused").exists()
    assert not (walked.root / SECRET).exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--dp-epsilon 0.001", "--dp-epsilon: no noise is enough for epsilon 0.001"),
        ("--dp-noise 1e-160", "so little noise guarantees nothing"),
    ],
)
@pytest.mark.parametrize("command", ["train-sharer --out refused", "gate --force"])
def test_what_turns_out_to_be_out_of_reach(shell, command, flags, message):
    gates = shell.root / "sharers" / shell.ids("candidate")[0] / GATE_FILE
    before = gates.read_bytes()
    assert message in refused(shell(named(shell, f"{command} --user SHARER --steps 1 --plain {flags}")), USAGE)
    assert not list(shell.root.glob("refused/*"))
    assert gates.read_bytes() == before


def test_without_opacus(walked, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "opacus", None)
    text = refused(walked(named(walked, f"{TRAIN} --dp-epsilon 8")), USAGE)
    assert "needs Opacus" in text
    assert "pip install 'perpcs[dp]'" in text
