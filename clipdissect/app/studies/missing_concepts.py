"""Labels of a group of classes with and without the group's images."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from clipdissect.app.printing import number, with_interval
from clipdissect.app.studies.base import BAR_STYLE, StudyRun, top_images
from clipdissect.datasets.wordnet import WordNet
from clipdissect.dissection import check_top_k
from clipdissect.studies import figures
from clipdissect.studies import missing_concepts as library
from clipdissect.studies.features import Features, check_keep
from clipdissect.studies.missing_concepts import GroupLabels
from clipdissect.utils.figures import save_figure

log = logging.getLogger(__name__)

SETTINGS = ("missing", "present")
BARS = {  # name in the metrics: label, grey, hatch
    "missing": ("no image of the group", "0.3", ""),
    "present": ("with its images", "0.85", ""),
    "best_constant": ("best constant label", "1.0", "////"),
    "random": ("random label", "0.6", "...."),
}


@dataclass(frozen=True)
class GroupResult:
    """Labels of a group's units by setting, and the images that don't show the group."""

    group: str
    metrics: dict[str, Any]
    labels: dict[str, GroupLabels]
    image_indices: list[int]

    @property
    def table(self) -> pd.DataFrame:
        tables = []
        for setting, labels in self.labels.items():
            table = labels.units.table.assign(in_group=labels.in_group.astype(float))
            further = labels.rows.filter(regex="^description_")
            table = pd.concat([table, further], axis=1)
            table.insert(0, "setting", setting)
            table.insert(0, "group", self.group)
            tables.append(table)
        frame: pd.DataFrame = pd.concat(tables)
        return frame


def check(run: StudyRun, hypernyms: WordNet) -> None:
    """Raise a DissectError if a group can't be studied, before any image is read."""
    check_keep(run.job)
    for group in run.settings.groups:
        remaining = library.check_group(group, run.settings, run.job.probe, run.truth, hypernyms)
        check_top_k(run.job.similarity, remaining)


def evaluate(run: StudyRun, features: Features, hypernyms: WordNet) -> list[GroupResult]:
    """Label every group's units without the group's images and, if any, with them."""
    layer, truth = str(run.truth.layer), run.truth.names
    all_images = features.describe(layer, truth=truth)
    groups = run.settings.groups
    return [_evaluate_group(run, features, hypernyms, group, all_images) for group in groups]


def _evaluate_group(
    run: StudyRun, features: Features, hypernyms: WordNet, group: str, all_images: pd.DataFrame
) -> GroupResult:
    probe, concepts, images = run.job.probe, run.job.concepts, features.captured.images
    units = library.units_of_group(run.truth, group, hypernyms)
    absence = library.absence(probe, images, group, hypernyms)
    if not absence.is_verified:
        log.warning("the probe's lack of %s images is %s", group, absence.verdict)
    remaining = sorted(set(range(len(images))) - set(absence.images))
    tables = {"missing": all_images}
    if absence.images:
        without = features.describe(str(run.truth.layer), remaining, run.truth.names)
        tables = {"missing": without, "present": all_images}
    descriptions = [text for table in tables.values() for text in table["description"]]
    vectors, reasons = run.embed(run.truth.names, concepts.texts, descriptions)
    cosines = vectors | reasons
    labels = {
        setting: library.labels_of_group(table, units, run.truth, concepts, cosines)
        for setting, table in tables.items()
    }
    about: dict[str, Any] = {"images": len(remaining), "left_out": len(absence.images)}
    about |= {"absence": absence.verdict, "meanings": absence.source}
    missing, present = labels["missing"], labels.get("present")
    metrics = library.group_metrics(missing, present, concepts, cosines, run.resampling)
    return GroupResult(group, about | metrics, labels, remaining)


def print_group(result: GroupResult) -> None:
    metrics = result.metrics
    print(
        f"{result.group}: {metrics['units']} units, {metrics['images']} images "
        f"({metrics['left_out']} taken out); absence {metrics['absence']}"
    )
    for setting in result.labels:
        values = metrics[setting]
        exact = with_interval(values["top1"], values["intervals"].get("top1"))
        in_group = with_interval(values["in_group"]["value"], values["in_group"])
        print(
            f"  {setting}: exact name {values.get('top1_right', 0)} ({exact}), "
            f"any of the group {in_group}"
        )
    for title, key in (("exact name", "top1"), ("any of the group", "in_group")):
        values = {
            name.replace("_", " "): control[key] if key == "top1" else control[key]["value"]
            for name, control in metrics["controls"].items()
        }
        print(f"  controls, {title}: {', '.join(f'{k} {number(v)}' for k, v in values.items())}")


def draw(results: Sequence[GroupResult], folder: Path) -> None:
    """Draw the shares of units with the exact name, and with any name of the group."""
    drawn, (exact, in_group) = figures.plot(7.2, 3.4, 2)
    _draw_bars(exact, results, "top1", "units with the exact class name")
    _draw_bars(in_group, results, "in_group", "units with any name of the group")
    figures.legend_below(drawn, exact)
    save_figure(drawn, folder, "missing_concepts")


def _draw_bars(axis: Any, results: Sequence[GroupResult], metric: str, title: str) -> None:
    names = [name for name in BARS if any(_value(r, name, metric) for r in results)]
    width = 0.8 / len(names)
    for place, name in enumerate(names):
        values = {i: v for i, result in enumerate(results) if (v := _value(result, name, metric))}
        shown, (label, grey, hatch) = list(values.values()), BARS[name]
        errors = {"yerr": figures.bar_errors(shown), "error_kw": {"linewidth": 0.8}}
        style = {"label": label, "color": grey, "hatch": hatch, **errors, **BAR_STYLE}
        at = [i + width * (place + 0.5) - 0.4 for i in values]
        axis.bar(at, figures.heights(shown), width, **style)
    axis.set_xticks(range(len(results)), [result.group for result in results])
    axis.set_ylim(0, 1)
    axis.set_title(title, fontsize="small")


def _value(result: GroupResult, name: str, metric: str) -> dict[str, Any] | None:
    # A constant label from the group is always in the group: the bar would be 1 by construction.
    if metric == "in_group" and name == "best_constant":
        return None
    values = result.metrics.get(name) or result.metrics["controls"].get(name)
    if values is None or metric == "in_group":
        return values and dict(values["in_group"])
    return {"value": values["top1"], **(values["intervals"].get("top1") or {})}


def save_panels(run: StudyRun, features: Features, result: GroupResult) -> None:
    """Draw units with truth, description and top images of the probe without the group."""
    layer = str(run.truth.layer)
    images = [features.captured.images[i] for i in result.image_indices]
    q = features.activations(layer)[result.image_indices]
    top = top_images(layer, q, images, run.settings.panel_images)
    panels = []
    chosen = _half_right(result.labels["missing"].units.table, run.settings.panels)
    for _, row in chosen.iterrows():
        is_right = row.get("right") == 1
        label = f"{'right' if is_right else 'labelled'}: {row['description'] or '(none)'}"
        lines = ((f"unit {row['unit']}: {row['truth']}", False), (label, is_right))
        panels.append(figures.Panel(lines, top.get(row["unit"], ())))
    title = f"{result.group}, {len(images)} images, none of it"
    run.save_panels(panels, title, f"panels_{result.group}")


def _half_right(units: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return `count` units, half of them right if there are enough."""
    is_right = units.get("right", pd.Series(0.0, units.index)) == 1
    right, wrong = units[is_right], units[~is_right]
    half = min(len(right), max(count // 2, count - len(wrong)))
    frame: pd.DataFrame = pd.concat([right.head(half), wrong.head(count - half)])
    return frame
