"""Unions of concept sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from clipdissect.concepts.base import Concepts, clean
from clipdissect.errors import DissectError
from clipdissect.utils import registry


def union(parts: list[Any], duplicates: str = "drop") -> Concepts:
    """The texts of several sets, one set after the other.

    Args:
        parts: each a set's name, `{name: file, path: words.txt}` with its parameters, or a
            `Concepts`.
        duplicates: `drop` or `keep` texts of more than one part; see `clean`.

    Raises:
        DissectError: no parts, or something that is none.
        MissingResource: from a part.
    """
    if isinstance(parts, (str, Mapping)) or not isinstance(parts, Sequence):
        raise DissectError(
            f"concepts.parts must be a list, such as [imagenet, broden]; got {parts!r}"
        )
    sets = [_part(part) for part in parts]
    whole = clean("union", [text for one in sets for text in one.texts], duplicates=duplicates)
    dropped = dict(whole.dropped)
    for one in sets:
        for why, texts in one.dropped.items():
            dropped[why] = (*texts, *dropped.get(why, ()))
    names = dict.fromkeys(one.name for one in sets)
    return replace(whole, name=" + ".join(names), dropped=dropped)


def _part(part: Any) -> Concepts:
    from clipdissect.concepts import build  # which has `union` among its options

    return registry.part("concept set", "set", Concepts, build, part)
