"""How LaMP words its queries: the sentence that each of its prompts is, and the fields that stand in it."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Wording:
    """One task's."""

    form: str
    """In words, for error messages; read by `pattern`, too."""
    pattern: str
    """A regular expression whose groups are the query's fields."""

    @property
    def names(self) -> frozenset[str]:
        """The query's fields."""
        return frozenset(re.compile(self.pattern).groupindex)

    def fields(self, text: str) -> dict[str, str] | None:
        """The fields of a query, or None where its text has another form."""
        found = re.search(self.pattern, text, flags=re.DOTALL)
        return found.groupdict() if found else None


WORDINGS = {
    "LaMP_1": Wording(
        form=(
            'For an author who has written the paper with the title "TITLE", which reference is related? '
            'Just answer with [1] or [2] without explanation. [1]: "OPTION" [2]: "OPTION"'
        ),
        pattern=(
            r'the title "(?P<title>.*)", which reference is related\?.*?'
            r'\[1\]: "(?P<option1>.*?)" \[2\]: "(?P<option2>.*)"'
        ),
    ),
    "LaMP_2M": Wording(
        form=(
            "Which tag does this movie relate to among the following tags? "
            "Just answer with the tag name without further explanation. tags: [TAG, …] description: TEXT"
        ),
        pattern=r"tags: \[[^\]]*\] description:\s?(?P<description>.*)",
    ),
    "LaMP_2N": Wording(
        form=(
            "Which category does this article relate to among the following categories? "
            "Just answer with the category name without further explanation. categories: [CATEGORY, …] article: TEXT"
        ),
        pattern=r"categories: \[[^\]]*\] article:\s?(?P<text>.*)",
    ),
    "LaMP_3": Wording(
        form=(
            "What is the score of the following review on a scale of 1 to 5? "
            "just answer with 1, 2, 3, 4, or 5 without further explanation. review: TEXT"
        ),
        pattern=r"review:\s?(?P<text>.*)",
    ),
    "LaMP_4": Wording(
        form="Generate a headline for the following article: TEXT",
        pattern=r"the following article:\s?(?P<text>.*)",
    ),
    "LaMP_5": Wording(
        form="Generate a title for the following abstract of a paper: TEXT",
        pattern=r"the following abstract of a paper:\s?(?P<abstract>.*)",
    ),
    "LaMP_7": Wording(
        form="Paraphrase the following tweet without any explanation before or after it: TEXT",
        pattern=r"without any explanation before or after it:\s?(?P<text>.*)",
    ),
}
"""By LaMP's id."""
