"""The paper's numbers of the studies and ours, for `clipdissect tables`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipdissect.app import paper
from clipdissect.app.paper import matching

Facts = dict[str, Any]

TARGET = "resnet50"
OWN = {"target": TARGET, "similarity": "soft_wpmi", "concepts": "google_20k"}


@dataclass(frozen=True)
class Number:
    """A number of the paper, and the conditions on runs that reproduce it.

    `own` are the parts of our labels (see `matching.is_own`), `labels` a published label
    file and `images` its probe. `keys` lead to the number in the metrics.
    """

    study: str
    name: str
    metric: str
    keys: tuple[str, ...]
    paper: float | None = None
    own: Mapping[str, str] | None = None
    labels: str | None = None
    images: str | None = None
    settings: Facts = field(default_factory=dict)
    layers: Mapping[str, str] = field(default_factory=dict)

    def row(self, runs: list[tuple[Facts, Facts]]) -> Facts:
        row = {"row": f"{self.study}: {self.name}", "metric": self.metric, "paper": self.paper}
        row |= dict.fromkeys(("ours", "low", "high", "difference"))
        fitting = [metrics[self.study] for run, metrics in runs if self._fits(run, metrics)]
        known = [value for metrics in fitting if (value := self._value(metrics))]
        if not known:
            return row | {"verdict": f"not run: {self._command}"}
        ours = known[-1]
        if self.paper is None:
            return row | ours | {"verdict": "the paper has no such number"}
        low, high = (ours["ours"] if ours[end] is None else ours[end] for end in ("low", "high"))
        verdict = "the paper's is in our interval" if low <= self.paper <= high else "differs"
        return row | ours | {"difference": ours["ours"] - self.paper, "verdict": verdict}

    def _fits(self, run: Facts, metrics: Facts) -> bool:
        values = metrics.get(self.study)
        if run["study"].get("name") != self.study or not isinstance(values, Mapping):
            return False
        return (
            self.settings.items() <= run["study"].items()
            and self.layers.items() <= values.items()
            and matching.is_judged(run, TARGET)
            and matching.has_target(run, TARGET)
            and ((self.own and matching.is_own(run, self.own)) or self._is_published(run))
        )

    def _is_published(self, run: Facts) -> bool:
        if not self.labels or not matching.is_published(run, self.labels, self.layers["layer"]):
            return False
        if self.images is None:
            return True
        return matching.has_probe(run, self.images) and matching.has_summary(run)

    @property
    def _command(self) -> str:
        command = f"clipdissect {self.study} experiment={self.study}"
        if self.labels is None:
            return command
        published = matching.published_options(self.labels, self.layers["layer"])
        alternative = f", or with our own labels: {command}" if self.own else ""
        return f"with the published labels: {command} {published}{alternative}"

    def _value(self, metrics: Any) -> Facts | None:
        for key in self.keys:
            metrics = (metrics or {}).get(key)
        if not metrics:
            return None
        value = metrics.get("value", metrics.get(self.metric))
        intervals = metrics.get("intervals") or {}
        span = metrics.get("interval") or intervals.get(self.metric) or metrics
        if value is None:
            return None
        return {"ours": value, "low": span.get("low"), "high": span.get("high")}


def rows(results: Path) -> list[dict[str, Any]]:
    """Return the studies' numbers: the paper's, and ours from any depth below `results`."""
    runs = sorted(_runs(results), key=lambda run: str(run[0].get("date")))
    numbers = (*_missing(), *_weights(), *_classes(), *_phrases())
    return [number.row(runs) for number in numbers]


def _runs(results: Path) -> Iterator[tuple[Facts, Facts]]:
    for path in results.rglob("run.json"):
        try:
            run = json.loads(path.read_text(encoding="utf-8"))
            metrics = json.loads((path.parent / "metrics.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(run, dict) and isinstance(run.get("study"), dict):
            yield run, metrics


def _missing() -> Iterator[Number]:
    values = paper.values()["missing_concepts"]
    parts = OWN | {key: values[key] for key in ("probe", "concepts")}
    for group in ("dog.n.01", "bird.n.01"):
        name, share = f"{group}, {values['probe']}", values[group]["right"] / values[group]["units"]
        yield Number("missing_concepts", name, "top1", (group, "missing"), share, parts)


def _weights() -> Iterator[Number]:
    values, parts = paper.values()["weight_similarity"], OWN | {"probe": "imagenet_broden"}
    layers = {key: values[key] for key in ("layer", "into")}
    for pairs, r in values["pearson_r"].items():
        is_part = int(pairs) <= 50_000
        yield Number(
            "weight_similarity",
            f"{layers['layer']} to {layers['into']}, {pairs} weights",
            "pearson_r",
            (matching.ENCODER, "top_pairs" if is_part else "all_pairs"),
            r,
            parts,
            values["labels"],
            settings={"top_pairs": int(pairs)} if is_part else {},
            layers=layers,
        )


def _classes() -> Iterator[Number]:
    study, images = "class_from_descriptions", "imagenet_val"
    layers = {"layer": "layer4", "into": "fc"}
    for method, values in paper.values()[study].items():
        parts = OWN | {"probe": images} if method == "clip_dissect" else None
        for metric in ("truth", "prediction"):
            keys, labels = ("mpnet", metric), values["labels"]
            number = values[metric]
            yield Number(study, method, metric, keys, number, parts, labels, images, layers=layers)


def _phrases() -> Iterator[Number]:
    keys = ("fc", "judged", "mpnet", "phrases_minus_words")
    parts = OWN | {"probe": "imagenet_broden"}
    settings = {"templates": ["{} {}"], "words": 100, "length": 2}
    name = "phrases minus words, fc"
    yield Number("compositional_concepts", name, "mpnet_cos", keys, own=parts, settings=settings)
