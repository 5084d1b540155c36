"""Objects in one line, for `repr`: a dataclass's own lists whole networks and file lists."""

from __future__ import annotations

from typing import Any

MOST = 60  # characters of a list


def short_repr(value: Any, *facts: str) -> str:
    """Return `<Class name: facts>` of an object with a name."""
    known = "; ".join(filter(None, facts))
    kind = type(value).__name__.removeprefix("Lazy")  # built at the first use, but the same
    return f"<{kind} {value.name}{': ' if known else ''}{known}>"


def count(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is 1."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(names: tuple[str, ...]) -> str:
    """Return names separated by commas, cut after about 60 characters."""
    text = ", ".join(names)
    return text if len(text) <= MOST else f"{text[:MOST].rpartition(',')[0] or text[:MOST]}, ..."
