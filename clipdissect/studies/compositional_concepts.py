"""Phrases of a unit's best concepts: do they describe it better than one word? (Sec. 4.6, Fig. 5)

A phrase is embedded once, however many units try it, and scored for all units at once, because the
marginal of WPMI and SoftWPMI is over all units in any case.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from clipdissect.errors import DissectError
from clipdissect.evaluation import Resampling
from clipdissect.similarity import Similarity
from clipdissect.similarity.base import Activations
from clipdissect.similarity.inputs import Best, ConceptActivations
from clipdissect.studies.numbers import check_least, mean_interval
from clipdissect.studies.phrase_scores import Scorer, alone, scorer

NORMALISERS = ("concepts", "candidates")
CHUNK = 8192  # phrases embedded and scored at a time

Embed = Callable[[Sequence[str]], Float[Tensor, "texts dims"]]


@dataclass(frozen=True, kw_only=True)
class CompositionalConcepts:
    """Settings of the study.

    Args:
        templates: how two texts become a phrase, `{}` for each; both orders of two are tried.
        words: best concepts of a unit to combine.
        length: words of the longest phrase.
        beam: a unit's best phrases that are made longer by each of its words.
        normaliser: the set that probabilities are over: `concepts`, the concept set, the same for
            words and phrases of all units; or `candidates`, each unit's own phrases, as released
            (slow, and no phrase's score can be compared with a word's).
        units: only a layer's first so many living units; None for all.
        panels: units in the figure of images; 0 for no such figure.
        panel_images: top images of each.

    Raises:
        DissectError: a value that isn't allowed.
    """

    templates: list[str]
    words: int = 100
    length: int = 2
    beam: int = 20
    normaliser: str = "concepts"
    units: int | None = None
    panels: int = 8
    panel_images: int = 5
    name: ClassVar[str] = "compositional_concepts"

    def __post_init__(self) -> None:
        """Check the settings."""
        check_least(
            self.name, words=(self.words, 2), length=(self.length, 2), beam=(self.beam, 1),
            units=(1 if self.units is None else self.units, 1), panels=(self.panels, 0),
            panel_images=(self.panel_images, 1),
        )  # fmt: skip
        wrong = [t for t in self.templates if t.count("{}") != 2 or t.count("{") != 2]
        if wrong or not self.templates:
            raise DissectError(
                f"study.templates is {list(self.templates)}: each needs two {{}}, as in '{{}} {{}}'"
            )
        if self.normaliser not in NORMALISERS:
            raise DissectError(
                f"study.normaliser is '{self.normaliser}'; it can be {' or '.join(NORMALISERS)}"
            )
        if self.normaliser == "candidates" and self.length > 2:
            raise DissectError("study.normaliser=candidates is for phrases of two: study.length=2")


@dataclass(eq=False)
class Phrases:
    """Every unit's best phrases, best first.

    Args:
        texts: `[units][n]`.
        scores: `[units, n]`, float32.
        tried: phrases that were embedded, one for each template and ordered pair of texts, however
            many units try it.
        pairs: units' phrases that were scored, a phrase counted for each unit that tries it.
        seconds: embedding and scoring.
    """

    texts: list[list[str]]
    scores: Float[np.ndarray, "units n"]
    tried: int = 0
    pairs: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {"embed": 0.0, "score": 0.0})

    @property
    def rate(self) -> float:
        """Distinct phrases embedded and scored for all units, per second."""
        return self.tried / max(sum(self.seconds.values()), 1e-9)


def search(
    study: CompositionalConcepts, similarity: Similarity, activations: ConceptActivations,
    q: Activations, words: Best, texts: Sequence[str], embed: Embed, top: int,
) -> Phrases:  # fmt: skip
    """The best phrases of every unit.

    Args:
        study: the settings.
        similarity: the similarity function.
        activations: image embeddings, and embeddings of the concept set.
        q: activations of the layer's living units, `[images, units]`, or their top images.
        words: each unit's best concepts.
        texts: the concepts.
        embed: texts to embeddings `[texts, dims]`, of the same encoder.
        top: phrases a unit to return.

    Raises:
        DissectError: fewer than two concepts.

    Source: Sec. 4.6 (pairs of the 100 best concepts of a unit).
    """
    own = words.concepts[:, : study.words].cpu().numpy()
    own = own[: study.units] if study.units else own
    if own.shape[1] < 2:
        raise DissectError("phrases need at least two concepts")
    keep = max(top, study.beam) if study.length > 2 else top
    found = Phrases([[] for _ in own], np.zeros((len(own), 0), np.float32))
    if study.normaliser == "candidates":
        pairs = _Candidates.pairs(own, texts, study.templates)
        return _each_alone(found, pairs, similarity, activations, q, embed, top)
    score = scorer(similarity, activations, q)
    for length in range(2, study.length + 1):
        if length == 2:
            candidates = _Candidates.pairs(own, texts, study.templates)
        else:
            candidates = _Candidates.longer(found, own, texts, study)
        _add(found, candidates, score, embed, keep)
    found.texts = [own[:top] for own in found.texts]
    found.scores = found.scores[:, :top]
    return found


@dataclass(eq=False)
class _Candidates:
    """Distinct phrases, each with the units that try it; built as text only when needed.

    A phrase's number is `(template * first texts + first) * concepts + second`.
    """

    first: Sequence[str]
    second: Sequence[str]
    templates: Sequence[str]
    numbers: Int[np.ndarray, " phrases"]
    starts: Int[np.ndarray, " phrases_1"]
    units: Int[np.ndarray, " pairs"]

    @classmethod
    def pairs(
        cls, own: Int[np.ndarray, "units words"], texts: Sequence[str], templates: Sequence[str]
    ) -> _Candidates:
        """All ordered pairs of different words of each unit."""
        count = own.shape[1]
        left, right = np.nonzero(~np.eye(count, dtype=bool))
        return cls._of(own[:, left], own[:, right], texts, texts, templates)

    @classmethod
    def longer(
        cls, found: Phrases, own: Int[np.ndarray, "units words"], texts: Sequence[str],
        study: CompositionalConcepts,
    ) -> _Candidates:  # fmt: skip
        """Each unit's best phrases, with each of its words behind."""
        beams = [phrases[: study.beam] for phrases in found.texts]
        first = list(dict.fromkeys(text for beam in beams for text in beam))
        number = {text: i for i, text in enumerate(first)}
        width = max(map(len, beams))
        # A unit with fewer phrases has its last one more often, which changes nothing.
        full = ([*beam, *beam[-1:] * (width - len(beam))] for beam in beams)
        places = np.array([[number[text] for text in beam] for beam in full])
        left = np.repeat(places, own.shape[1], axis=1)
        return cls._of(left, np.tile(own, (1, width)), first, texts, study.templates)

    @classmethod
    def _of(
        cls, left: np.ndarray, right: np.ndarray, first: Sequence[str], second: Sequence[str],
        templates: Sequence[str],
    ) -> _Candidates:  # fmt: skip
        codes = left.astype(np.int64) * len(second) + right
        step = len(first) * len(second)
        codes = np.concatenate([codes + i * step for i in range(len(templates))], axis=1)
        units = np.repeat(np.arange(len(codes)), codes.shape[1])
        order = np.argsort(codes, axis=None, kind="stable")
        numbers, counts = np.unique(codes, return_counts=True)
        starts = np.concatenate([[0], counts.cumsum()])
        return cls(first, second, templates, numbers, starts, units[order])

    def __len__(self) -> int:
        return len(self.numbers)

    def text(self, number: int) -> str:
        """A phrase."""
        rest, second = divmod(int(number), len(self.second))
        template, first = divmod(rest, len(self.first))
        return self.templates[template].format(self.first[first], self.second[second])

    def chunks(self, size: int) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
        """Texts, and the pairs of unit and place among the texts."""
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            texts = [self.text(number) for number in self.numbers[start:stop]]
            ends = self.starts[start : stop + 1]
            places = np.repeat(np.arange(stop - start), np.diff(ends))
            yield texts, self.units[ends[0] : ends[-1]], places


