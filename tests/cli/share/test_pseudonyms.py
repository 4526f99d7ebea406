"""`perpcs pool build --pseudonymize`: what leaves the sharers, and that everything works with it."""

from __future__ import annotations

import json
import re

import pytest
from embedded_workspace import EMBED, PRIME, embedded
from safetensors import safe_open
from safetensors.torch import load_file
from shell import DATA, USAGE, Shell, named, refused

from perpcs_cli.artifacts.adapter import CARD, Card, open_adapter
from perpcs_cli.artifacts.io import typed_files
from perpcs_cli.artifacts.pool import OpenPool, open_pool
from perpcs_cli.artifacts.pools.pseudonyms import pseudonym
from perpcs_cli.artifacts.pools.secret import workspace_secret
from perpcs_cli.artifacts.recipe import Recipe

BUILD = "pool build --pseudonymize --force"


@pytest.fixture(scope="module")
def ready(walked: Shell, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    shell = embedded(walked, tmp_path_factory.mktemp("ready"))
    assert shell(BUILD).exit_code == 0
    return shell


def pool(shell: Shell, name: str = "pool.json") -> OpenPool:
    return open_pool(shell.root / name)


def names(shell: Shell) -> dict[str, str]:
    """Each sharer's pseudonym."""
    secret = workspace_secret(shell.root)
    return {name: pseudonym(secret, name) for name in shell.ids("candidate")}


def shared_files(shell: Shell) -> dict[str, bytes]:
    """What leaves the sharers."""
    return {name: data for name, data in shell.walk().items() if name.startswith("pool")}


def test_the_pool_consists_of_copies(ready: Shell) -> None:
    opened = pool(ready)
    assert opened.manifest.pseudonyms
    assert opened.ids == sorted(names(ready).values())
    assert all(re.fullmatch("s-[0-9a-f]{16}", name) for name in opened.ids)
    files = ["adapter_config.json", "adapter_model.safetensors", "gate.safetensors", "sharer.json"]
    assert sorted(shared_files(ready)) == sorted(
        ["pool.json", "pool.gates.safetensors", "pool.pieces.txt", "pool.embeddings.safetensors"]
        + [f"pool-files/{name}/{file}" for name in opened.ids for file in files]
    )
    assert ready("pool verify").stdout == "pool.json: 4 sharers, all whole\n"


def test_nothing_tells_who_it_was(ready: Shell) -> None:
    users = ready.ids("candidate")
    cards = {user: typed_files.read_json(ready.root / "sharers" / user / CARD, Card) for user in users}
    embeddings = safe_open(ready.root / "embeddings.safetensors", "pt").metadata()["perpcs"]
    secrets = [*users, workspace_secret(ready.root).hex(), str(ready.model.parent)]
    secrets += [digest for card in cards.values() for digest in card.provenance.inputs.values()]
    secrets += [f"{loss:.5f}" for card in cards.values() for loss in (card.first_loss, card.last_loss) if loss]
    secrets += [digest for user, digest in json.loads(embeddings)["users"].items() if user in users]
    files = shared_files(ready)
    assert len(secrets) == 4 + 2 + 4 + 8 + 4
    found = [(secret, name) for secret in secrets for name, data in files.items() if secret.encode() in data]
    assert not found
    assert workspace_secret(ready.root) not in b"".join(files.values())
    assert not [name for name in files for user in users if user in name]


def test_the_weights_are_the_sharers(ready: Shell) -> None:
    for user, name in names(ready).items():
        for file in ("adapter_model.safetensors", "gate.safetensors"):
            own, copy = (load_file(ready.root / place / file) for place in (f"sharers/{user}", f"pool-files/{name}"))
            assert own.keys() == copy.keys()
            assert all((own[key] == copy[key]).all() for key in own)
    opened = pool(ready)
    for user, name in names(ready).items():
        gates = load_file(ready.root / "sharers" / user / "gate.safetensors")
        for module in opened.modules:
            assert (opened.gates().read(module)[opened.ids.index(name)] == gates[module]).all()


def test_pseudonyms_are_the_same_in_every_pool_of_a_workspace(near: Shell) -> None:
    before = shared_files(near)
    assert near(BUILD).exit_code == 0
    assert shared_files(near) == before
    first, second = near.ids("candidate")[:2]
    assert near(f"{BUILD} --users {second},{first} --out few.json").exit_code == 0
    assert pool(near, "few.json").ids == sorted(names(near)[user] for user in (first, second))


def test_another_secret_gives_other_pseudonyms(near: Shell) -> None:
    before = pool(near).ids
    (near.root / "secret.key").unlink()
    assert near(BUILD).exit_code == 0
    assert not set(pool(near).ids) & set(before)
    assert sorted(path.name for path in (near.root / "pool-files").iterdir()) == pool(near).ids


def test_only_shared_pieces_are_copied(near: Shell) -> None:
    assert near(f"{BUILD} --share-ratio 0.5").exit_code == 0
    opened = pool(near)
    for index, name in enumerate(opened.ids):
        given = opened.shares(index)
        assert len(given) == 4
        assert set(open_adapter(near.root / "pool-files" / name).modules) == given
        assert set(load_file(near.root / "pool-files" / name / "gate.safetensors")) == given
        for module in opened.modules:
            assert bool(opened.gates().read(module)[index].any()) == (module in given)
    assert near("pool verify").exit_code == 0
    assert near("assemble --plain --top-k 3 --out half").exit_code == 0
    target = near.ids("target")[0]
    used = typed_files.read_json(near.root / "half" / f"{target}.json", Recipe)
    assert used.sharers
    assert near("predict --recipes half --max-new-tokens 4").exit_code == 0


def test_what_is_shared_is_not_drawn_by_the_id(near: Shell) -> None:
    assert near(f"{BUILD} --share-ratio 0.5").exit_code == 0
    hidden = {sharer.user_id: sharer.shared for sharer in pool(near).manifest.sharers}
    assert near("pool build --force --share-ratio 0.5 --out plain.json").exit_code == 0
    open_ = {names(near)[s.user_id]: s.shared for s in pool(near, "plain.json").manifest.sharers}
    assert hidden.keys() == open_.keys()
    assert hidden != open_


def test_where_training_started_does_not_tell_the_id(ready: Shell) -> None:
    """A LoRA's A stays close to its start: with starts drawn from ids, guessing an id would be enough to confirm it."""
    import torch
    from helpers import load_base

    from perpcs_cli.artifacts.settings import LoraSettings
    from perpcs_cli.model.training.train import new_lora

    opened = pool(ready)
    targets = tuple(sorted({module.rsplit(".", 1)[-1] for module in opened.modules}))
    base = load_base(str(ready.model), targets=targets, device="cpu", dtype="float32")

    def factors(pieces) -> torch.Tensor:
        return torch.cat([pieces(module)[0].detach().flatten() for module in opened.modules])

    starts = {user: factors(new_lora(base, user, [], LoraSettings(), 0).pieces.get) for user in names(ready)}
    for user, name in names(ready).items():
        trained = factors(opened.adapter(opened.ids.index(name)).piece)
        likeness = {guess: torch.cosine_similarity(trained, start, dim=0).item() for guess, start in starts.items()}
        assert max(likeness.values()) - min(likeness.values()) < 1e-6, user


@pytest.mark.parametrize("dry", ["", "--dry-run"])
def test_a_start_that_tells_the_id_is_refused(near: Shell, dry: str) -> None:
    user = near.ids("candidate")[1]
    assert near(f"train-sharer --plain --steps 1 --init own --user {user} --force").exit_code == 0
    before = near.walk()
    message = refused(near(f"{BUILD} --no-gates {dry}"), DATA)
    assert message.startswith(f"sharers/{user}: the LoRA started from an A drawn from its name")
    assert "--init shared" in message
    assert near.walk() == before
    assert near("pool build --no-gates --force").exit_code == 0


def test_a_copy_of_some_pieces_loads_in_peft(near: Shell) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    assert near(f"{BUILD} --share-ratio 0.5").exit_code == 0
    directory = near.root / "pool-files" / pool(near).ids[0]
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(near.model), directory)
    loaded = {key for key in model.state_dict() if "lora_A" in key}
    assert len(loaded) == 4
    tensors = load_file(directory / "adapter_model.safetensors")
    for key, value in tensors.items():
        assert torch.equal(model.state_dict()[key.replace(".weight", ".default.weight")], value)


