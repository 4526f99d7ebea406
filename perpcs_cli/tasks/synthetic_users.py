"""A small multi-user data set with planted habits: news articles, and each user's own way with headlines.

Nothing in it is downloaded. A headline follows from its article and the user's two habits, a form and an ending.
Users share them in parts: one with whom a user shares the form may have another ending. Each has favourite topics.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta

from perpcs_cli.artifacts.users import Item, Query, User
from perpcs_cli.errors import DataError, UsageError
from perpcs_cli.tasks.lamp_queries import WORDINGS

MAX_ITEMS = 400
"""Most items per user: no two of a user's articles share actor, verb and object."""

FIRST_DAY = date(2020, 1, 1)
FAVOURITES = 3
FAVOURITE_SHARE = 0.7


@dataclass(frozen=True)
class Topic:
    """The words of one topic. `verbs` are base, past and present form; `things` are countable."""

    actors: tuple[str, ...]
    verbs: tuple[tuple[str, str, str], ...]
    things: tuple[str, ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(", "))


def _topic(actors: str, verbs: str, things: str) -> Topic:
    forms = [verb.split("/") for verb in _words(verbs)]
    return Topic(
        actors=_words(actors),
        verbs=tuple((base, past, present) for base, past, present in forms),
        things=_words(things),
    )


TOPICS: dict[str, Topic] = {
    "education": _topic(
        "school board, college council, teachers union, student group, language school, evening academy",
        "open/opened/opens, fund/funded/funds, plan/planned/plans, expand/expanded/expands, close/closed/closes",
        "science library, reading club, music classroom, chess course, coding workshop, summer school, "
        "exam centre, study hall",
    ),
    "transport": _topic(
        "transit agency, rail operator, cycling group, taxi guild, harbour office, road department",
        "build/built/builds, repair/repaired/repairs, test/tested/tests, delay/delayed/delays, "
        "cancel/cancelled/cancels",
        "tram line, bus lane, ferry route, night train, cycle bridge, parking garage, metro tunnel, ticket machine",
    ),
    "health": _topic(
        "city hospital, nurses union, health office, rural clinic, dental practice, ambulance service",
        "launch/launched/launches, fund/funded/funds, praise/praised/praises, review/reviewed/reviews, "
        "extend/extended/extends",
        "vaccine campaign, sleep study, walking programme, eye clinic, heart screening, diet survey, "
        "hearing test, care hotline",
    ),
    "sport": _topic(
        "football club, swimming team, tennis league, running club, rowing crew, hockey association",
        "win/won/wins, host/hosted/hosts, lose/lost/loses, postpone/postponed/postpones, "
        "celebrate/celebrated/celebrates",
        "cup final, night race, charity match, relay contest, junior tournament, home game, derby rematch, title bout",
    ),
    "food": _topic(
        "corner bakery, farmers market, cooking school, noodle bar, cheese maker, street kitchen",
        "serve/served/serves, invent/invented/invents, sell/sold/sells, share/shared/shares, rename/renamed/renames",
        "pumpkin soup, rye loaf, lemon tart, bean stew, goat cheese, plum jam, herb sauce, apple pie",
    ),
    "technology": _topic(
        "software firm, robotics lab, phone maker, games studio, data centre, chip factory",
        "unveil/unveiled/unveils, patent/patented/patents, recall/recalled/recalls, "
        "update/updated/updates, demonstrate/demonstrated/demonstrates",
        "garden robot, voice assistant, solar charger, weather app, delivery drone, privacy filter, "
        "smart lock, translation headset",
    ),
    "culture": _topic(
        "city museum, puppet theatre, jazz festival, poetry circle, film archive, dance company",
        "show/showed/shows, restore/restored/restores, buy/bought/buys, lend/lent/lends, stage/staged/stages",
        "lost painting, silent film, marble statue, folk opera, glass collection, shadow play, royal "
        "portrait, choir recording",
    ),
    "nature": _topic(
        "park service, bird society, forest office, beekeepers club, river trust, botanic garden",
        "protect/protected/protects, count/counted/counts, find/found/finds, plant/planted/plants, map/mapped/maps",
        "oak grove, reed bed, heron colony, wild orchard, flower meadow, moss garden, willow bank, seed bank",
    ),
}

