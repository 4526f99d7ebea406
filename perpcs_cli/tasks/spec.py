"""The LaMP tasks: fields, labels, metrics and prompt templates.

Sources: LaMP (Salemi et al., 2024) for tasks, labels and metrics; the published Per-PCs code,
`prompt/prompt.json`, for the templates, whose line breaks are exact. News categories are not among its tasks
and follow movie tagging.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from perpcs_cli.artifacts.metrics import ERROR
from perpcs_cli.artifacts.settings import WhiteSpace
from perpcs_cli.errors import UsageError

ACCURACY = ("accuracy", "f1")
ROUGE = ("rouge-1", "rouge-L")

MOVIE_TAGS = (
    "sci-fi",
    "based on a book",
    "comedy",
    "action",
    "twist ending",
    "dystopia",
    "dark comedy",
    "classic",
    "psychology",
    "fantasy",
    "romance",
    "thought-provoking",
    "social commentary",
    "violence",
    "true story",
)
NEWS_CATEGORIES = (
    "food & drink",
    "sports",
    "education",
    "parents",
    "religion",
    "travel",
    "business",
    "crime",
    "science & technology",
    "culture & arts",
    "entertainment",
    "politics",
    "women",
    "style & beauty",
    "healthy living",
)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task of the benchmark. In templates, `{article}` is the text that an item or a query is about."""

    name: str
    lamp: str
    """The id in LaMP's label files, as `LaMP_2M`."""
    title: str
    required: tuple[str, ...]
    """Fields that every history item has."""
    optional: tuple[str, ...] = ()
    """Fields that a history item may have besides; `id` and `date` always may."""
    input_field: str
    """The field of a history item that is its article."""
    output_field: str
    """The field of a history item that is its answer."""
    labels: tuple[str, ...] = ()
    """Every possible answer, empty where text is generated."""
    metrics: tuple[str, str]
    max_new_tokens: int
    trains_with_context: bool
    """Whether training adds, for each item, an example with the profile and the best earlier item."""
    query_template: str
    history_template: str
    line_template: str
    """One retrieved history item, from its own fields; ends with a line break."""
    white_space: WhiteSpace = "kept"
    """Whether runs of white space in an item's fields become one space."""
    search_template: str
    """What BM25 looks for."""
    input_form: str
    """LaMP's own prompt in `query.input`, for error messages."""
    input_pattern: str
    """A regular expression that finds `article`, and in LaMP-1 `option1` and `option2`, in `query.input`."""
    generates_history: int = 0
    """Where the history asks for text and the query for a label: the most new tokens of that text."""

    def for_history(self) -> Task:
        """The task that the history poses: citation generation with ROUGE in LaMP-1, else the task itself."""
        if not self.generates_history:
            return self
        return replace(self, labels=(), metrics=ROUGE, max_new_tokens=self.generates_history)


_TAG_QUESTION = (
    "Which tag does this movie relate to among the following tags? "
    "Just answer with the tag name without further explanation."
)
_CATEGORY_QUESTION = (
    "Which category does this article relate to among the following categories? "
    "Just answer with the category name without further explanation."
)
_REFERENCE_QUESTION = (
    "Identify the most relevant reference for the listed publication by the researcher. "
    "Select the reference paper that is most closely related to the researcher's work. "
    "Please respond with only the number that corresponds to the reference."
)
_TAG_PROMPT = f"### User Instruction:\n{_TAG_QUESTION} tags: [{', '.join(MOVIE_TAGS)}]\nDescription: {{article}} Tag:"
_CATEGORY_PROMPT = (
    f"### User Instruction:\n{_CATEGORY_QUESTION} categories: [{', '.join(NEWS_CATEGORIES)}]\n"
    "Article: {article} Category:"
)
_SCORE_PROMPT = (
    "### User Instruction:\nWhat is the score of the following review on a scale of 1 to 5? just answer with "
    "1, 2, 3, 4, or 5 without further explanation.\nReview: {article} Score:"
)
_HEADLINE_PROMPT = "### User Instruction:\nGenerate a headline for the following article.\nArticle: {article} Headline:"

