"""Token counts and digests of tokenizers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from clipdissect.utils import hashing

_SAMPLES = ["A photo of 3 cats, isn't it?", "naïve café", "", "word " * 600]


def count(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """Count the tokens per text for a tokenizer of open_clip, with special tokens."""
    if hasattr(tokenizer, "encode"):  # open_clip's SimpleTokenizer
        return [len(tokenizer.encode(text)) + 2 for text in texts]  # start and end token
    cleaned = [tokenizer.clean_fn(text) for text in texts]
    if tokenizer.tokenizer_mode == "clips":
        # open_clip adds start, end and class token.
        return [n + 3 for n in count_hf(tokenizer.tokenizer, cleaned, special=False)]
    return count_hf(tokenizer.tokenizer, cleaned)


def count_hf(tokenizer: Any, texts: Sequence[str], special: bool = True) -> list[int]:
    """Count the tokens per text for a tokenizer of transformers."""
    if not texts:
        return []
    encoded = tokenizer(
        list(texts), truncation=False, padding=False, add_special_tokens=special, verbose=False
    )
    return [len(ids) for ids in encoded.input_ids]


def digest_of(tokenizer: Any) -> str:
    """Return a digest of the vocabulary, rules, cleaning and context length."""
    inner = getattr(tokenizer, "tokenizer", None)
    vocabulary = _contents(inner) if inner is not None else sorted(tokenizer.encoder.items())
    return hashing.hash_values("open_clip tokenizer 1", vocabulary, tokenizer(_SAMPLES).tolist())


def digest_of_hf(tokenizer: Any, context_length: int) -> str:
    """Return `digest_of` for a tokenizer of transformers."""
    contents = _contents(tokenizer)
    return hashing.hash_values("hf tokenizer 1", contents, context_length, tokenizer.padding_side)


def _contents(tokenizer: Any) -> Any:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return [type(tokenizer).__qualname__, sorted(tokenizer.get_vocab().items())]
    rules = json.loads(backend.to_str())
    # These two depend on the last call.
    return {key: value for key, value in rules.items() if key not in ("truncation", "padding")}