def test_a_withheld_gate_is_not_in_an_open_pool_either(near: Shell) -> None:
    assert near("pool build --force --share-ratio 0.5").exit_code == 0
    opened = pool(near)
    for index in range(4):
        for module in opened.modules:
            assert bool(opened.gates().read(module)[index].any()) == (module in opened.shares(index))


def test_assemble_gives_the_same_weights_under_other_names(near: Shell) -> None:
    assert near("assemble --plain --top-k 2 --out hidden").exit_code == 0
    for target in near.ids("target"):
        before, after = (
            typed_files.read_json(near.root / place / f"{target}.json", Recipe) for place in ("recipes", "hidden")
        )
        assert set(after.sharers) <= set(names(near).values())
        flat = [
            sorted(
                (names(near).get(recipe.sharers[sharer], recipe.sharers[sharer]), pattern, layer, weight)
                for pattern, mixes in recipe.weights.items()
                for layer, mix in enumerate(mixes)
                for sharer, weight in mix
            )
            for recipe in (before, after)
        ]
        assert flat[0] == flat[1] != []
    assert near("predict --recipes hidden --max-new-tokens 8").exit_code == 0
    answers = [(near.root / "predictions" / f"{name}.jsonl").read_text() for name in ("per-pcs", "hidden")]
    assert answers[0] == answers[1]


