"""Concept sets: the texts that units may be described by. `OPTIONS` lists the functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from clipdissect import options
from clipdissect.concepts.base import Concepts
from clipdissect.concepts.sources import file, google_20k, imagenet, of_list, wordfreq
from clipdissect.errors import DissectError

OPTIONS: dict[str, Callable[..., Concepts]] = {
    "file": file,
    "google_20k": google_20k,
    "imagenet": imagenet,
    "list": of_list,
    "wordfreq": wordfreq,
}

__all__ = ["OPTIONS", "Concepts", "build", "resolve"]


def build(name: str, **parameters: Any) -> Concepts:
    """The concept set of a name.

    Raises:
        DissectError: unknown name or parameter; lists the valid ones.
    """
    concepts: Concepts = options.call("concepts", OPTIONS, name, parameters)
    return concepts


def resolve(what: Concepts | Sequence[str] | str | Path) -> Concepts:
    """A concept set from a `Concepts`, a list of texts, an option's name, or a text file's path.

    Raises:
        DissectError: an empty set, or an unreadable file.
    """
    if isinstance(what, Concepts):
        return what
    if isinstance(what, str) and what in OPTIONS:
        return build(what)
    if isinstance(what, (str, Path)):
        return file(str(what))
    if not isinstance(what, Iterable):
        raise DissectError(f"concepts must be a list of texts, or a text file; got {what!r}")
    return of_list(list(what))
