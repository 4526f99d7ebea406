"""`perpcs predict`: what must not change its answers."""

from __future__ import annotations

import json

from shell import USAGE, refused


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