def test_similar_retrieve_and_prime(near: Shell) -> None:
    target = near.ids("target")[0]
    found = json.loads(near(f"similar --user {target} --json").stdout)[target]
    assert near("pool build --out plain.json").exit_code == 0
    plain = json.loads(near(f"similar --user {target} --pool plain.json --json").stdout)[target]
    assert [(names(near)[one["user_id"]], one["similarity"]) for one in plain] == [
        (one["user_id"], pytest.approx(one["similarity"])) for one in found
    ]
    for line, place in (("retrieve --similar 2", "retrieve"), (f"{PRIME} --user {target}", "prime")):
        assert near(line).exit_code == 0
        recipe = typed_files.read_json(near.root / f"recipes-{place}" / f"{target}.json", Recipe)
        assert set(recipe.sharers) <= set(pool(near).ids)
        assert near(f"predict --user {target} --recipes recipes-{place} --name {place}").exit_code == 0


def test_a_sharer_is_not_its_own_neighbour(near: Shell) -> None:
    sharer = near.ids("candidate")[0]
    found = json.loads(near(f"similar --user {sharer} --json").stdout)[sharer]
    assert {one["user_id"] for one in found} == set(names(near).values()) - {names(near)[sharer]}
    assert "4 sharers are asked for, and there are 3" in refused(near(f"retrieve --user {sharer} --similar 4"), USAGE)


def test_elsewhere_the_pool_works_without_the_secret(near: Shell) -> None:
    (near.root / "secret.key").unlink()
    for name in near.ids("candidate"):
        for path in (near.root / "sharers" / name).iterdir():
            path.unlink()
    assert near("similar").exit_code == 0
    assert near("assemble --plain --top-k 2 --out hidden").exit_code == 0
    assert not (near.root / "secret.key").exists()


def test_without_embeddings(near: Shell) -> None:
    assert near(f"{BUILD} --no-embeddings").exit_code == 0
    assert not (near.root / "pool.embeddings.safetensors").exists()
    assert "does not carry its sharers' embeddings" in refused(near("similar"), DATA)
    assert near("assemble --plain --top-k 2 --out hidden").exit_code == 0


def test_embeddings_of_another_encoder(near: Shell) -> None:
    assert near(named(near, f"{EMBED} --max-length 9 --force")).exit_code == 0
    assert "made by another encoder" in refused(near("similar"), DATA)


def test_embeddings_that_changed(near: Shell) -> None:
    path = near.root / "pool.embeddings.safetensors"
    path.write_bytes(path.read_bytes() + b" ")
    assert "pool's embeddings are missing or have changed" in refused(near("similar"), DATA)
    assert "pool's embeddings are missing or have changed" in refused(near("pool verify"), DATA)


def test_the_secret_is_private(near: Shell) -> None:
    path = near.root / "secret.key"
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    assert "can be read by others" in refused(near(BUILD), DATA)


def test_nothing_is_shared(near: Shell) -> None:
    assert "there is nothing to copy" in refused(near(f"{BUILD} --share-ratio 0"), USAGE)


@pytest.mark.parametrize("line", [BUILD, "pool build --force", f"{BUILD} --out data.json"])
def test_what_lies_where_copies_are_put_is_not_deleted(near: Shell, line: str) -> None:
    directory = near.root / f"{'data' if 'data' in line else 'pool'}-files" / "s-notes"
    directory.mkdir(parents=True)
    (directory / "thesis.tex").write_text("years of work")
    before = near.walk()
    assert "s-notes: holds 'thesis.tex', which is no part of an adapter" in refused(near(line), DATA)
    assert near.walk() == before
