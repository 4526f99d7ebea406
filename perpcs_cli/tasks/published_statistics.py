"""What the published data are like: how many queries and history items users have, and how long they are.

Source: Tan et al. (2024), arXiv:2406.10471, Table 4, for the 100 targets and for those whom sharers are chosen from.
"""

from __future__ import annotations

from typing import NamedTuple

SOURCE = "Tan et al. (2024), arXiv:2406.10471, Table 4"
TARGETS = 100


class Statistics(NamedTuple):
    """One task's, of one group of users: all queries, and the means of a user's history and of a query's lengths."""

    queries: int
    history_items: float
    input_tokens: float
    """Words, to judge by them: the frame of a citation query alone has 25, and three titles stand in it."""
    output_tokens: float


CANDIDATES_OF = {
    "citation": Statistics(5334, 88.5, 51.4, 1.0),
    "movie_tagging": Statistics(2385, 12.3, 92.5, 1.7),
    "product_rating": Statistics(15034, 202.5, 132.1, 1.0),
    "news_headline": Statistics(7568, 31.3, 30.1, 10.1),
    "scholarly_title": Statistics(10821, 94.3, 162.7, 9.7),
    "tweet_paraphrase": Statistics(9978, 15.7, 299.6, 16.9),
}
TARGETS_OF = {
    "citation": Statistics(125, 147.2, 50.8, 1.0),
    "movie_tagging": Statistics(2228, 37.3, 92.3, 2.0),
    "product_rating": Statistics(614, 360.6, 160.9, 1.0),
    "news_headline": Statistics(3949, 155.9, 26.5, 10.7),
    "scholarly_title": Statistics(608, 144.0, 158.9, 9.7),
    # The candidates' inputs are ten times as long, by a slip of the point perhaps: LaMP's own are like these.
    "tweet_paraphrase": Statistics(114, 77.2, 30.3, 17.0),
}
