"""What a user may want to mend in a list of concepts."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from clipdissect.concepts.base import Concepts

# Tokens that CLIP's text encoder takes, its start and end marks among them.
CONTEXT = 77
LONG = "longer than the encoder's context"
ALIKE = "differ only in case, spaces or unicode form"


def lint(concepts: Concepts, context: int = CONTEXT) -> dict[str, tuple[str, ...]]:
    """Kind of finding to the texts found: what cleaning left out, and what it left in doubt.

    Args:
        concepts: the cleaned set.
        context: tokens of CLIP's tokenizer that the text encoder takes, marks included.
    """
    found = dict(concepts.dropped)
    for kind, texts in ((LONG, too_long(concepts.texts, context)), (ALIKE, alike(concepts.texts))):
        if texts:
            found[kind] = texts
    return found


def too_long(texts: Sequence[str], context: int = CONTEXT) -> tuple[str, ...]:
    """Texts with more tokens than a text encoder takes, counted by CLIP's tokenizer."""
    # A token is at least a byte, so the tokenizer need not be loaded for the sake of short texts.
    candidates = [text for text in texts if len(text.encode()) + 2 > context]
    if not candidates:
        return ()
    from open_clip.tokenizer import SimpleTokenizer

    encode = SimpleTokenizer().encode
    return tuple(text for text in candidates if len(encode(text)) + 2 > context)


def alike(texts: Sequence[str]) -> tuple[str, ...]:
    """Different texts that a reader would take for one, each group as `Ice cream | icecream`."""
    groups: dict[str, dict[str, None]] = {}
    for text in texts:
        key = "".join(unicodedata.normalize("NFKC", text).casefold().split())
        groups.setdefault(key, {})[text] = None
    return tuple(" | ".join(group) for group in groups.values() if len(group) > 1)
