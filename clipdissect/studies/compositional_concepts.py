"""Phrases of a unit's best concepts, compared with single words (Sec. 4.6, Fig. 5)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from clipdissect.errors import DissectError
from clipdissect.evaluation import Resampling
from clipdissect.similarity import Similarity, kernels
from clipdissect.similarity.base import Activations
from clipdissect.similarity.inputs import Best, ConceptActivations
from clipdissect.similarity.ranking import as_top
from clipdissect.similarity.soft_wpmi import SoftWpmi, membership
from clipdissect.similarity.softmax import Exponentials, safe_group, union
from clipdissect.similarity.sources import Factors, concept_blocks, product
from clipdissect.similarity.wpmi import Wpmi
from clipdissect.studies.numbers import check_least, mean_interval
from clipdissect.utils.progress import progress
from clipdissect.utils.type_checks import check_choice

CHUNK = 8192  # phrases embedded and scored at a time

Embed = Callable[[Sequence[str]], Float[Tensor, "texts dims"]]
Words = Int[np.ndarray, "units words"]
# Above it the constant term of a factor is negligible; exp(80) is a normal float32.
_LARGEST_EXPONENT = 80.0

Scorer = Callable[[Float[Tensor, "texts dims"]], Float[Tensor, "units texts"]]
LogJoint = Callable[
    [Float[Tensor, "images texts"], Int[Tensor, "units k"]], Float[Tensor, "units texts"]
]


@dataclass(frozen=True, kw_only=True)
class CompositionalConcepts:
    """Settings of the study.

    Args:
        templates: each combines two texts, written as `{}`, into a phrase, in both orders.
        words: best concepts per unit to combine.
        length: words in the longest phrase.
        beam: best phrases per unit that are extended by each of its words.
        normaliser: set for the probabilities: `concepts`, which makes phrase and word scores
            comparable, or `candidates`, each unit's phrases, as released (slow).
        units: only the first live units of a layer; None for all.
        panels: units in the figure of images; 0 disables it.
        panel_images: top images per unit.
    """

    templates: list[str]
    words: int = 100
    length: int = 2
    beam: int = 20
    normaliser: str = "concepts"
    units: int | None = None
    panels: int = 8
    panel_images: int = 5

    def __post_init__(self) -> None:
        check_least(self, words=2, length=2, beam=1, units=1, panels=0, panel_images=1)
        wrong = [t for t in self.templates if t.count("{}") != 2 or t.count("{") != 2]
        if wrong or not self.templates:
            raise DissectError(
                f"study.templates is {list(self.templates)}: each needs two {{}}, as in '{{}} {{}}'"
            )
        check_choice("study.normaliser", self.normaliser, ("concepts", "candidates"))
        if self.normaliser == "candidates" and self.length > 2:
            raise DissectError("study.normaliser=candidates is for phrases of two: study.length=2")


@dataclass(eq=False)
class Phrases:
    """Every unit's best phrases, best first, padded with scores of -inf."""

    texts: list[list[str]]
    scores: Float[np.ndarray, "units n"]
    tried: int = 0  # distinct phrases embedded
    pairs: int = 0  # of a unit and a phrase, scored
    seconds: dict[str, float] = field(default_factory=lambda: {"embed": 0.0, "score": 0.0})

    @property
    def rate(self) -> float:
        return self.tried / max(sum(self.seconds.values()), 1e-9)

    def score(self, texts: Sequence[str], embed: Embed, scorer: Scorer, pairs: Any) -> np.ndarray:
        """Score pairs of unit and text; count texts, pairs and seconds."""
        start = time.perf_counter()
        embeds = embed(texts)
        embedded = time.perf_counter()
        scores: np.ndarray = scorer(embeds)[pairs].cpu().numpy()
        self.seconds["embed"] += embedded - start
        self.seconds["score"] += time.perf_counter() - embedded
        self.tried += len(texts)
        self.pairs += scores.size
        return scores


def search(
    study: CompositionalConcepts,
    similarity: Similarity,
    activations: ConceptActivations,
    q: Activations,
    best: Best,
    concepts: Sequence[str],
    embed: Embed,
    top: int,
) -> Phrases:
    """Return the best phrases of every unit, by beam search (Sec. 4.6: pairs of 100 concepts).

    Each phrase is embedded once and scored for all units at once, because the marginal of WPMI
    and SoftWPMI is over all units.
    """
    words = best.concepts[: study.units, : study.words].cpu().numpy()
    if words.shape[1] < 2:
        raise DissectError("phrases need at least two concepts")
    phrases = Phrases([[] for _ in words], np.zeros((len(words), 0), np.float32))
    candidates = _Candidates.pairs(words, concepts, study.templates)
    if study.normaliser == "candidates":
        _score_each_unit(phrases, candidates, similarity, activations, q, embed, top)
        return phrases
    score = scorer(similarity, activations, q)
    keep = max(top, study.beam) if study.length > 2 else top
    for length in range(2, study.length + 1):
        if length > 2:
            candidates = _Candidates.longer(phrases, words, concepts, study)
        with progress(len(candidates), "phrases", "phrases") as bar:
            for texts, units, places in candidates.chunks(CHUNK):
                pairs = torch.from_numpy(units), torch.from_numpy(places)
                scores = phrases.score(texts, embed, score, pairs)
                _merge(phrases, texts, units, places, scores, keep)
                bar.update(len(texts))
    phrases.texts = [texts[:top] for texts in phrases.texts]
    phrases.scores = phrases.scores[:, :top]
    return phrases


