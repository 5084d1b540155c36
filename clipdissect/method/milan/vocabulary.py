"""The vocabulary of a MILAN checkpoint: numbers of tokens, and texts from them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

SPECIALS = 4  # start, stop, padding, unknown: in this order after the tokens


@dataclass(frozen=True)
class Vocabulary:
    """The tokens, most frequent first, and the special ones after them."""

    tokens: tuple[str, ...]

    def __len__(self) -> int:
        """Count the special tokens, too."""
        return len(self.tokens) + SPECIALS

    @property
    def start(self) -> int:
        return len(self.tokens)

    @property
    def stop(self) -> int:
        return len(self.tokens) + 1

    def text(self, numbers: Sequence[int]) -> str:
        """Return the text of tokens up to the first stop token, without special ones."""
        before = numbers[: numbers.index(self.stop)] if self.stop in numbers else numbers
        return sentence([self.tokens[n] for n in before if n < len(self.tokens)])


def sentence(words: Sequence[str]) -> str:
    """Join words: no space before `. , ; :` nor around `-`, a capital for each sentence."""
    text = re.sub(r" ([.,;:])", r"\1", " ".join(words))
    text = re.sub(r" ?- ?", "-", text)
    return ". ".join(part.capitalize() for part in text.split(". "))
