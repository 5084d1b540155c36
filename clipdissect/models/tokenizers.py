"""How tokenizers count: what a text tower sees of a text, and what it doesn't."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from clipdissect.utils import hashing

_SAMPLES = ["A photo of 3 cats, isn't it?", "naïve café", "", "word " * 600]


def count(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """Tokens of each text with the special ones, for one of open_clip's tokenizers.

    CLIP's adds a start and an end token; when a text is too long, the end token takes the last
    place. Those of the hub clean the text first and add what their files say: SigLIP's only an
    end token. In the mode `clips`, start, end and class token are added by open_clip.
    """
    if hasattr(tokenizer, "encode"):  # open_clip's SimpleTokenizer
        return [len(tokenizer.encode(text)) + 2 for text in texts]
    cleaned = [tokenizer.clean_fn(text) for text in texts]
    if tokenizer.tokenizer_mode == "clips":
        return [n + 3 for n in count_hf(tokenizer.tokenizer, cleaned, special=False)]
    return count_hf(tokenizer.tokenizer, cleaned)


def count_hf(tokenizer: Any, texts: Sequence[str], special: bool = True) -> list[int]:
    """Tokens of each text for a tokenizer of transformers."""
    if not texts:
        return []
    found = tokenizer(
        list(texts), truncation=False, padding=False, add_special_tokens=special, verbose=False
    )
    return [len(ids) for ids in found.input_ids]


def digest_of(tokenizer: Any) -> str:
    """Changes with the vocabulary, the rules, the cleaning and the context length."""
    inner = getattr(tokenizer, "tokenizer", None)
    vocabulary = _inside(inner) if inner is not None else sorted(tokenizer.encoder.items())
    return hashing.hash_values("open_clip tokenizer 1", vocabulary, tokenizer(_SAMPLES).tolist())


def digest_of_hf(tokenizer: Any, context_length: int) -> str:
    """The same for a tokenizer of transformers."""
    return hashing.hash_values(
        "hf tokenizer 1", _inside(tokenizer), context_length, tokenizer.padding_side
    )


def _inside(tokenizer: Any) -> Any:
    """All of a tokenizer of transformers, as JSON-able values."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return [type(tokenizer).__qualname__, sorted(tokenizer.get_vocab().items())]
    rules = json.loads(backend.to_str())
    # These two are whatever the last call asked for.
    return {key: value for key, value in rules.items() if key not in ("truncation", "padding")}
