"""What scores are computed of, and what computes them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int

from clipdissect.errors import DissectError

Scores = dict[str, Float[np.ndarray, " pairs"]]  # by name; NaN where undefined


@dataclass(frozen=True)
class Pairs:
    """Units of one layer, each with a text; both may occur several times.

    Args:
        units: unit numbers of the layer.
        texts: indices into a list of texts.
    """

    units: Int[np.ndarray, " pairs"]
    texts: Int[np.ndarray, " pairs"]

    def __post_init__(self) -> None:
        if len(self.units) != len(self.texts):
            raise ValueError(f"{len(self.units)} units, but {len(self.texts)} texts")

    def __len__(self) -> int:
        return len(self.units)


class Unavailable(DissectError):
    """A scorer lacks an input; the message says which, and how to supply it."""


class Scorer(ABC):
    """Scores of one kind, larger is better; its constructor raises `Unavailable`."""

    name: ClassVar[str]
    takes: ClassVar[str] = ""  # what a text must be, if it must be anything
    facts: dict[str, Any]  # of its inputs, for the manifest

    @abstractmethod
    def score(self, layer: str, pairs: Pairs, texts: Sequence[str]) -> Scores:
        """Return the scores of the layer's units with `texts`, by column of the table."""

    def accepts(self, text: str) -> bool:
        """Return whether a text can have a score; control labels are such texts, too."""
        return True

    def pool(self, vocabulary: Sequence[str], labels: Sequence[str]) -> Sequence[str]:
        """Return the texts that random labels are drawn from.

        Args:
            vocabulary: what the labels were chosen from; empty: unknown.
            labels: the layer's that it accepts, each once.
        """
        return vocabulary or labels
