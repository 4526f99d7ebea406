"""`perpcs predict`: what must not change its answers."""

from __future__ import annotations

import json

from shell import DATA, USAGE, refused

from perpcs_cli.artifacts.predictions import info_path


def test_a_known_answer_does_not_shape_its_own_prompt(shell):
    """Articles are cut to fit, by as much with a long output beside the query as with none."""
    users = shell.root / "users.jsonl"
    content = [json.loads(line) for line in users.read_text().splitlines()]
    answers = []
    for outputs in ({"output": "a very long headline " * 10}, {}):
        for user in content:
            user["queries"] = [{"id": q["id"], "input": q["input"], **outputs} for q in user["queries"]]
        users.write_text("".join(json.dumps(user) + "\n" for user in content))
        result = shell("predict --base --max-new-tokens 8 --max-length 120 --force")
        assert result.exit_code == 0, result.stderr
        assert "were cut from the left" in result.stderr
        answers.append((shell.root / "predictions" / "base.jsonl").read_bytes())
    assert answers[0] == answers[1]


def test_one_model_answers(walked):
    """Flags that may be repeated elsewhere name one model here."""
    for line in ("--recipes recipes --recipes recipes", "--own oppu --own oppu"):
        message = refused(walked(f"predict {line}"), USAGE)
        assert message == f"{line.split()[0]}: choose one model\n"


def test_drawn_answers_are_of_seed_user_and_query(shell):
    path = shell.root / "predictions" / "base.jsonl"

    def answers(more=""):
        done = shell(f"predict --base --max-new-tokens 12 --dtype float32 --force {more}")
        assert done.exit_code == 0, done.stderr
        return path.read_text().splitlines()

    how = "--decode-temperature 0.7 --decode-top-p 0.95"
    drawn = answers(how)
    assert drawn == answers(f"{how} --batch-rows 1")
    last = shell.ids("target")[-1]
    assert answers(f"{how} --user {last}") == [line for line in drawn if f'"{last}"' in line]
    others = [answers(), answers(f"{how} --seed 5"), answers("--decode-temperature 0.7")]
    assert drawn not in others and len({tuple(other) for other in others}) == 3


def test_the_sidecar_says_how_answers_were_drawn(shell):
    path = shell.root / "predictions" / "mine.jsonl"
    line = "predict --base --max-new-tokens 4 --seed 7 --name mine"
    assert shell(f"{line} --decode-temperature 0.1 --decode-top-p 0.9").exit_code == 0
    provenance = json.loads(info_path(path).read_text())["provenance"]
    assert provenance["settings"]["predict"]["temperature"] == 0.1
    assert (provenance["settings"]["predict"]["top_p"], provenance["seed"]) == (0.9, 7)
    message = refused(shell(line), DATA)
    assert "predict.temperature 0.1 -> 0.0, predict.top_p 0.9 -> 1.0" in message
    settings = shell.root / "perpcs.toml"
    settings.write_text(settings.read_text().replace("temperature = 0.0", "temperature = 0.1"))
    assert "is finished already" in shell(f"{line} --decode-top-p 0.9").stderr
    assert "--decode-top-p" in refused(shell(f"{line} --decode-top-p 0"), USAGE)
    assert "--decode-temperature" in refused(shell(f"{line} --decode-temperature -1"), USAGE)


def test_a_control_answers_with_another_user_s_recipe(shell):
    """Half of the users further on: nobody keeps the own recipe, and every recipe is used."""
    users = shell.ids("target")
    recipes = {user: (shell.root / "recipes" / f"{user}.json").read_bytes() for user in users}
    for place, user in enumerate(users):
        (shell.root / "single").mkdir(exist_ok=True)
        name = users[(place + len(users) // 2) % len(users)]
        (shell.root / "single" / f"{user}.json").write_bytes(
            recipes[name].replace(f'"{name}"'.encode(), f'"{user}"'.encode())
        )
    how = "--max-new-tokens 12 --dtype float32"
    assert shell(f"predict --recipes recipes --swap {how}").exit_code == 0
    assert shell(f"predict --recipes single {how}").exit_code == 0
    assert shell(f"predict --recipes recipes --name own {how}").exit_code == 0
    swapped, expected, own = (
        (shell.root / "predictions" / f"{name}.jsonl").read_bytes() for name in ("per-pcs-swapped", "single", "own")
    )
    assert swapped == expected != own


def test_a_control_needs_several_models(walked):
    one = f"recipes/{walked.ids('target')[0]}.json"
    for line in ("--base", f"--recipes {one}"):
        message = refused(walked(f"predict {line} --swap"), USAGE)
        assert message == "--swap: there is one model for all users\n  Give --recipes or --own of each.\n"
