"""The units behind predictions, and the classes that their descriptions name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Int

from clipdissect.app.printing import number, with_interval
from clipdissect.app.studies.base import BAR_STYLE, StudyRun, facts_of, top_images
from clipdissect.errors import DissectError
from clipdissect.results.tables import ResultTables
from clipdissect.studies import class_from_descriptions as library
from clipdissect.studies import figures
from clipdissect.studies.features import Features, check_keep
from clipdissect.studies.weight_similarity import Pairs
from clipdissect.utils.figures import save_figure

Classes: TypeAlias = Int[np.ndarray, " images"]

AGREEMENTS = ("truth", "prediction")
BARS = {
    "description": ("0.3", ""),
    "shuffled descriptions": ("0.85", ""),
    "best constant": ("1.0", "////"),
}  # label: grey, hatch


def check(run: StudyRun, weights: Pairs, into: str) -> None:
    """Raise a DissectError if no image can be evaluated, before any is read."""
    names, probe = run.truth.names, run.job.probe
    check_keep(run.job)
    if len(names) != len(weights):
        raise DissectError(f"{into} has {len(weights)} units, but {len(names)} class names")
    library.label_numbers(probe, probe.images, names)


class LabelledImages(NamedTuple):
    names: list[str]
    truth: Classes
    predicted: Classes
    units: Classes


def labelled_images(
    features: Features,
    weights: Pairs,
    layers: tuple[str, str],
    labels: Sequence[str],
    names: Sequence[str],
) -> LabelledImages:
    """Choose the described unit that contributes most to each labelled image's prediction.

    `weights` lead from units of the first of `layers` to classes of the second; empty
    `labels` mark units without a description.
    """
    probe, images = features.job.probe, features.captured.images
    assert probe is not None
    truth = library.label_numbers(probe, images, names)
    labelled = (truth >= 0).nonzero()[0]
    q, outputs = (features.activations(layer).numpy()[labelled] for layer in layers)
    described = np.array([i for i, text in enumerate(labels) if text], dtype=int)
    if not len(described):
        raise DissectError(f"no unit of layer {layers[0]} has a description")
    predicted = outputs.argmax(1)
    units = library.largest_contributions(weights, q, predicted, described)
    return LabelledImages([images[i] for i in labelled], truth[labelled], predicted, units)


def facts(run: StudyRun, features: Features, described: ResultTables) -> dict[str, Any]:
    """Return the provenance of features and labels, without parts that affect neither."""
    captured, labels = facts_of(features), described.run
    unused = {"encoder", "concepts", "similarity"} - set(run.method.needs)
    digests = {k: v for k, v in captured["digests"].items() if k.split()[0] not in unused}
    encoder_notes = run.job.encoder.notes if run.job.encoder and "encoder" in unused else ()
    notes = [note for note in captured["notes"] if note not in encoder_notes]
    notes += [note for note in labels["notes"] if note not in notes]
    used = {key: value for key, value in captured.items() if key not in unused}
    return used | labels | {"digests": digests | labels["digests"], "notes": notes}


def print_metrics(metrics: Mapping[str, Any], agreements: Mapping[str, Any]) -> None:
    print(
        f"{metrics['layer']} -> {metrics['into']}: {metrics['images']} labelled images, the "
        f"network is right on {number(metrics['accuracy'])}"
    )
    for encoder, values in agreements.items():
        for name in AGREEMENTS:
            control = values["controls"][name]
            print(
                f"  {encoder}, {name}: {with_interval(values[name]['value'], values[name])}; "
                f"descriptions shuffled {number(control['shuffled']['mean'])} (most "
                f"{number(control['shuffled']['most'])}), best constant "
                f"{number(control['best_constant'])}"
            )


def draw(run: StudyRun, agreements: Mapping[str, Any], chance: float) -> None:
    if not agreements:
        return
    drawn, axes = figures.plot(3.2 + 3.6 * len(agreements), 3.4, len(agreements))
    for axis, (encoder, values) in zip(axes, agreements.items(), strict=True):
        for shift, (label, (grey, hatch)) in enumerate(BARS.items()):
            shown = [_bars(values, name)[label] for name in AGREEMENTS]
            errors = figures.bar_errors(shown) if shift == 0 else None
            style = {"label": label, "color": grey, "hatch": hatch, "yerr": errors, **BAR_STYLE}
            at = [place + 0.27 * (shift - 1) for place in range(2)]
            axis.bar(at, figures.heights(shown), 0.27, **style)
        axis.axhline(chance, color="0.4", linestyle="--", linewidth=0.8, label="chance")
        axis.set_xticks([0, 1], ["true class", "predicted class"])
        axis.set_ylabel(f"share of images ({encoder})", fontsize="small")
    figures.legend_below(drawn, axes[0])
    save_figure(drawn, run.folder, "class_from_descriptions")


def _bars(values: Mapping[str, Any], name: str) -> dict[str, dict[str, Any]]:
    control = values["controls"][name]
    return {
        "description": dict(values[name]),
        "shuffled descriptions": {"value": control["shuffled"]["mean"]},
        "best constant": {"value": control["best_constant"]},
    }


def save_panels(run: StudyRun, table: pd.DataFrame, features: Features, layer: str) -> None:
    """Draw images, each before the top images of its unit."""
    captured, settings = features.captured, run.settings
    top = top_images(layer, captured.activations[layer], captured.images, settings.panel_images)
    panels = []
    step = max(1, len(table) // settings.panels)
    for _, row in table.iloc[::step].head(settings.panels).iterrows():
        lines = (
            (f"{row['truth']}; predicted: {row['predicted']}", False),
            (f"{layer}, unit {row['unit']}: {row['description']}", True),
        )
        panels.append(figures.Panel(lines, (row["image"], *top.get(row["unit"], ()))))
    run.save_panels(
        panels, "images, and the units that contribute most to their predictions", "panels"
    )
