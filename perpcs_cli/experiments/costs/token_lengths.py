"""Who takes part in an experiment and how long their prompts are: counted from data, or typical users as planned."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import msgspec

from perpcs_cli.artifacts.settings import PrimeSettings, ProfileSettings
from perpcs_cli.artifacts.split import draw_parts
from perpcs_cli.artifacts.sweep import PlanSettings
from perpcs_cli.artifacts.users import User, held_out, newest
from perpcs_cli.experiments.costs.step_costs import Length
from perpcs_cli.model.loading.tokenizer_info import Reads
from perpcs_cli.tasks.examples import adaptation_prompts, query_prompts, search_prompts, training_prompts
from perpcs_cli.tasks.profile_prompts import profile_lines, profile_prompt
from perpcs_cli.tasks.prompts import PLAIN, Prompt, Shown, Source, history_line
from perpcs_cli.tasks.published_statistics import CANDIDATES_OF, TARGETS, TARGETS_OF
from perpcs_cli.tasks.spec import Task

TOKENS_PER_WORD = 1.35
"""Where there is no tokenizer; English prose has 1.3 to 1.5 with the vocabularies of the Llama models."""
COUNTED = 2000
"""A step's prompts are tokenized up to so many, drawn by seed; the lengths of the others follow from their words."""
PROFILE_WORDS = 60
"""Words of a profile that is not written yet."""
SPREAD = (0.6, 1.2, 0.4, 1.0, 0.8, 2.0)
"""How the prompts of typical users differ: times the mean, in turn."""


class Participants(Protocol):
    """Users by part, and the lengths of their prompts in each step."""

    def part(self, name: str) -> list[str]:
        """The ids of `base`, `target`, `candidate` or `all`."""

    def items(self, user: str) -> int:
        """History items."""

    def examples(self, user: str, shown: Shown, recent: int | None, hold_out: float) -> list[Length]:
        """The training examples."""

    def adaptation(self, shown: Shown, source: Source, limit: int | None) -> list[Length]:
        """The examples that adapt the base."""

    def searched(self, user: str, shown: Shown, settings: PrimeSettings, new: int) -> list[Length]:
        """The prompts on which PriME scores candidates, `new` tokens kept free."""

    def queries(self, user: str, shown: Shown, new: int) -> list[Length]:
        """The queries, answered with their references, else with `new` tokens."""

    def profiled(self, user: str, settings: ProfileSettings) -> Length:
        """The prompt that asks for a profile, with the longest answer."""

    def texts(self, user: str, longest: int) -> list[int]:
        """Tokens of each history item as an embedding reads it."""


@dataclass
class Data:
    """Users as they were imported, their prompts made as the steps make them."""

    users: dict[str, User]
    task: Task
    reader: Reads | None
    max_length: int
    seed: int
    split: dict[str, float] = field(default_factory=dict)
    """The arguments of `draw_parts`."""

    def __post_init__(self) -> None:
        parts = draw_parts(self.users.values(), seed=self.seed, **self.split)  # type: ignore[arg-type]
        self._parts = {"base": parts.base, "target": parts.target, "candidate": parts.candidate}

    def part(self, name: str) -> list[str]:
        return list(self.users) if name == "all" else self._parts[name]

    def items(self, user: str) -> int:
        return len(self.users[user].history)

    def examples(self, user: str, shown: Shown, recent: int | None, hold_out: float) -> list[Length]:
        kept, _ = held_out(newest(self._user(user, shown), recent), hold_out, self.seed)
        return self._count(training_prompts(self.task, kept, shown, seed=self.seed))

    def adaptation(self, shown: Shown, source: Source, limit: int | None) -> list[Length]:
        users = [self._user(user, shown) for user in self._parts["base"]]
        prompts = adaptation_prompts(self.task, users, shown, source=source, seed=self.seed)
        if limit and limit < len(prompts):
            prompts = random.Random(self.seed).sample(prompts, limit)
        return self._count(prompts)

    def searched(self, user: str, shown: Shown, settings: PrimeSettings, new: int) -> list[Length]:
        from perpcs_cli.methods.prime.search import sample_items

        kept = newest(self._user(user, shown), settings.recent)
        prompts, _ = search_prompts(self.task, kept, settings.prompts, shown, seed=self.seed)
        return self._asked(sample_items(prompts, settings.data_fraction, self.seed, user), new)

    def queries(self, user: str, shown: Shown, new: int) -> list[Length]:
        return self._asked(query_prompts(self.task, self._user(user, shown), shown, seed=self.seed), new)

    def profiled(self, user: str, settings: ProfileSettings) -> Length:
        lines = profile_lines(self.task, self.users[user], settings, seed=self.seed)
        return self._asked([profile_prompt(self.task, user, lines)], settings.max_new_tokens)[0]

    def texts(self, user: str, longest: int) -> list[int]:
        # The encoder has another vocabulary, which need not be here.
        lines = [history_line(self.task, item) for item in self.users[user].history]
        return [min(longest, round(TOKENS_PER_WORD * len(line.split()))) for line in lines]

    def _user(self, user: str, shown: Shown) -> User:
        """The user, with a stand-in for a profile that the step before would write."""
        found = self.users[user]
        if shown.profile and not found.profile:
            return msgspec.structs.replace(found, profile=" ".join(["profile"] * PROFILE_WORDS))
        return found

    def _asked(self, prompts: Sequence[Prompt], new: int) -> list[Length]:
        """Prompts as decoding reads them: cut without a look at the answer, which counts with its end."""
        bare = self._count([replace(prompt, answer=None) for prompt in prompts], reserve=new)
        known = [None if prompt.answer is None else self._answer(prompt) for prompt in prompts]
        return [
            replace(length, answer=new if answer is None else min(new, answer))
            for length, answer in zip(bare, known, strict=True)
        ]

    def _answer(self, prompt: Prompt) -> int:
        if self.reader is None:
            return 1 + round(TOKENS_PER_WORD * len((prompt.answer or "").split()))
        from perpcs_cli.model.engine.batching import tokenize

        return len(tokenize(self.reader, prompt).answer)

    def _count(self, prompts: Sequence[Prompt], *, reserve: int = 0) -> list[Length]:
        """The lengths of prompts and answers after they are cut to fit, and what all prompts have in common."""
        if self.reader is None:
            limit = self.max_length - reserve
            return [self._by_words(prompt, TOKENS_PER_WORD, limit) for prompt in prompts]
        from perpcs_cli.model.engine.batching import encode, shared_prefix

        places = range(len(prompts))
        chosen = set(places if len(prompts) <= COUNTED else random.Random(self.seed).sample(places, COUNTED))
        rows = {at: encode(self.reader, prompts[at], self.max_length, reserve=reserve) for at in sorted(chosen)}
        # The last token of a prompt is run for what comes after it.
        common = shared_prefix([row.prompt[:-1] for row in rows.values()]) if len(rows) > 1 else 0
        words = sum(len(prompts[at].text.split()) for at in rows) or 1
        rate = sum(len(row.prompt) for row in rows.values()) / words
        limit = min(self.max_length, self.reader.context) - reserve
        return [
            Length(len(rows[at].prompt), len(rows[at].answer), common)
            if at in rows
            else replace(self._by_words(prompts[at], rate, limit), common=common)
            for at in places
        ]

    def _by_words(self, prompt: Prompt, rate: float, limit: int) -> Length:
        answer = 0 if prompt.answer is None else 1 + round(rate * len(prompt.answer.split()))
        size = max(1, round(rate * len(prompt.text.split())))
        return Length(max(1, min(size, limit - answer)), answer)


