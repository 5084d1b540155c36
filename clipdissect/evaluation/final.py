"""The evaluation of labels of a layer whose units are classes, with intervals and controls."""

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
    """How right a layer's labels are.

    Args:
        rows: the layer's descriptions, one row a unit, in unit order.
        units: the table behind the metrics.
        metrics: JSON-able: `final_layer`, `intervals`, `controls`, `differences`, `bootstrap`.
    """

    rows: pd.DataFrame
    units: Units
    metrics: dict[str, Any]


def evaluate(
    descriptions: pd.DataFrame,
    truth: ClassLabels,
    concepts: Sequence[str] | None = None,
    sentences: Mapping[str, SentenceEncoder | MissingResource] | None = None,
    store: Store | None = None,
    resampling: Resampling | None = None,
    device: str = "cpu",
) -> Evaluation:
    """Metrics of labels against class names, their intervals, and two controls.

    The controls choose from the concepts; where these are unknown there are none, and any label
    counts as one that could have been right.

    Args:
        descriptions: of any method: `layer, unit, description, similarity`, and where it has them
            `description_2`, ... and `truth_rank`.
        truth: the classes. Its layer may be left out where the descriptions are of one.
        concepts: the texts that the labels were chosen from; None where they aren't known, or any
            text could have been written.
        sentences: sentence encoder's name to the encoder, or to why it can't be had.
        store: keeps the sentence embeddings.
        resampling: of the intervals.
        device: where the sentence encoders run.

    Raises:
        DissectError: no descriptions of the layer, or of units beyond the classes.

    Source: Sec. 4.2.
    """
    how = resampling or Resampling()
    layer = truth.layer or _only_layer(descriptions)
    rows = rows_of(descriptions, layer, len(truth.names))
    labels = sorted({text for text in rows["description"] if text})
    if not labels:
        raise DissectError(f"there are no labels of layer {layer}")
    texts = None if concepts is None else [text for text in dict.fromkeys(concepts) if text]
    embedded = _embedded(sentences or {}, (truth.names, texts or [], labels), store, device)
    units = unit_table(rows, truth.names, texts, embedded)
    found: dict[str, Any] = {
        "final_layer": {
            "layer": layer, "truth": truth.name, "units": len(rows),
            "described": int((rows["description"] != "").sum()), **of_concepts(truth.names, texts),
            **values(units),
        },
    }  # fmt: skip
    ready = {name: v for name, v in embedded.items() if isinstance(v, Vectors)}
    controls, chosen = _controls(units, texts, ready, how)
    found |= _compared(units, controls, how)
    if texts is None:
        found["controls_reason"] = NO_VOCABULARY
    else:
        found["controls"]["best_constant"]["labels"] = chosen
    found["bootstrap"] = {"kind": "percentile", "shares": "wilson", **asdict(how)}
    return Evaluation(rows, units, found)


def of_concepts(names: Sequence[str], texts: Sequence[str] | None) -> dict[str, Any]:
    """JSON-able: how many concepts there are, and how many classes are among them, by any name too.

    Args:
        names: the classes' names.
        texts: what labels were chosen from; None where that isn't known.
    """
    if texts is None:
        keys = ("concepts", "classes_in_concepts", f"classes_in_concepts{ANY}")
        unknown = {key: {key: None, f"{key}_reason": NO_VOCABULARY} for key in keys}
        return {key: value for pair in unknown.values() for key, value in pair.items()}
    return {"concepts": len(texts), "classes_in_concepts": len(set(names) & set(texts)),
            f"classes_in_concepts{ANY}": named_by(names, texts)}  # fmt: skip


def _controls(
    units: Units, texts: Sequence[str] | None, cosines: Mapping[str, Vectors], how: Resampling
) -> tuple[dict[str, Units], dict[str, str]]:
    """The controls' units, and the best constants; none where the concepts aren't known."""
    if texts is None:
        return {}, {}
    constant, chosen = best_constant(units, texts, cosines)
    return {"best_constant": constant,
            "random": random_labels(units, texts, cosines, how.seed)}, chosen  # fmt: skip


def _only_layer(descriptions: pd.DataFrame) -> str:
    layers = list(dict.fromkeys(descriptions["layer"]))
    if len(layers) != 1:
        raise DissectError(
            f"which layer's units are classes? There are {', '.join(layers) or 'none'}: set "
            f"evaluation.layer, or the method's layers (method.layers=[{(layers or ['fc'])[-1]}])"
        )
    return str(layers[0])


def _embedded(
    sentences: Mapping[str, SentenceEncoder | MissingResource], sets: Sequence[Sequence[str]],
    store: Store | None, device: str,
) -> dict[str, Vectors | str]:  # fmt: skip
    """Each encoder's embeddings of the texts, or why there are none."""
    found: dict[str, Vectors | str] = {}
    for name, encoder in sentences.items():
        if isinstance(encoder, MissingResource):
            found[name] = str(encoder)
        else:
            found[name] = vectors(encoder, _fresh(sets), store, device)
    return found


def _fresh(sets: Sequence[Sequence[str]]) -> list[list[str]]:
    """The sets; of the last, only what the others lack."""
    *first, last = [list(texts) for texts in sets]
    known = {text for texts in first for text in texts}
    return [*first, [text for text in last if text not in known]]


def _compared(units: Units, controls: Mapping[str, Units], how: Resampling) -> dict[str, Any]:
    """Intervals, the controls with theirs, and what the labels have over each control."""
    drawn = distributions(units, how)
    found: dict[str, Any] = {
        "intervals": intervals(units, drawn, how.confidence), "controls": {}, "differences": {},
    }  # fmt: skip
    for name, control in controls.items():
        own = distributions(control, how)
        spans = intervals(control, own, how.confidence)
        found["controls"][name] = values(control) | {"intervals": spans}
        found["differences"][name] = difference(units, control, how, (drawn, own))
    return found
