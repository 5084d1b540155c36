"""Concept sets: the texts that may describe units. `OPTIONS` maps names to functions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Set
from pathlib import Path
from typing import Any

from clipdissect.concepts.base import Concepts
from clipdissect.concepts.class_names import broden, cifar100, imagenet, places365
from clipdissect.concepts.sources import (
    ef_3k,
    file,
    google_10k,
    google_20k,
    of_list,
    union,
    wordfreq,
    wordfreq_3k,
    wordfreq_10k,
    wordfreq_20k,
    wordnet_nouns,
)
from clipdissect.errors import DissectError, unknown
from clipdissect.utils import registry
from clipdissect.utils.paths import is_wrong_name
from clipdissect.utils.type_checks import shortened

OPTIONS: dict[str, Callable[..., Concepts]] = {
    "broden": broden,
    "cifar100": cifar100,
    "ef_3k": ef_3k,
    "file": file,
    "google_10k": google_10k,
    "google_20k": google_20k,
    "imagenet": imagenet,
    "list": of_list,
    "places365": places365,
    "union": union,
    "wordfreq": wordfreq,
    "wordfreq_10k": wordfreq_10k,
    "wordfreq_20k": wordfreq_20k,
    "wordfreq_3k": wordfreq_3k,
    "wordnet_nouns": wordnet_nouns,
}

__all__ = ["OPTIONS", "Concepts", "build", "file", "of_list", "resolve"]

log = logging.getLogger(__name__)


def build(name: str, **parameters: Any) -> Concepts:
    return _log_dropped(registry.build("concepts", OPTIONS, name, parameters))


def resolve(source: Concepts | Iterable[str] | Mapping[str, Any] | str | Path) -> Concepts:
    """Return the concept set of an option's name or mapping, a list, or a file's path."""
    if isinstance(source, Concepts):
        return source
    if isinstance(source, str) and source in OPTIONS:
        return build(source)
    if isinstance(source, str) and is_wrong_name(source):
        message = unknown("concept set or text file", source, OPTIONS)
        raise DissectError(f"{message}. To give the texts themselves, pass a list")
    if isinstance(source, (str, Path)):
        return _log_dropped(file(str(source)))
    if isinstance(source, Mapping):
        return registry.named("concepts", build, source)
    if not isinstance(source, Iterable) or isinstance(source, (bytes, Set)):
        raise DissectError(
            f"concepts must be a list of texts, a text file or the name of a concept set; got "
            f"{shortened(source)}"
        )
    return _log_dropped(of_list(list(source)))


def _log_dropped(concepts: Concepts) -> Concepts:
    if concepts.dropped:
        log.info("concepts %s: %s", concepts.name, concepts.summary)
    return concepts