def typical_users(task: str, given: Mapping[str, int]) -> PlanSettings:
    """Users as the table [plan] of a config describes them, and else as the published statistics of the task do."""
    known: dict[str, int] = {}
    if task in TARGETS_OF:
        targets, candidates = TARGETS_OF[task], CANDIDATES_OF[task]
        known = {
            "items": round(candidates.history_items),
            "target_items": round(targets.history_items),
            "queries": round(targets.queries / TARGETS),
            "prompt_tokens": round(TOKENS_PER_WORD * targets.input_tokens),
            "answer_tokens": 1 + round(TOKENS_PER_WORD * targets.output_tokens),
        }
    same = {"target_items": given["items"]} if "items" in given else {}
    return PlanSettings(**{**known, **same, **given})


@dataclass
class Typical:
    """Users all alike, but that targets have histories of another length."""

    plan: PlanSettings
    max_length: int

    def part(self, name: str) -> list[str]:
        sizes = {"base": self.plan.base_users, "target": self.plan.targets, "candidate": self.plan.candidates}
        if name == "all":
            return [user for part in sizes for user in self.part(part)]
        return [f"{name}-{number}" for number in range(sizes[name])]

    def items(self, user: str) -> int:
        return self.plan.target_items if user.startswith("target-") else self.plan.items

    def examples(self, user: str, shown: Shown, recent: int | None, hold_out: float) -> list[Length]:
        count = min(self.items(user), recent or self.items(user))
        count -= min(count - 1, max(1, round(hold_out * count))) if hold_out else 0
        context = [] if shown == PLAIN else self._lengths(count - 1, shown)
        return context + self._lengths(count, PLAIN)

    def adaptation(self, shown: Shown, source: Source, limit: int | None) -> list[Length]:
        rows: list[Length] = []
        for user in self.part("base"):
            queries = [] if source == "history" else self._lengths(self.plan.queries, shown)
            rows += queries
            if source in ("history", "both") or (source == "auto" and not queries):
                rows += self.examples(user, shown, None, 0.0)
        return rows[:limit]

    def searched(self, user: str, shown: Shown, settings: PrimeSettings, new: int) -> list[Length]:
        count = min(self.items(user), settings.recent or self.items(user))
        rows = self._lengths(count, shown, new)
        if settings.prompts == "both" and shown != PLAIN:
            first, *plain = self._lengths(count, PLAIN, new)
            rows = [first, *(row for pair in zip(plain, rows[1:], strict=True) for row in pair)]
        return rows[: max(1, round(settings.data_fraction * len(rows)))]

    def queries(self, user: str, shown: Shown, new: int) -> list[Length]:
        # Users have few queries, so that users differ and not a user's queries.
        number = int(user.rpartition("-")[2])
        return self._lengths(number + self.plan.queries, shown, new)[number:]

    def profiled(self, user: str, settings: ProfileSettings) -> Length:
        count, new = settings.random_items or settings.recent, settings.max_new_tokens
        shown = min(count, self.items(user)) * self.plan.retrieved_tokens
        return Length(min(self.plan.prompt_tokens + shown, self.max_length - new), new)

    def texts(self, user: str, longest: int) -> list[int]:
        return [min(longest, self.plan.prompt_tokens)] * self.items(user)

    def _lengths(self, count: int, shown: Shown, new: int | None = None) -> list[Length]:
        retrieved = (shown.retrieve or shown.random_history) * self.plan.retrieved_tokens
        profile = round(TOKENS_PER_WORD * PROFILE_WORDS) if shown.profile else 0
        answer = self.plan.answer_tokens if new is None else min(new, self.plan.answer_tokens)
        sizes = [round(self.plan.prompt_tokens * SPREAD[at % len(SPREAD)]) for at in range(count)]
        limit = self.max_length - (new or answer)
        return [Length(max(1, min(size + retrieved + profile, limit)), answer) for size in sizes]