def _add(found: Phrases, candidates: _Candidates, score: Scorer, embed: Embed, keep: int) -> None:
    """Score the candidates, and merge them into each unit's best."""
    bar = tqdm(total=len(candidates), desc="phrases", disable=None, leave=False)
    for texts, units, places in candidates.chunks(CHUNK):
        start = time.perf_counter()
        embeds = embed(texts)
        between = time.perf_counter()
        scores = score(embeds)[torch.from_numpy(units), torch.from_numpy(places)].cpu().numpy()
        _merge(found, texts, units, places, scores, keep)
        found.seconds["embed"] += between - start
        found.seconds["score"] += time.perf_counter() - between
        found.tried += len(texts)
        found.pairs += len(units)
        bar.update(len(texts))
    bar.close()


def _merge(
    found: Phrases, texts: Sequence[str], units: np.ndarray, places: np.ndarray,
    scores: np.ndarray, keep: int,
) -> None:  # fmt: skip
    """Equal scores stay in the order in which they came; a phrase is listed once.

    Different pairs can be the same phrase: "new york" and "city", "new" and "york city".
    """
    order = np.lexsort((-scores, units))
    units, places, scores = units[order], places[order], scores[order]
    bounds = np.searchsorted(units, np.arange(len(found.texts) + 1))
    best = np.full((len(found.texts), keep), -np.inf, np.float32)
    for unit, (start, stop) in enumerate(pairwise(bounds)):
        listed = dict(zip(found.texts[unit], found.scores[unit].tolist(), strict=False))
        most = len(listed) + keep
        for i in range(start, stop):
            if len(listed) == most:
                break
            listed.setdefault(texts[places[i]], float(scores[i]))
        both = sorted(listed.items(), key=lambda pair: -pair[1])[:keep]
        found.texts[unit] = [text for text, _ in both]
        best[unit, : len(both)] = [score for _, score in both]
    found.scores = best


