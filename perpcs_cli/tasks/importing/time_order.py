"""The time order of a history, where its items have dates that can be compared."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from perpcs_cli.artifacts.users import Item

_ISO_DATE = re.compile(r"[0-9]{4}(-[0-9]{2}(-[0-9]{2}([T ].*)?)?)?")
DAY = len("2019-03-07")
_NUMBER = re.compile(r"[0-9]{1,20}")


def in_time_order(items: list[Item]) -> list[Item] | None:
    """The items sorted by `date`, equal dates in the given order; None where not all dates can be compared.

    Dates are ISO 8601 (`2019`, `2019-03`, `2019-03-07`, `2019-03-07T10:00+01:00`; times without a zone are UTC), or
    numbers: years or timestamps.
    """
    dates = [str(item.get("date", "")) for item in items]
    numbers = all(_NUMBER.fullmatch(date) for date in dates)
    moments = [timedelta(0) if numbers else _moment(date) for date in dates]
    keys = [(int(date) if numbers else 0, at) for date, at in zip(dates, moments, strict=True) if at is not None]
    if len(keys) < len(items):
        return None
    return [items[place] for place in sorted(range(len(items)), key=keys.__getitem__)]


def _moment(date: str) -> timedelta | None:
    """The time from the year 1 to a date in UTC; None where it cannot be read."""
    if not _ISO_DATE.fullmatch(date):
        return None
    whole = date + "-01" * (2 - date[:10].count("-"))
    # A day has no zone.
    zoned = whole if len(date) <= DAY else re.sub(r" (?=[+-])", "", re.sub(r" ?(UTC|GMT|Z)$", "+00:00", whole))
    try:
        at = datetime.fromisoformat(zoned)
    except ValueError:
        return None
    return at.replace(tzinfo=None) - datetime.min - (at.utcoffset() or timedelta(0))
