"""Weights against the similarity of descriptions: curves, figures and panels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from torch import Tensor

from clipdissect.app.printing import number, with_interval
from clipdissect.app.studies.base import StudyRun, top_images
from clipdissect.capture.features import CapturedFeatures
from clipdissect.errors import unknown
from clipdissect.evaluation.units import rows_of
from clipdissect.evaluation.vectors import Vectors
from clipdissect.method import Job
from clipdissect.studies import figures
from clipdissect.studies.features import features
from clipdissect.studies.weight_similarity import (
    Pairs,
    Weights,
    check_width,
    linearity,
    similarities,
)
from clipdissect.utils.figures import save_figure


def capture_layers(job: Job, layer: str, into: str) -> CapturedFeatures | None:
    """Capture both layers in the pass that the descriptions need too; None without images."""
    if None in (job.probe, job.encoder, job.concepts, job.similarity):
        return None
    return features(job, list(dict.fromkeys([layer, into]))).captured


def rows_of_layer(
    descriptions: pd.DataFrame, weights: Pairs, layer: str, into: str
) -> pd.DataFrame:
    """Return the descriptions of `layer`, one row per input of `into`."""
    rows = descriptions[descriptions["layer"] == layer]
    if not len(rows):
        raise unknown("layer of the labels", layer, dict.fromkeys(descriptions["layer"]))
    check_width(weights, int(rows["unit"].max()) + 1, layer, into)
    return rows_of(descriptions, layer, weights.shape[1])


def linearity_of(
    captured: CapturedFeatures | None, weights: Pairs, layer: str, into: str
) -> float | None:
    """Return the `linearity` between the layers; None unless all activations were captured."""
    if captured is None:
        return None
    q, out = captured.activations[layer], captured.activations[into]
    if not isinstance(q, Tensor) or not isinstance(out, Tensor):
        return None
    return linearity(weights, q.numpy(), out.numpy())


def curves(metrics: Mapping[str, Any]) -> pd.DataFrame:
    rows = [
        {"sentence": encoder, **row}
        for encoder, values in metrics.items()
        for row in values["by_top_k"]
    ]
    columns = ["sentence", "k", "value", "low", "high"]
    frame: pd.DataFrame = pd.DataFrame(rows, columns=columns)
    return frame


def print_metrics(layers: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    print(
        f"{layers['layer']} -> {layers['into']}: {layers['inputs']} x {layers['outputs']} weights, "
        f"{layers['described']} described units, linearity {layers['linearity']}"
    )
    for encoder, values in metrics.items():
        for correlation in (values["all_pairs"], values["top_pairs"]):
            r = with_interval(correlation["pearson_r"], correlation["interval"])
            print(
                f"  {encoder}, {correlation['pairs']} pairs: r {r}, log10 p "
                f"{number(correlation['log10_p'])}, rho {number(correlation['spearman_rho'])}"
            )
        control, best = values["permutation"], values["best_of_unit"]
        print(
            f"  {encoder}, descriptions shuffled {control['permutations']} times: r "
            f"{with_interval(control['mean_r'], control)}, p {control['p']:.4g}\n"
            f"  {encoder}, unit's best cosine and largest weight: r {number(best['pearson_r'])}, "
            f"log10 p {number(best['log10_p'])}"
        )


def draw(
    run: StudyRun, weights: Weights, vectors: Mapping[str, Vectors], metrics: Mapping[str, Any]
) -> None:
    """Draw Fig. 6b, and each unit's best similarity against its largest weight."""
    for place, (encoder, values) in enumerate(metrics.items()):
        drawn, (curve, cloud) = figures.plot(7.6, 3.4, 2)
        _draw_curve(curve, encoder, values)
        cloud.scatter(
            weights.table.max(0),
            similarities(weights, vectors[encoder]).max(0),
            s=5,
            color="0.3",
            alpha=0.5,
            linewidths=0,
        )
        cloud.set_xlabel("unit's largest weight")
        cloud.set_ylabel("its description's best cosine")
        cloud.set_title(f"r = {number(values['best_of_unit']['pearson_r'])}", fontsize="small")
        save_figure(drawn, run.folder, f"by_{encoder}" if place else "weight_similarity")


def _draw_curve(axis: Any, encoder: str, values: Mapping[str, Any]) -> None:
    rows = pd.DataFrame(values["by_top_k"])
    style = {"color": "black", "marker": "o", "markersize": 3, "label": "k largest weights"}
    axis.plot(rows["k"], rows["value"], **style)
    axis.fill_between(rows["k"], rows["low"], rows["high"], color="0.85", linewidth=0)
    axis.axhline(values["mean_similarity"], color="0.4", linestyle="--", label="all pairs")
    axis.set_xscale("log", base=2)
    axis.set_xlabel("k")
    axis.set_ylabel(f"mean cosine of texts ({encoder})")
    axis.legend(fontsize="small", frameon=False)
    every, top = values["all_pairs"], values["top_pairs"]
    axis.set_title(
        f"r = {number(every['pearson_r'])} over all pairs, "
        f"{number(top['pearson_r'])} over the top {top['pairs']:,}",
        fontsize="small",
    )


def save_panels(
    run: StudyRun, pairs: pd.DataFrame, captured: CapturedFeatures, layer: str, into: str
) -> None:
    """Draw Fig. 6a: the largest weights, the unit at the left and the class at the right."""
    images, count = captured.images, run.settings.panel_images
    top = {
        name: top_images(name, captured.activations[name], images, count) for name in (layer, into)
    }
    panels = []
    for _, pair in pairs.head(run.settings.panels).iterrows():
        unit, class_unit = pair["unit"], pair["class_unit"]
        head = f"{layer}, unit {unit}, weight {pair['weight']:.3f}"
        lines = ((head, False), (f"labelled: {pair['description']}", True))
        panels.append(figures.Panel(lines, top[layer].get(unit, ())))
        lines = ((f"{into}, unit {class_unit}", False), (f"class: {pair['class']}", True))
        panels.append(figures.Panel(lines, top[into].get(class_unit, ())))
    run.save_panels(panels, f"largest weights from {layer} into {into}", "panels")
