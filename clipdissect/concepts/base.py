"""A concept set and its cleaning."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from clipdissect.errors import DissectError
from clipdissect.utils import hashing
from clipdissect.utils.short_repr import short_repr
from clipdissect.utils.type_checks import check_choice

DUPLICATES = ("drop", "keep")


@dataclass(frozen=True)
class Concepts:
    """The paper's concept set `S`: the texts that may describe units."""

    name: str
    texts: tuple[str, ...]  # not blank, in order; repeated only with `duplicates=keep`
    dropped: dict[str, tuple[str, ...]] = field(default_factory=dict)  # by reason

    def __post_init__(self) -> None:
        if not self.texts:
            raise DissectError(f"concept set {self.name} is empty")

    def __repr__(self) -> str:
        return short_repr(self, self.summary)

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def summary(self) -> str:
        """Number of texts, and of those left out per reason."""
        left_out = ", ".join(f"{len(texts)} {why}" for why, texts in self.dropped.items())
        return f"{len(self)} texts" + (f"; left out: {left_out}" if left_out else "")

    @property
    def digest(self) -> str:
        """Cache key; changes with any text or their order."""
        return hashing.hash_values("concepts 1", self.texts)


Rule = Callable[[str], bool]


def clean(
    name: str,
    texts: Iterable[str],
    unwanted: dict[str, Rule] | None = None,
    duplicates: str = "drop",
) -> Concepts:
    """Strip white space; drop blank, unwanted and duplicate texts, preserving the order.

    `duplicates="keep"` retains repeats, as the published code does: each counts again in
    the softmax over concepts. `unwanted` maps a reason to a test.
    """
    check_choice("concepts.duplicates", duplicates, DUPLICATES)
    rules = {"blank": lambda text: not text, **(unwanted or {})}
    remaining: list[str] = []
    seen: set[str] = set()
    dropped: dict[str, list[str]] = {}
    for text in (" ".join(raw.split()) for raw in texts):
        reason = next((r for r, is_unwanted in rules.items() if is_unwanted(text)), None)
        if reason is None and text in seen and duplicates == "drop":
            reason = "duplicate"
        if reason is None:
            remaining.append(text)
            seen.add(text)
        else:
            dropped.setdefault(reason, []).append(text)
    return Concepts(name, tuple(remaining), {r: tuple(t) for r, t in dropped.items()})
