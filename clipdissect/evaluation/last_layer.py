"""Evaluation of labels of a layer whose units are classes, with intervals and controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from clipdissect.datasets.class_names import named_by
from clipdissect.errors import DissectError, MissingResource
from clipdissect.evaluation.bootstrap import Resampling, difference, distributions, intervals
from clipdissect.evaluation.controls import best_constant, random_labels
from clipdissect.evaluation.measures import values
from clipdissect.evaluation.truth import ClassLabels
from clipdissect.evaluation.units import ANY, NO_VOCABULARY, Units, rows_of, unit_table
from clipdissect.evaluation.vectors import Vectors, vectors
from clipdissect.sentence import SentenceEncoder
from clipdissect.store import Store


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a layer's labels."""

    rows: pd.DataFrame  # the layer's descriptions, one row per unit, in unit order
    units: Units
    metrics: dict[str, Any]  # final_layer, intervals, controls, differences, bootstrap


def evaluate(
    descriptions: pd.DataFrame,
    truth: ClassLabels,
    concepts: Sequence[str] | None = None,
    sentences: Mapping[str, SentenceEncoder | MissingResource] | None = None,
    store: Store | None = None,
    resampling: Resampling | None = None,
    device: str = "cpu",
) -> Evaluation:
    """Compute metrics of labels against class names, with intervals and two controls (Sec. 4.2).

    Args:
        descriptions: of any method: `layer, unit, description, similarity`, optionally
            `description_2`, ... and `truth_rank`.
        truth: the classes. Their layer may be None if the descriptions are of one layer.
        concepts: the texts that the labels were chosen from; None if unknown or free text:
            then there are no controls, and every class counts as a possible label.
        sentences: per encoder name, the sentence encoder or why it is unavailable.
        store: caches the sentence embeddings.
    """
    resampling = resampling or Resampling()
    layer = truth.layer or _only_layer(descriptions)
    rows = rows_of(descriptions, layer, len(truth.names))
    labels = sorted({text for text in rows["description"] if text})
    if not labels:
        raise DissectError(f"there are no labels of layer {layer}")
    texts = None if concepts is None else [text for text in dict.fromkeys(concepts) if text]
    known = {*truth.names, *(texts or ())}
    text_sets = [truth.names, texts or [], [label for label in labels if label not in known]]
    embeddings = {
        name: str(encoder)
        if isinstance(encoder, MissingResource)
        else vectors(encoder, text_sets, store, device)
        for name, encoder in (sentences or {}).items()
    }
    units = unit_table(rows, truth.names, texts, embeddings)
    available = {name: v for name, v in embeddings.items() if isinstance(v, Vectors)}
    metrics: dict[str, Any] = {
        "final_layer": {
            "layer": layer,
            "truth": truth.name,
            "units": len(rows),
            "described": int((rows["description"] != "").sum()),
            **of_concepts(truth.names, texts),
            **values(units),
        },
        **_with_controls(units, texts, available, resampling),
        "bootstrap": {"kind": "percentile", "shares": "wilson", **asdict(resampling)},
    }
    return Evaluation(rows, units, metrics)


def of_concepts(names: Sequence[str], texts: Sequence[str] | None) -> dict[str, Any]:
    """Return JSON-able counts of concepts, and of classes among them, also by any synonym."""
    keys = ("concepts", "classes_in_concepts", f"classes_in_concepts{ANY}")
    if texts is None:
        unknown: dict[str, Any] = {}
        for key in keys:
            unknown |= {key: None, f"{key}_reason": NO_VOCABULARY}
        return unknown
    counts = (len(texts), len(set(names) & set(texts)), named_by(names, texts))
    return dict(zip(keys, counts, strict=True))


def _only_layer(descriptions: pd.DataFrame) -> str:
    layers = list(dict.fromkeys(descriptions["layer"]))
    if len(layers) != 1:
        raise DissectError(
            f"which layer's units are classes? There are {', '.join(layers) or 'none'}: set "
            f"evaluation.layer, or the method's layers (method.layers=[{(layers or ['fc'])[-1]}])"
        )
    return str(layers[0])


def _with_controls(
    units: Units,
    texts: Sequence[str] | None,
    cosines: Mapping[str, Vectors],
    resampling: Resampling,
) -> dict[str, Any]:
    """Return intervals, the controls with theirs, and the differences from each control."""
    drawn = distributions(units, resampling)
    result: dict[str, Any] = {
        "intervals": intervals(units, drawn, resampling.confidence),
        "controls": {},
        "differences": {},
    }
    if texts is None:
        return result | {"controls_reason": NO_VOCABULARY}
    constant, labels = best_constant(units, texts, cosines)
    random = random_labels(units, texts, cosines, resampling.seed)
    for name, control in {"best_constant": constant, "random": random}.items():
        control_drawn = distributions(control, resampling)
        ends = intervals(control, control_drawn, resampling.confidence)
        result["controls"][name] = values(control) | {"intervals": ends}
        pair = (drawn, control_drawn)
        result["differences"][name] = difference(units, control, resampling, pair)
    result["controls"]["best_constant"]["labels"] = labels
    return result
