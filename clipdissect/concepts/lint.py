"""Find texts in a concept set that a user may want to change."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from clipdissect.concepts.base import Concepts

# Context length of CLIP's text encoder, including start and end tokens.
CONTEXT = 77
LONG = "longer than the encoder's context"
ALIKE = "differ only in case, spaces or unicode form"


def lint(concepts: Concepts, context: int = CONTEXT) -> dict[str, tuple[str, ...]]:
    """Map kinds of findings to texts: those that cleaning dropped, and doubtful others."""
    findings = {LONG: too_long(concepts.texts, context), ALIKE: alike(concepts.texts)}
    return {**concepts.dropped, **{kind: texts for kind, texts in findings.items() if texts}}


def too_long(texts: Sequence[str], context: int = CONTEXT) -> tuple[str, ...]:
    """Return the texts with more of CLIP's tokens than a text encoder reads."""
    # A token is at least a byte, so short texts don't need the tokenizer.
    candidates = [text for text in texts if len(text.encode()) + 2 > context]
    if not candidates:
        return ()
    from open_clip.tokenizer import SimpleTokenizer

    encode = SimpleTokenizer().encode
    return tuple(text for text in candidates if len(encode(text)) + 2 > context)


def alike(texts: Sequence[str]) -> tuple[str, ...]:
    """Return texts that a reader would consider equal, as `Ice cream | icecream`."""
    groups: dict[str, dict[str, None]] = {}
    for text in texts:
        key = "".join(unicodedata.normalize("NFKC", text).casefold().split())
        groups.setdefault(key, {})[text] = None
    return tuple(" | ".join(group) for group in groups.values() if len(group) > 1)
