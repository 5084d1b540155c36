"""Numbers with intervals, of units or of anything else that can be resampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from clipdissect.errors import DissectError, MissingResource
from clipdissect.evaluation import Resampling, interval, share_interval, values
from clipdissect.evaluation.bootstrap import distributions, intervals
from clipdissect.evaluation.units import Units
from clipdissect.evaluation.vectors import Vectors, vectors
from clipdissect.sentence import SentenceEncoder
from clipdissect.store import Store


def mean_interval(of: Float[np.ndarray, " things"], how: Resampling) -> dict[str, Any]:
    """JSON-able: the mean of what isn't NaN, its percentile interval, and how many things it is of.

    Args:
        of: a number a thing (unit, image); NaN where it has none.
        how: resampling.
    """
    known = np.asarray(of, dtype=float)
    known = known[~np.isnan(known)]
    if not len(known):
        return {"value": None, "low": None, "high": None, "of": 0, "reason": "there is nothing"}
    drawn = np.concatenate([known[rows].mean(1) for rows in how.rows(len(known))])
    return {"value": float(known.mean()), **interval(drawn, how.confidence), "of": len(known)}


def share(hits: Bool[np.ndarray, " things"], how: Resampling) -> dict[str, Any]:
    """JSON-able: the share that is true, its Wilson interval, and how many things it is of.

    Args:
        hits: whether each thing (unit, image) is.
        how: whose confidence.
    """
    right, of = int(hits.sum()), len(hits)
    span = share_interval(right, of, how.confidence)
    return {"value": right / of if of else None, **span, "right": right, "of": of}


def judged(units: Units, how: Resampling) -> dict[str, Any]:
    """JSON-able metrics of units, with `intervals`."""
    drawn = distributions(units, how)
    return {**values(units), "intervals": intervals(units, drawn, how.confidence)}


def embedded(
    sentences: Mapping[str, SentenceEncoder | MissingResource], sets: Sequence[Sequence[str]],
    store: Store | None, device: str = "cpu",
) -> dict[str, Vectors | str]:  # fmt: skip
    """Each sentence encoder's embeddings of the texts, or why there are none.

    Args:
        sentences: name to the encoder, or to why it can't be had.
        sets: texts; what a later set shares with an earlier one is embedded once.
        store: keeps the embeddings.
        device: where the encoders run.
    """
    known: set[str] = set()
    fresh = []
    for texts in sets:
        fresh.append([text for text in dict.fromkeys(texts) if text and text not in known])
        known |= set(fresh[-1])
    return {
        name: str(encoder)
        if isinstance(encoder, MissingResource)
        else vectors(encoder, fresh, store, device)
        for name, encoder in sentences.items()
    }


def check_least(study: str, **numbers: tuple[int, int]) -> None:
    """Raise a DissectError unless each of a study's numbers is at least so much.

    Args:
        study: its name, for the message.
        numbers: parameter to its value and the least allowed.
    """
    for name, (value, least) in numbers.items():
        if value < least:
            raise DissectError(f"study.{name} of {study} is {value}; it must be at least {least}")
