"""Metrics of descriptions, against ground truth where a layer has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from clipdissect.concepts import Concepts
from clipdissect.describe import DEAD, FEW, TIED
from clipdissect.errors import MissingResource
from clipdissect.sentence import SentenceEncoder
from clipdissect.store import Store
from clipdissect.target import Target
from clipdissect.texts import text_embeds

Sentences = SentenceEncoder | MissingResource | None


def metrics(
    descriptions: pd.DataFrame, target: Target, concepts: Concepts, sentences: Sentences,
    store: Store | None,
) -> dict[str, Any]:  # fmt: skip
    """JSON-able metrics: per layer, and of the layer whose units are classes.

    What is undefined is None, with the reason under `<metric>_reason`.

    Args:
        descriptions: of `dissect`.
        target: knows its classes.
        concepts: the set that the descriptions come from.
        sentences: the sentence encoder of the cosine, or why it is undefined.
        store: keeps the embeddings.
    """
    layers = {
        str(layer): layer_metrics(rows) for layer, rows in descriptions.groupby("layer", sort=False)
    }
    found: dict[str, Any] = {"layers": layers}
    if target.class_layer in layers:
        rows = descriptions[descriptions["layer"] == target.class_layer]
        if len(rows) == len(target.class_names):
            found["final_layer"] = final_layer(rows, target, concepts, sentences, store)
    return found


def layer_metrics(rows: pd.DataFrame) -> dict[str, Any]:
    """Counts of units by flag, of different descriptions, and the mean similarity and margin."""
    flags = rows["flags"].value_counts()
    live = rows[rows["flags"] != DEAD]
    return {
        "units": len(rows),
        "dead": int(flags.get(DEAD, 0)),
        "tied": int(flags.get(TIED, 0)),
        "few_distinct": int(flags.get(FEW, 0)),
        "different_descriptions": int(live["description"].nunique()),
        **_mean("mean_similarity", live["similarity"], "no unit is described"),
        **_mean("mean_margin", live["margin"], "no unit is described, or there is one concept"),
    }


def final_layer(
    rows: pd.DataFrame, target: Target, concepts: Concepts, sentences: Sentences,
    store: Store | None,
) -> dict[str, Any]:  # fmt: skip
    """Exact-label accuracy and mean sentence cosine of last-layer descriptions (Sec. 4.2).

    A unit without a description counts as wrong, and is left out of the cosine.
    """
    described, names = rows["description"].tolist(), target.class_names
    found: dict[str, Any] = {"layer": target.class_layer, "units": len(names)}
    covered = len(set(names) & set(concepts.texts))
    found["classes_in_concepts"] = covered
    if covered:
        right = sum(a == b for a, b in zip(described, names, strict=True))
        found |= {"top1": right / len(names), "top1_right": right}
    else:
        found |= {"top1": None, "top1_reason": "no class name is among the concepts"}
    if sentences is None or isinstance(sentences, MissingResource):
        found |= {"sentence_cos": None, "sentence_cos_reason": str(sentences or "none configured")}
    else:
        cosines = _cosines(described, names, sentences, store)
        found |= _mean(f"{sentences.name}_cos", cosines, "no unit is described")
    return found


def _cosines(
    described: list[str], names: tuple[str, ...], sentences: SentenceEncoder, store: Store | None
) -> pd.Series[float]:
    """Cosine of each described unit's description and class name."""
    pairs = [(a, b) for a, b in zip(described, names, strict=True) if a]
    texts = sorted({text for pair in pairs for text in pair})
    if not texts:
        return pd.Series(dtype=float)
    vectors = text_embeds(sentences.embed, sentences.digest, texts, store).double().numpy()
    row = {text: i for i, text in enumerate(texts)}
    left, right = ([row[pair[side]] for pair in pairs] for side in (0, 1))
    cosines: pd.Series[float] = pd.Series(np.sum(vectors[left] * vectors[right], axis=1))
    return cosines


def _mean(name: str, values: pd.Series[Any], reason: str) -> dict[str, Any]:
    """The mean under its name; None and the reason where it is undefined."""
    mean = float(values.mean()) if len(values) else float("nan")
    return {name: mean} if np.isfinite(mean) else {name: None, f"{name}_reason": reason}