def _each_alone(
    found: Phrases, candidates: _Candidates, similarity: Similarity,
    activations: ConceptActivations, q: Activations, embed: Embed, top: int,
) -> Phrases:  # fmt: skip
    """The released way: every unit's phrases are the whole concept set of its scores."""
    each: list[list[str]] = [[] for _ in found.texts]
    for texts, units, places in candidates.chunks(CHUNK):
        for unit, place in zip(units, places, strict=True):
            each[unit].append(texts[place])
    each = [list(dict.fromkeys(texts)) for texts in each]
    found.scores = np.full((len(each), top), -np.inf, np.float32)
    for unit, texts in enumerate(tqdm(each, "units", disable=None, leave=False)):
        start = time.perf_counter()
        embeds = embed(texts)
        between = time.perf_counter()
        scores = alone(similarity, activations.image_embeds, embeds, q)[unit].cpu().numpy()
        order = np.argsort(-scores, kind="stable")[:top]
        found.texts[unit] = [texts[i] for i in order]
        found.scores[unit, : len(order)] = scores[order]
        found.seconds["embed"] += between - start
        found.seconds["score"] += time.perf_counter() - between
        found.pairs += len(texts)
    found.tried = found.pairs  # a phrase of two units is embedded twice
    return found


def compared(values: dict[str, np.ndarray], how: Resampling) -> dict[str, Any]:
    """JSON-able means with intervals, and paired differences to the single words.

    Args:
        values: `words` and others, each one number a unit; NaN where there is none.
        how: the intervals are made.
    """
    means = {name: mean_interval(column, how) for name, column in values.items()}
    minus = {
        f"{name}_minus_words": mean_interval(column - values["words"], how)
        for name, column in values.items()
        if name != "words"
    }
    return {**means, **minus}
