"""Numbers with intervals, over units or images, and other helpers of the studies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from clipdissect.errors import MissingResource
from clipdissect.evaluation import Resampling, interval, share_interval, values
from clipdissect.evaluation.bootstrap import distributions, intervals
from clipdissect.evaluation.units import Units
from clipdissect.evaluation.vectors import Vectors, vectors
from clipdissect.probe import Probe
from clipdissect.sentence import SentenceEncoder
from clipdissect.store import Store
from clipdissect.utils.type_checks import check_range


def mean_interval(numbers: Float[np.ndarray, " n"], resampling: Resampling) -> dict[str, Any]:
    """Return the mean without NaN, its percentile interval, and the count, JSON-able."""
    known = np.asarray(numbers, dtype=float)
    known = known[~np.isnan(known)]
    if not len(known):
        return {"value": None, "low": None, "high": None, "of": 0, "reason": "there are no values"}
    means = np.concatenate([known[rows].mean(1) for rows in resampling.rows(len(known))])
    span = interval(means, resampling.confidence)
    return {"value": float(known.mean()), **span, "of": len(known)}


def share(hits: Bool[np.ndarray, " n"], resampling: Resampling) -> dict[str, Any]:
    """Return the share of hits, its Wilson interval, and the counts, JSON-able."""
    right, total = int(hits.sum()), len(hits)
    span = share_interval(right, total, resampling.confidence)
    return {"value": right / total if total else None, **span, "right": right, "of": total}


def metrics_with_intervals(units: Units, resampling: Resampling) -> dict[str, Any]:
    resampled = distributions(units, resampling)
    return {**values(units), "intervals": intervals(units, resampled, resampling.confidence)}


def embedded(
    sentences: Mapping[str, SentenceEncoder | MissingResource],
    sets: Sequence[Sequence[str]],
    store: Store | None,
    device: str = "cpu",
) -> dict[str, Vectors | str]:
    """Return each sentence encoder's embeddings of the texts, or why there are none."""
    known: set[str] = set()
    new_texts = []
    for texts in sets:
        new_texts.append([text for text in dict.fromkeys(texts) if text and text not in known])
        known |= set(new_texts[-1])
    return {
        name: str(encoder)
        if isinstance(encoder, MissingResource)
        else vectors(encoder, new_texts, store, device)
        for name, encoder in sentences.items()
    }


def image_labels(probe: Probe) -> dict[str, str | None]:
    """Return each image's label; None for unlabelled images."""
    return dict(zip(probe.images, probe.labels or [None] * len(probe), strict=True))


def check_least(study: Any, **minimums: int) -> None:
    """Raise a DissectError unless each of the study's settings is None or at least its minimum."""
    for setting, least in minimums.items():
        value = getattr(study, setting)
        if value is not None:
            check_range(f"study.{setting}", value, least)
