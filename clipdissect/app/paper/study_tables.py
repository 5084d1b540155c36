"""The studies' numbers of the paper beside those of our runs, for `clipdissect tables`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clipdissect.app.paper import matching
from clipdissect.app.paper import values as paper

Found = dict[str, Any]

TARGET = "resnet50"
OWN = {"target": TARGET, "similarity": "soft_wpmi", "concepts": "google_20k"}


def rows(results: Path) -> list[dict[str, Any]]:
    """The paper's numbers of its studies; ours where a run of the paper's setting gives one.

    Args:
        results: searched at any depth for complete runs of the studies.
    """
    runs = list(_runs(results))
    wanted = (*_missing(), *_weights(), *_classes(), *_phrases())
    return [_row(one, runs) for one in wanted]


def _runs(results: Path) -> Iterator[tuple[Found, Found]]:
    """`run` and `metrics` of every complete run of a study, by date."""
    found = []
    for path in results.rglob("run.json"):
        try:
            run = json.loads(path.read_text(encoding="utf-8"))
            metrics = json.loads((path.parent / "metrics.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(run, dict) and isinstance(run.get("study"), dict):
            found.append((run, metrics))
    yield from sorted(found, key=lambda one: str(one[0].get("date")))


# A row says: `own`, what our labels must be made of; `labels`, the published file that gives the
# number, and `images`, the probe that it is judged on; `settings` of the study that the number
# depends on; `layers`, as the study's metrics tell them; `keys`, where the number is there.


def _missing() -> Iterator[Found]:
    values = paper.values()["missing_concepts"]
    own = OWN | {key: values[key] for key in ("probe", "concepts")}
    for group in ("dog.n.01", "bird.n.01"):
        yield {
            "study": "missing_concepts",
            "row": f"{group}, {values['probe']}",
            "metric": "top1",
            "paper": values[group]["right"] / values[group]["units"],
            "own": own,
            "keys": (group, "missing"),
        }


def _weights() -> Iterator[Found]:
    values = paper.values()["weight_similarity"]
    layers = {key: values[key] for key in ("layer", "into")}
    for pairs, number in values["pearson_r"].items():
        is_part = int(pairs) <= 50_000
        yield {
            "study": "weight_similarity",
            "metric": "pearson_r",
            "paper": number,
            "row": f"{layers['layer']} to {layers['into']}, {pairs} weights",
            "own": OWN | {"probe": "imagenet_broden"},
            "labels": values["labels"],
            "settings": {"top_pairs": int(pairs)} if is_part else {},
            "layers": layers,
            "keys": (matching.ENCODER, "top_pairs" if is_part else "all_pairs"),
        }


def _classes() -> Iterator[Found]:
    probe, layers = "imagenet_val", {"layer": "layer4", "into": "fc"}
    for method, numbers in paper.values()["class_from_descriptions"].items():
        for metric in ("truth", "prediction"):
            yield {
                "study": "class_from_descriptions",
                "row": method,
                "metric": metric,
                "paper": numbers[metric],
                "labels": numbers["labels"],
                "images": probe,
                "own": OWN | {"probe": probe} if method == "clip_dissect" else None,
                "layers": layers,
                "keys": ("mpnet", metric),
            }


def _phrases() -> Iterator[Found]:
    yield {
        "study": "compositional_concepts",
        "row": "phrases minus words, fc",
        "metric": "mpnet_cos",
        "paper": None,
        "own": OWN | {"probe": "imagenet_broden"},
        "settings": {"templates": ["{} {}"], "words": 100, "length": 2},
        "keys": ("fc", "judged", "mpnet", "phrases_minus_words"),
    }


def _row(wanted: Found, runs: list[tuple[Found, Found]]) -> Found:
    study, metric = wanted["study"], wanted["metric"]
    empty = dict.fromkeys(("ours", "low", "high", "difference"))
    row = {"row": f"{study}: {wanted['row']}", "metric": metric, "paper": wanted["paper"], **empty}
    found = [metrics[study] for run, metrics in runs if _fits(run, metrics, wanted)]
    values = [v for v in (_value(one, wanted["keys"], metric) for one in found) if v]
    if not values:
        return row | {"verdict": f"not run: {_command(wanted)}"}
    ours = values[-1]
    if wanted["paper"] is None:
        return row | ours | {"verdict": "the paper has no such number"}
    low, high = (ours["ours"] if ours[end] is None else ours[end] for end in ("low", "high"))
    verdict = "the paper's is in our interval" if low <= wanted["paper"] <= high else "differs"
    return row | ours | {"difference": ours["ours"] - wanted["paper"], "verdict": verdict}


def _fits(run: Found, metrics: Found, wanted: Found) -> bool:
    """Whether a run is the row's: its study, layers, settings, network, and labels."""
    study = wanted["study"]
    if run["study"].get("name") != study or not isinstance(metrics.get(study), Mapping):
        return False
    return (
        wanted.get("settings", {}).items() <= run["study"].items()
        and wanted.get("layers", {}).items() <= metrics[study].items()
        and matching.is_judged(run, TARGET)
        and matching.has_target(run, TARGET)
        and (_is_own(run, wanted) or _is_published(run, wanted))
    )


def _is_own(run: Found, wanted: Found) -> bool:
    return wanted["own"] is not None and matching.is_own(run, wanted["own"])


def _is_published(run: Found, wanted: Found) -> bool:
    """Of the row's label file; where it is judged on images, on the paper's, summed up its way."""
    file, images = wanted.get("labels"), wanted.get("images")
    if file is None or not matching.is_published(run, file, wanted["layers"]["layer"]):
        return False
    return images is None or (matching.has_probe(run, images) and matching.has_summary(run))


def _command(wanted: Found) -> str:
    """What gives the number; by the published labels where the paper's are."""
    command = f"clipdissect {wanted['study']} experiment={wanted['study']}"
    if "labels" not in wanted:
        return command
    published = matching.published_options(wanted["labels"], wanted["layers"]["layer"])
    also = ", or with our own labels: " + command if wanted["own"] else ""
    return f"with the published labels: {command} {published}{also}"


def _value(metrics: Any, keys: tuple[str, ...], metric: str) -> Found | None:
    for key in keys:
        metrics = (metrics or {}).get(key)
    if not metrics:
        return None
    value = metrics.get("value", metrics.get(metric))
    span = metrics.get("interval") or (metrics.get("intervals") or {}).get(metric) or metrics
    if value is None:
        return None
    return {"ours": value, "low": span.get("low"), "high": span.get("high")}
