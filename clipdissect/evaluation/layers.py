"""Metrics of a dissection: per layer, and of the layer whose units are classes."""

from __future__ import annotations

from typing import Any

import pandas as pd

from clipdissect.concepts import Concepts
from clipdissect.errors import MissingResource
from clipdissect.evaluation.bootstrap import Resampling, mean_interval
from clipdissect.evaluation.last_layer import of_concepts
from clipdissect.evaluation.measures import defined, values
from clipdissect.evaluation.units import NOT_DESCRIBED, unit_table
from clipdissect.evaluation.vectors import Sentences, Vectors, vectors
from clipdissect.results.coherence import NAMES
from clipdissect.results.describe import NULL
from clipdissect.results.flags import DEAD, FEW, RARE, SATURATED, TIED, has_flag
from clipdissect.store import Store
from clipdissect.targets import Target

# The standard error of an interval's ends is then 2 % of its width.
RESAMPLING = Resampling(resamples=1000)


def metrics(
    descriptions: pd.DataFrame,
    target: Target,
    concepts: Concepts | None,
    sentences: Sentences,
    store: Store | None,
    units: pd.DataFrame | None = None,
) -> dict[str, Any]:
    """Return JSON-able metrics per layer, and of a layer of classes; None if undefined.

    `units` are a result's, with numbers that need no label; None: they aren't among the metrics.
    """
    layers = {
        str(layer): layer_metrics(rows) for layer, rows in descriptions.groupby("layer", sort=False)
    }
    if units is not None and len(units):
        for layer, rows in units.groupby("layer", sort=False):
            layers[str(layer)] |= unit_means(rows)
    result: dict[str, Any] = {"layers": layers}
    if target.class_layer in layers:
        rows = descriptions[descriptions["layer"] == target.class_layer]
        if len(rows) == len(target.class_names):
            result["final_layer"] = final_layer(rows, target, concepts, sentences, store)
    return result


def layer_metrics(rows: pd.DataFrame) -> dict[str, Any]:
    """Return unit counts by flag, and metrics of descriptions, similarities and detectors.

    Of latents also `alive`, those that fire on any image, and the mean `density` of these.
    """
    live = rows[~has_flag(rows, DEAD)]
    return {
        "units": len(rows),
        **{flag: int(has_flag(rows, flag).sum()) for flag in (DEAD, TIED, FEW, SATURATED, RARE)},
        **(_firing_metrics(live) if is_of_latents(rows) else {}),
        "different_descriptions": int(live["description"].nunique()),
        **_mean("mean_similarity", live["similarity"], NOT_DESCRIBED),
        **_mean("mean_margin", live["margin"], "no unit is described, or there is one concept"),
        **(null_metrics(live) if NULL in live else {}),
        **(_detector_counts(live) if "detector" in live else {}),
    }


def null_metrics(live: pd.DataFrame) -> dict[str, Any]:
    """Return the null's 95th percentile over a layer's live units, and the share above it.

    Rare latents don't count: their scores, of a few images, are high by chance.
    """
    live = live[~has_flag(live, RARE)]
    null = live[NULL].dropna()
    high = float(null.quantile(0.95)) if len(null) else float("nan")
    above = float((live["similarity"] > high).mean()) if len(null) else float("nan")
    reason = "no live unit has a score under shuffled images"
    return {**defined("null_95", high, reason), **defined("above_null", above, reason)}


def unit_means(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the mean over a layer's units of each of `coherence.NAMES`, with its interval."""
    columns = {name: rows[name].to_numpy(float) for name in NAMES}
    return {name: mean_interval(values, RESAMPLING) for name, values in columns.items()}


def is_of_latents(rows: pd.DataFrame) -> bool:
    """Return whether a layer's units are latents of a sparse autoencoder."""
    return "fires" in rows and bool(rows["fires"].notna().any())


def _firing_metrics(live: pd.DataFrame) -> dict[str, Any]:
    return {"alive": len(live), **_mean("mean_density", live["density"], "no latent fires")}


def _detector_counts(live: pd.DataFrame) -> dict[str, Any]:
    descriptions = live.loc[live["detector"], "description"]
    return {"detectors": len(descriptions), "unique_detectors": int(descriptions.nunique())}


def final_layer(
    rows: pd.DataFrame,
    target: Target,
    concepts: Concepts | None,
    sentences: Sentences,
    store: Store | None,
) -> dict[str, Any]:
    """Return accuracies and mean sentence cosine of last-layer labels (Sec. 4.2).

    A unit without a description counts as wrong and is excluded from the cosine. Top-5 accuracy
    needs five descriptions per unit, AUC right and wrong labels.
    """
    described, names = rows["description"].tolist(), target.class_names
    texts = None if concepts is None else concepts.texts
    result: dict[str, Any] = {"layer": target.class_layer, "units": len(names)}
    result |= of_concepts(names, texts)
    cosines: dict[str, Vectors | str] = {}
    if sentences is None or isinstance(sentences, MissingResource):
        cosines["sentence"] = str(sentences or "none configured")
    else:
        cosines[sentences.name] = vectors(sentences, [names, sorted(set(described))], store)
    return result | values(unit_table(rows, names, texts, cosines))


def _mean(name: str, values: pd.Series[Any], reason: str) -> dict[str, Any]:
    """Return the mean under its name; None and the reason if it is undefined."""
    return defined(name, float(values.mean()) if len(values) else float("nan"), reason)
