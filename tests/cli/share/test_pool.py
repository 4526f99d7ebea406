"""`perpcs pool build`, `list` and `verify`."""

from __future__ import annotations

import json
import re

from shell import DATA, USAGE, Shell, refused

from perpcs_cli.artifacts.pool import open_pool


def test_list(walked: Shell) -> None:
    result = walked("pool list")
    assert (result.exit_code, result.stderr) == (0, "")
    header, _, *rows = result.stdout.splitlines()
    assert header.split() == ["sharer", "pieces", "gates", "privacy", "path"]
    expected = [[name, "8", "yes", "none", f"sharers/{name}"] for name in walked.ids("candidate")]
    assert [row.split() for row in rows] == expected


def test_each_sharer_gives_its_share(shell: Shell) -> None:
    result = shell("pool build --share-ratio 0.5 --force")
    assert result.stdout == "pool.json\t4 sharers, 4 of 8 pieces each, rank 8, 8 linear layers\n"
    given = [sharer.shared for sharer in open_pool(shell.root / "pool.json").manifest.sharers]
    assert {len(pieces or ()) for pieces in given} == {4}
    assert len(set(given)) > 1
    assert [row.split()[1] for row in shell("pool list").stdout.splitlines()[2:]] == ["4"] * 4

    assert shell("pool build --share-ratio 0.5 --force --seed 9").exit_code == 0
    assert [sharer.shared for sharer in open_pool(shell.root / "pool.json").manifest.sharers] != given


def test_nothing_is_assembled_from_pieces_that_were_not_given(shell: Shell) -> None:
    assert shell("pool build --share-ratio 0.5 --force").exit_code == 0
    assert shell("assemble --plain --top-k 4 --out r").exit_code == 0
    pool = open_pool(shell.root / "pool.json")
    recipe = json.loads((shell.root / "r" / f"{shell.ids('target')[0]}.json").read_bytes())
    used = {
        (recipe["sharers"][sharer], pattern.replace("*", str(layer)))
        for pattern, mixes in recipe["weights"].items()
        for layer, mix in enumerate(mixes)
        for sharer, _ in mix
    }
    assert used
    assert used <= {(name, module) for index, name in enumerate(pool.ids) for module in pool.shares(index)}


def test_a_bound_on_norms(shell: Shell) -> None:
    first = shell.ids("candidate")[0]
    message = refused(shell("pool build --force --max-norm 1e-9"), DATA)
    assert f"the piece of sharer '{first}' for" in message and "above 1e-09" in message
    assert shell("pool build --force --max-norm 1000").exit_code == 0
    assert open_pool(shell.root / "pool.json").manifest.max_norm == 1000
    assert "already" in shell("pool build --max-norm 1000").stderr
    assert "max_norm 1000.0 -> None" in refused(shell("pool build"), DATA)
    assert shell("pool verify").stdout == "pool.json: 4 sharers, all whole\n"
    assert "4 problems" in refused(shell("pool verify --max-norm 1e-9"), DATA)
    assert "--max-norm: must be above 0" in refused(shell("pool verify --max-norm 0"), USAGE)


def test_some_sharers(shell: Shell) -> None:
    first, second = shell.ids("candidate")[:2]
    (shell.root / "few.txt").write_text(f"{second}\n{first}\n")
    for chosen in (f"{second},{first}", "@few.txt"):
        assert shell(f"pool build --users {chosen} --out few.json --force").exit_code == 0
        assert open_pool(shell.root / "few.json").ids == [first, second]
    assert open_pool(shell.root / "few.json").gates().file.path == shell.root / "few.gates.safetensors"


def test_it_needs_no_workspace(shell: Shell) -> None:
    built = (shell.root / "pool.json").read_bytes()
    (shell.root / "perpcs.toml").unlink()
    assert shell("pool build --force").exit_code == 0
    assert (shell.root / "pool.json").read_bytes() == built


def test_verify(walked: Shell) -> None:
    result = walked("pool verify")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "pool.json: 4 sharers, all whole\n", "")


def test_verify_lists_every_problem(shell: Shell) -> None:
    first, second, third = shell.ids("candidate")[:3]
    weights = shell.root / "sharers" / first / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    (shell.root / "sharers" / second / "adapter_model.safetensors").unlink()
    gate = shell.root / "sharers" / third / "gate.safetensors"
    gate.write_bytes(gate.read_bytes() + b" ")
    (shell.root / "pool.gates.safetensors").unlink()

    result = shell("pool verify")
    assert (result.exit_code, result.stdout) == (DATA, "")
    title, *problems = result.stderr.splitlines()
    assert title == "error: pool.json: 4 problems:"
    for name in (f"{first}/adapter_model", second, f"{third}/gate.safetensors", "pool.gates.safetensors"):
        assert [line for line in problems if re.match(rf"  \S*{re.escape(name)}", line)], name

    listed = shell("pool verify --json")
    assert listed.exit_code == DATA
    value = json.loads(listed.stdout)
    assert (value["ok"], len(value["problems"])) == (False, 4)


def test_verify_sees_a_manifest_of_another_base(shell: Shell) -> None:
    path = shell.root / "pool.json"
    manifest = json.loads(path.read_bytes())
    path.write_text(json.dumps({**manifest, "base": "0" * 64}))
    result = shell("pool verify")
    assert result.exit_code == DATA
    assert result.stderr.count("has another base model than the manifest says") == 4