@dataclass(eq=False)
class _Candidates:
    """Distinct phrases, each with the units that try it; texts are built lazily.

    Number of a phrase: `(template * first texts + first) * second texts + second`.
    """

    first: Sequence[str]
    second: Sequence[str]
    templates: Sequence[str]
    numbers: Int[np.ndarray, " phrases"]
    starts: Int[np.ndarray, " phrases_1"]
    units: Int[np.ndarray, " pairs"]

    @classmethod
    def pairs(cls, words: Words, concepts: Sequence[str], templates: Sequence[str]) -> _Candidates:
        left, right = np.nonzero(~np.eye(words.shape[1], dtype=bool))
        return cls._of(words[:, left], words[:, right], concepts, concepts, templates)

    @classmethod
    def longer(
        cls,
        phrases: Phrases,
        words: Words,
        concepts: Sequence[str],
        study: CompositionalConcepts,
    ) -> _Candidates:
        beams = [texts[: study.beam] for texts in phrases.texts]
        first = list(dict.fromkeys(text for beam in beams for text in beam))
        number = {text: i for i, text in enumerate(first)}
        width = max(map(len, beams))
        # Shorter beams repeat their last phrase, which changes no result.
        padded = ([*beam, *beam[-1:] * (width - len(beam))] for beam in beams)
        left = np.array([[number[text] for text in beam] for beam in padded])
        left = np.repeat(left, words.shape[1], axis=1)
        return cls._of(left, np.tile(words, (1, width)), first, concepts, study.templates)

    @classmethod
    def _of(
        cls,
        left: np.ndarray,
        right: np.ndarray,
        first: Sequence[str],
        second: Sequence[str],
        templates: Sequence[str],
    ) -> _Candidates:
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
        rest, second = divmod(int(number), len(self.second))
        template, first = divmod(rest, len(self.first))
        return self.templates[template].format(self.first[first], self.second[second])

    def chunks(self, size: int) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
        """Yield texts, and the unit and text indices of the pairs to score."""
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            texts = [self.text(number) for number in self.numbers[start:stop]]
            ends = self.starts[start : stop + 1]
            places = np.repeat(np.arange(stop - start), np.diff(ends))
            yield texts, self.units[ends[0] : ends[-1]], places


def _merge(
    phrases: Phrases,
    texts: Sequence[str],
    units: np.ndarray,
    places: np.ndarray,
    scores: np.ndarray,
    keep: int,
) -> None:
    """Merge scored phrases into each unit's best, stably and without duplicates."""
    order = np.lexsort((-scores, units))
    units, places, scores = units[order], places[order], scores[order]
    bounds = np.searchsorted(units, np.arange(len(phrases.texts) + 1))
    best = np.full((len(phrases.texts), keep), -np.inf, np.float32)
    for unit, (start, stop) in enumerate(pairwise(bounds)):
        score_of = dict(zip(phrases.texts[unit], phrases.scores[unit].tolist(), strict=False))
        limit = len(score_of) + keep
        for i in range(start, stop):
            if len(score_of) == limit:
                break
            # Different pairs can give the same phrase: "new york" + "city", "new" + "york city".
            score_of.setdefault(texts[places[i]], float(scores[i]))
        ranked = sorted(score_of.items(), key=lambda pair: -pair[1])[:keep]
        phrases.texts[unit] = [text for text, _ in ranked]
        best[unit, : len(ranked)] = [score for _, score in ranked]
    phrases.scores = best


def _score_each_unit(
    phrases: Phrases,
    candidates: _Candidates,
    similarity: Similarity,
    activations: ConceptActivations,
    q: Activations,
    embed: Embed,
    top: int,
) -> None:
    """Score each unit's phrases as the whole concept set, as in the released code."""
    score_alone = partial(alone, similarity, activations.image_embeds, q)
    # An ordered set: different pairs can give the same phrase.
    candidates_of: list[dict[str, None]] = [{} for _ in phrases.texts]
    for texts, units, places in candidates.chunks(CHUNK):
        for unit, place in zip(units, places, strict=True):
            candidates_of[unit][texts[place]] = None
    phrases.scores = np.full((len(candidates_of), top), -np.inf, np.float32)
    for unit, unit_texts in enumerate(progress(candidates_of, "units", "units")):
        listed = list(unit_texts)
        scores = phrases.score(listed, embed, score_alone, unit)
        order = np.argsort(-scores, kind="stable")[:top]
        phrases.texts[unit] = [listed[i] for i in order]
        phrases.scores[unit, : len(order)] = scores[order]