PLACES = _words(
    "Aberdeen, Bergen, Bilbao, Bremen, Cardiff, Coimbra, Cork, Dresden, Galway, Genoa, Ghent, Graz, "
    "Leeds, Linz, Lyon, Malmo, Nantes, Odense, Oulu, Parma, Porto, Riga, Seville, Tartu, Trieste, "
    "Turin, Utrecht, Vilnius, York, Zadar"
)
PEOPLE = _words(
    "young families, night workers, local shops, older residents, weekend visitors, new parents, daily "
    "commuters, school children, volunteers, students, neighbours, newcomers"
)
REASONS = _words(
    "months of debate, a public vote, a generous gift, a long winter, two failed attempts, a record "
    "season, a surprise offer, years of waiting, a short trial, loud protests, a quiet request, a "
    "change of plans"
)
WEEKDAYS = _words("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday")


@dataclass(frozen=True)
class Event:
    """What an article tells."""

    topic: str
    actor: str
    verb: tuple[str, str, str]
    thing: str
    place: str
    people: str
    number: int
    reason: str
    weekday: str

    @property
    def core(self) -> tuple[str, str, str]:
        """What makes a headline: actor, verb and thing."""
        return self.actor, self.verb[0], self.thing

    def article(self) -> str:
        """The event in two plain sentences, at most 35 words."""
        return (
            f"The {self.actor} of {self.place} {self.verb[1]} {_one(self.thing)} on {self.weekday} "
            f"after {self.reason}. "
            f"The {self.topic} news has {self.number} benefits for {self.people}, officials said."
        )


def _one(thing: str) -> str:
    return f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}"


def _sentence(event: Event) -> str:
    return f"{event.actor} {event.verb[2]} {event.thing}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _shout(event: Event, ending: str) -> str:
    return f"{_sentence(event)}{ending}!".upper()


def _why(event: Event, ending: str) -> str:
    return f"Why did the {event.actor} {event.verb[0]} {_one(event.thing)}{ending}?"


def _topic_first(event: Event, ending: str) -> str:
    return f"{_capital(event.topic)}: {_sentence(event)}{ending}"


def _ways(event: Event, ending: str) -> str:
    return f"{event.number} ways the {event.thing} helps {event.people}{ending}"


def _winners(event: Event, ending: str) -> str:
    return f"{_capital(event.people)} win as {_sentence(event)}{ending}"


def _meaning(event: Event, ending: str) -> str:
    return f"{_capital(event.thing)}{ending}, and what it means for {event.people}"


HABITS: dict[str, Callable[[Event, str], str]] = {
    "shout": _shout,
    "why": _why,
    "topic": _topic_first,
    "ways": _ways,
    "winners": _winners,
    "meaning": _meaning,
}
"""The forms, by the name that starts their users' ids. At most 12 words each."""

ENDINGS = {"plain": "", "place": " in {place}", "day": " on {weekday}"}
"""What a user adds to every headline, by name."""

FORMS = {
    "shout": r"[^a-z]*[A-Z][^a-z]*!",
    "why": r"Why did the .+\?",
    "topic": rf"({'|'.join(map(_capital, TOPICS))}): .+",
    "ways": r"\d+ ways the .+",
    "winners": r".+ win as .+",
    "meaning": r".+, and what it means for .+",
}
"""What tells that a headline has a form: a pattern of all of it."""

ADDED = {"place": rf" in ({'|'.join(PLACES)})\b", "day": rf" on ({'|'.join(WEEKDAYS)})\b"}
"""What tells that a headline has an ending: a pattern that is found, in capitals or not."""


