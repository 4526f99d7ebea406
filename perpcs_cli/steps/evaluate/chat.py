"""Answer what someone types as the base, the base with its task adapter, and a user's personalized models do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from perpcs_cli.artifacts.io.safe_paths import check_name
from perpcs_cli.artifacts.pool import open_pool
from perpcs_cli.artifacts.users import User
from perpcs_cli.errors import UsageError
from perpcs_cli.steps.base import StepModel
from perpcs_cli.steps.models_to_run import (
    ModelsToRun,
    base_alone,
    recipes_name,
    recipes_over,
    single_adapters,
)
from perpcs_cli.steps.report import SILENT, Report
from perpcs_cli.steps.workspace import EVERYONE, Who, Workspace
from perpcs_cli.tasks.examples import query_prompts
from perpcs_cli.tasks.prompts import PLAIN, Prompt, Shown, query_fields, typed_query

if TYPE_CHECKING:
    from perpcs_cli.model.engine.recipe_router import RecipeRouter

Answers = dict[str, str]
"""Model → what it says."""


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked and answered. `reference`: where it is a query of the user's with a known answer."""

    user_id: str
    prompt: str
    answers: Answers
    reference: str | None = None


@dataclass(frozen=True)
class _Pass:
    """Models that answer in the same passes: recipes over one base, with one merge."""

    model: StepModel
    models: ModelsToRun
    names: list[str]
    """Of the recipes."""

    @cached_property
    def router(self) -> RecipeRouter:
        """The recipes ready to run; their pieces are read once."""
        from perpcs_cli.model.engine.piece_cache import PieceCache
        from perpcs_cli.model.engine.recipe_router import RecipeRouter

        self.models.check_layers(self.model)
        cache = PieceCache(self.model.base, lambda index: self.models.adapters[index])
        return RecipeRouter(cache, self.models.recipes)


@dataclass(frozen=True)
class Chat:
    """One user's models; they are loaded by the first question, and stay."""

    workspace: Workspace
    user: User
    shown: Shown
    raw: bool
    passes: Sequence[_Pass]

    @property
    def names(self) -> list[str]:
        """The models, in the order in which they are shown."""
        return [name for one in self.passes for name in one.names]

    def load(self) -> None:
        """Load the models, which the first question would do else."""
        for one in self.passes:
            _ = one.router

    def ask(self, text: str, heard: Callable[[Answers], None] = lambda answers: None) -> Reply:
        """What the models answer to `text`, as `perpcs predict` would; `heard` gets what there is after every pass."""
        from perpcs_cli.model.engine.decode import generate
        from perpcs_cli.model.engine.sampling import sampling_of

        prompt, reference = self._prompt(text)
        settings = self.workspace.settings.predict
        answers = dict.fromkeys(self.names, "")
        for one in self.passes:
            (row,) = one.model.encode([prompt], who=f"user {self.user.user_id}", reserve=settings.max_new_tokens)
            tokenizer = one.model.base.tokenizer

            def hear(places: list[int], tokens: list[int], one: _Pass = one, tokenizer: Any = tokenizer) -> None:
                said = tokenizer.decode(tokens, skip_special_tokens=True).strip()
                answers.update({one.names[place]: said for place in places})
                heard(answers)

            generate(
                one.model.base,
                one.router,
                [(row, number) for number in range(len(one.names))],
                max_new_tokens=settings.max_new_tokens,
                batch_tokens=settings.batch_tokens,
                batch_rows=settings.batch_rows,
                merge=one.models.merge,
                sampling=sampling_of(settings, self.workspace.settings.seed),
                heard=hear,
            )
        return Reply(user_id=self.user.user_id, prompt=text, answers=answers, reference=reference)

    def _prompt(self, text: str) -> tuple[Prompt, str | None]:
        """(the prompt, the answer that it should have). A query of the user's is asked under its own id, on which draws
        depend; anything else under none."""
        if self.raw:
            return Prompt("", "", "", text, "", None), None
        task = self.workspace.task
        query = next((one for one in self.user.queries if one.input == text), None)
        if query is None:
            query = typed_query(task, text)
            fields = query_fields(task, query)
            query = next((one for one in self.user.queries if query_fields(task, one) == fields), query)
        asker = msgspec.structs.replace(self.user, queries=[query])
        (prompt,) = query_prompts(task, asker, self.shown, seed=self.workspace.settings.seed)
        return replace(prompt, answer=None), query.output


def open_chat(
    workspace: Workspace,
    who: Who = EVERYONE,
    *,
    recipes: Sequence[Path] = (),
    sharer: str | None = None,
    adapter: Path | None = None,
    own: Sequence[Path] = (),
    pool: Path | None = None,
    shown: Shown = PLAIN,
    raw: bool = False,
    report: Report = SILENT,
) -> Chat:
    """Find the models that answer for one user: the base, the base with its task adapter, and those that are named.

    They are recipes, a sharer, an adapter and the user's own adapters, as `predict` takes them; by default the user's
    recipe in the workspace. `raw`: what is typed is the whole prompt. Raises UsageError for no user or several, for two
    models of one name, and for `raw` with something `shown`.
    """
    if len(who.ids) != 1:
        raise UsageError("name one user", where="--user", hint="Whose model answers? `perpcs chat --user ID`.")
    if raw and shown != PLAIN:
        raise UsageError("the text as it is shows nothing of the user", where="--raw")
    (user,) = who.select(workspace)
    named: list[tuple[str, ModelsToRun]] = []
    if sharer is not None:
        named.append(
            (sharer, single_adapters(workspace.sharers / check_name(sharer, "--sharer"), None, [user.user_id]))
        )
    if adapter is not None:
        named.append((adapter.resolve().name, single_adapters(adapter, None, [user.user_id])))
    named += [(place.resolve().name, single_adapters(None, place, [user.user_id])) for place in own]
    places = recipes or ([] if named else [workspace.recipes])
    if places:
        opened = open_pool(pool or workspace.pool)
        named = [*((recipes_name(place), recipes_over(place, opened, [user.user_id])) for place in places), *named]
    plain = StepModel(workspace, report, adapted=False)
    if not workspace.settings.task_adapter:
        passes = _together(plain, [("base", base_alone([user.user_id])), *named])
    else:
        adapted = StepModel(workspace, report, beside=plain)
        own_pass = _together(plain, [("base", base_alone([user.user_id]))])
        passes = [*own_pass, *_together(adapted, [("adapted", base_alone([user.user_id])), *named])]
    chat = Chat(workspace, user, shown, raw, passes)
    if twice := [name for name in chat.names if chat.names.count(name) > 1]:
        raise UsageError(f"two models are called {twice[0]!r}", hint="Ask them one after the other.")
    return chat


def _together(model: StepModel, named: Sequence[tuple[str, ModelsToRun]]) -> list[_Pass]:
    """Models over one base in few passes: those of one merge share theirs."""
    found: list[_Pass] = []
    for name, models in named:
        models.check_base(model)
        (recipe,) = models.recipes
        last = found[-1] if found else None
        # The base has no pieces, and goes with any merge.
        if last is None or (last.models.adapters and last.models.merge != models.merge):
            found.append(_Pass(model, models, [name]))
            continue
        before = len(last.models.adapters)
        moved = {module: [(before + index, weight) for index, weight in mix] for module, mix in recipe.items()}
        joined = replace(
            models,
            adapters=[*last.models.adapters, *models.adapters],
            recipes=[*last.models.recipes, moved],
            pool=models.pool or last.models.pool,
        )
        found[-1] = _Pass(model, joined, [*last.names, name])
    return found