def compared(values: dict[str, np.ndarray], resampling: Resampling) -> dict[str, Any]:
    """Return means and paired differences to single words, with intervals, JSON-able."""
    means = {name: mean_interval(column, resampling) for name, column in values.items()}
    minus = {
        f"{name}_minus_words": mean_interval(column - values["words"], resampling)
        for name, column in values.items()
        if name != "words"
    }
    return {**means, **minus}


def scorer(similarity: Similarity, concepts: ConceptActivations, q: Activations) -> Scorer:
    """Return a function from text embeddings to scores on the concepts' scale.

    For WPMI and SoftWPMI, `s(t|x) = exp(a P_xt) / sum_m exp(a P_xm)` with the sum over concepts
    alone and the marginal over all live units, so concepts score as in a dissection and no
    score depends on other phrases. The released notebook normalises over a unit's phrases.
    """
    if isinstance(similarity, (SoftWpmi, Wpmi)):
        return _probability_scorer(similarity, concepts, q)
    return partial(alone, similarity, concepts.image_embeds, q)


def alone(
    similarity: Similarity,
    images: Float[Tensor, "images dims"],
    q: Activations,
    texts: Float[Tensor, "texts dims"],
) -> Float[Tensor, "units texts"]:
    """Return scores of texts that are the whole concept set themselves."""
    plan = similarity.streaming(ConceptActivations(images, texts.to(images.device)), q)
    with torch.no_grad():
        return torch.cat([plan.scores(start, stop) for start, stop in plan.blocks], dim=1)


def _probability_scorer(
    similarity: SoftWpmi | Wpmi, concepts: ConceptActivations, q: Activations
) -> Scorer:
    images, words = concepts.image_embeds.float(), concepts.text_embeds.float()
    top = as_top(q, similarity.top_k, len(images), "top_k")
    rows, index = union(top.indices, len(images))
    log_joint = _log_joint(similarity, top.values)
    source = Factors(images, words).take(rows)
    blocks = concept_blocks(len(words), 3 * len(rows), similarity.memory_gb, images.device)
    with torch.no_grad():
        log_sums = Exponentials(source, blocks, similarity.a, 0.5, keep=False).log_normaliser
        top_embeds = images[rows]

    def block_scores(texts: Float[Tensor, "texts dims"]) -> Float[Tensor, "units texts"]:
        exponents = similarity.a * product(top_embeds, texts) - log_sums.float()[:, None]
        return kernels.less_marginal(log_joint(exponents, index), similarity.lam)

    def scores(texts: Float[Tensor, "texts dims"]) -> Float[Tensor, "units texts"]:
        floats = 3 * len(rows) + 2 * len(index)
        blocks = concept_blocks(len(texts), floats, similarity.memory_gb, images.device)
        with torch.no_grad():
            texts = texts.to(images.device).float()
            parts = [block_scores(texts[start:stop]) for start, stop in blocks]
            return torch.cat(parts, dim=1)

    return scores


def _log_joint(similarity: SoftWpmi | Wpmi, values: Float[Tensor, "k units"]) -> LogJoint:
    """Return a function from log probabilities to the joint terms of the similarity function.

    A phrase's "probability" is unbounded, because the phrase is not in the normalising sum.
    """
    if isinstance(similarity, Wpmi):
        if similarity.eps == 0:
            return lambda exponents, index: embedding_bag(index, exponents, mode="sum")
        weight = torch.ones(1, len(values), dtype=torch.float32, device=values.device)
        smallest = similarity.eps
        base = weight * similarity.eps
    else:
        weight = membership(similarity.membership, values, similarity.p_start, similarity.p_end)
        base = (1.0 - weight + similarity.eps).float()
        weight, smallest = weight.float(), 1.0 - similarity.p_start + similarity.eps

    def log_joint(
        exponents: Float[Tensor, "images texts"], index: Int[Tensor, "units k"]
    ) -> Float[Tensor, "units texts"]:
        limit = min(float(exponents.max()), _LARGEST_EXPONENT)
        # exp would overflow above the limit: there, log(base + weight e^x) grows linearly with x.
        excess = (exponents - _LARGEST_EXPONENT).relu_() if limit == _LARGEST_EXPONENT else None
        largest = float(base.max()) + float(weight.max()) * math.exp(limit)
        x = exponents.clamp_(max=_LARGEST_EXPONENT).exp_()
        ones = torch.ones(len(x), dtype=torch.float32, device=x.device)
        group = safe_group(smallest, largest)
        joint = kernels.log_product_sums(x, index, ones, base, weight, group)
        return joint if excess is None else joint.add_(embedding_bag(index, excess, mode="sum"))

    return log_joint