_ALL = (
    Task(
        name="citation",
        lamp="LaMP_1",
        title="Personalized citation identification",
        required=("title",),
        optional=("abstract", "citation"),
        input_field="title",
        output_field="citation",
        labels=("[1]", "[2]"),
        metrics=ACCURACY,
        max_new_tokens=8,
        trains_with_context=False,
        query_template=(
            f"### User Instruction:\n{_REFERENCE_QUESTION}\nPaper Title: {{article}}\n"
            "Reference: [1] - {option1} [2] - {option2}\nAnswer:"
        ),
        history_template="Paper Title: {article} Reference:",
        line_template="Paper Title: {title}\n",
        search_template=f"{_REFERENCE_QUESTION}\npaper title: {{article}}",
        input_form=(
            'For an author who has written the paper with the title "TITLE", which reference is related? '
            'Just answer with [1] or [2] without explanation. [1]: "OPTION" [2]: "OPTION"'
        ),
        input_pattern=(
            r'the title "(?P<article>.*)", which reference is related\?.*?'
            r'\[1\]: "(?P<option1>.*?)" \[2\]: "(?P<option2>.*)"'
        ),
        generates_history=96,
    ),
    Task(
        name="movie_tagging",
        lamp="LaMP_2M",
        title="Personalized movie tagging",
        required=("description", "tag"),
        input_field="description",
        output_field="tag",
        labels=MOVIE_TAGS,
        metrics=ACCURACY,
        max_new_tokens=10,
        trains_with_context=True,
        query_template=_TAG_PROMPT,
        history_template=_TAG_PROMPT,
        line_template="Description: {description} Tag: {tag}\n",
        search_template=f"{_TAG_QUESTION}\n Description: {{article}}",
        input_form=f"{_TAG_QUESTION} tags: [TAG, …] description: TEXT",
        input_pattern=r"tags: \[[^\]]*\] description:\s?(?P<article>.*)",
    ),
    Task(
        name="news_category",
        lamp="LaMP_2N",
        title="Personalized news categorization",
        required=("text", "category"),
        optional=("title",),
        input_field="text",
        output_field="category",
        labels=NEWS_CATEGORIES,
        metrics=ACCURACY,
        max_new_tokens=10,
        trains_with_context=True,
        query_template=_CATEGORY_PROMPT,
        history_template=_CATEGORY_PROMPT,
        line_template="Article: {text} Category: {category}\n",
        search_template=f"{_CATEGORY_QUESTION}\n Article: {{article}}",
        input_form=f"{_CATEGORY_QUESTION} categories: [CATEGORY, …] article: TEXT",
        input_pattern=r"categories: \[[^\]]*\] article:\s?(?P<article>.*)",
    ),
    Task(
        name="product_rating",
        lamp="LaMP_3",
        title="Personalized product rating",
        required=("text", "score"),
        input_field="text",
        output_field="score",
        labels=("1", "2", "3", "4", "5"),
        metrics=ERROR,
        max_new_tokens=4,
        trains_with_context=True,
        query_template=_SCORE_PROMPT,
        history_template=_SCORE_PROMPT,
        line_template="Review: {text} Score: {score}\n",
        search_template="What is the score of the following review on a scale of 1 to 5? review: {article}",
        input_form=(
            "What is the score of the following review on a scale of 1 to 5? "
            "just answer with 1, 2, 3, 4, or 5 without further explanation. review: TEXT"
        ),
        input_pattern=r"review:\s?(?P<article>.*)",
    ),
    Task(
        name="news_headline",
        lamp="LaMP_4",
        title="Personalized news headline generation",
        required=("text", "title"),
        input_field="text",
        output_field="title",
        metrics=ROUGE,
        max_new_tokens=48,
        trains_with_context=True,
        query_template=_HEADLINE_PROMPT,
        history_template=_HEADLINE_PROMPT,
        line_template="Article: {text} Headline: {title}\n",
        search_template="Generate a headline for the following article: {article}",
        input_form="Generate a headline for the following article: TEXT",
        input_pattern=r"the following article:\s?(?P<article>.*)",
    ),
    Task(
        name="scholarly_title",
        lamp="LaMP_5",
        title="Personalized scholarly title generation",
        required=("abstract", "title"),
        input_field="abstract",
        output_field="title",
        metrics=ROUGE,
        max_new_tokens=48,
        trains_with_context=True,
        query_template=(
            "### User Instruction:\nGenerate a title for the following abstract of a paper.\nAbstract: {article} Title:"
        ),
        history_template=("Generate a title for the following abstract of a paper.\n abstract: {article} title:"),
        line_template="abstract: {abstract} title: {title}\n",
        search_template="Generate a title for the following abstract of a paper: {article}",
        input_form="Generate a title for the following abstract of a paper: TEXT",
        input_pattern=r"the following abstract of a paper:\s?(?P<article>.*)",
    ),
    Task(
        name="tweet_paraphrase",
        lamp="LaMP_7",
        title="Personalized tweet paraphrasing",
        required=("text",),
        input_field="text",
        output_field="text",
        metrics=ROUGE,
        max_new_tokens=96,
        trains_with_context=False,
        query_template=(
            "### User Instruction:\n"
            "Paraphrase the following text into tweet without any explanation before or after it.\n"
            "Text: {article} Tweet:"
        ),
        history_template="Tweet:",
        line_template="Tweet: {text}\n",
        search_template=(
            "Paraphrase the following text into tweet without any explanation before or after it: {article}"
        ),
        input_form="Paraphrase the following tweet without any explanation before or after it: TEXT",
        input_pattern=r"without any explanation before or after it:\s?(?P<article>.*)",
    ),
)

TASKS: dict[str, Task] = {task.name: task for task in _ALL}
"""Every task by its name."""


def known_texts() -> set[str]:
    """The prompts, labels and forms of all tasks: texts that are no user's own."""
    values = [value for task in _ALL for value in vars(task).values()]
    texts = [text for value in values for text in (value if isinstance(value, tuple) else (value,))]
    return {text for text in texts if isinstance(text, str)}


def get_task(name: str) -> Task:
    """The task called `name`: its own name or LaMP's, as `LaMP_2M` or `lamp-2m`. `LaMP_2` is movie tagging.

    Raises UsageError for an unknown name.
    """
    wanted = name.strip().lower().replace("-", "_")
    for task in _ALL:
        if wanted in (task.name, task.lamp.lower()):
            return task
    if wanted == "lamp_2":
        return TASKS["movie_tagging"]
    known = ", ".join(f"{task.name} ({task.lamp})" for task in _ALL)
    raise UsageError(f"no such task: {name!r}", hint=f"The tasks are {known}.")