def habits_of(headline: str) -> tuple[str | None, str]:
    """Form, or None, and ending of a headline; with both endings it is neither's."""
    text = headline.strip()
    form = next((name for name, pattern in FORMS.items() if re.fullmatch(pattern, text)), None)
    endings = [name for name, pattern in ADDED.items() if re.search(pattern, text, re.IGNORECASE)]
    return form, " and ".join(endings) or "plain"


def keeps_form(answer: str, reference: str) -> float:
    """1.0 where an answer has the form of `reference`, a headline of `make_users`, else 0.0.

    Raises DataError for a reference without a form.
    """
    form, _ = habits_of(reference)
    if form is None:
        raise DataError(
            f"the reference {reference!r:.60} has no habit", hint="The data are not those of `perpcs synth`."
        )
    return float(habits_of(answer)[0] == form)


def keeps_ending(answer: str, reference: str) -> float:
    """1.0 where an answer ends as `reference` does, a headline of `make_users`, else 0.0."""
    return float(habits_of(answer)[1] == habits_of(reference)[1])


def make_users(count: int, history: int, queries: int, seed: int, forms: int = 4) -> list[User]:
    """`count` users, each with `history` dated items and `queries` queries with references.

    The first `forms` of HABITS are dealt out in turn; a user's id names the form, as `shout-000`. The ending is drawn.
    The same seed gives the same users, and a smaller `count` the first of them. No article occurs twice.
    Raises UsageError for sizes that are not possible.
    """
    if count < 1 or history < 0 or queries < 0 or not 1 <= history + queries <= MAX_ITEMS:
        raise UsageError(
            f"cannot make {count} users with {history} history items and {queries} queries",
            hint=f"There must be at least one user, and 1 to {MAX_ITEMS} items and queries for each.",
        )
    if not 1 <= forms <= len(HABITS):
        raise UsageError(f"there are 1 to {len(HABITS)} forms of headlines, not {forms}")
    names = list(HABITS)[:forms]
    told: set[str] = set()
    return [_make_user(names[i % forms], i // forms, history, queries, seed, told) for i in range(count)]


def _make_user(habit: str, number: int, history: int, queries: int, seed: int, told: set[str]) -> User:
    user_id = f"{habit}-{number:03d}"
    rng = random.Random(f"perpcs {seed} {user_id}")
    favourites = rng.sample(list(TOPICS), FAVOURITES)
    ending = rng.choice(list(ENDINGS.values()))
    cores: set[tuple[str, str, str]] = set()
    day = FIRST_DAY + timedelta(days=rng.randrange(365))
    pairs: list[tuple[date, str, str]] = []
    while len(pairs) < history + queries:
        later = day + timedelta(days=rng.randrange(1, 8))
        event = _draw(rng, favourites, WEEKDAYS[later.weekday()])
        article = event.article()
        if event.core in cores or article in told:
            continue
        cores.add(event.core)
        told.add(article)
        day = later
        pairs.append((day, article, HABITS[habit](event, ending.format(place=event.place, weekday=event.weekday))))
    items: list[Item] = [
        {"id": f"{user_id}-{i}", "date": day.isoformat(), "text": text, "title": title}
        for i, (day, text, title) in enumerate(pairs[:history])
    ]
    question = WORDINGS["LaMP_4"].form
    asked = [
        Query(id=f"{user_id}-q{i}", input=question.replace("TEXT", text), output=title)
        for i, (_, text, title) in enumerate(pairs[history:])
    ]
    return User(user_id=user_id, history=items, queries=asked)


def _draw(rng: random.Random, favourites: list[str], weekday: str) -> Event:
    name = rng.choice(favourites if rng.random() < FAVOURITE_SHARE else list(TOPICS))
    topic = TOPICS[name]
    return Event(
        topic=name,
        actor=rng.choice(topic.actors),
        verb=rng.choice(topic.verbs),
        thing=rng.choice(topic.things),
        place=rng.choice(PLACES),
        people=rng.choice(PEOPLE),
        number=rng.randrange(3, 10),
        reason=rng.choice(REASONS),
        weekday=weekday,
    )
