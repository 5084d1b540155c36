"""The paper's numbers, and how ours are matched and compared with them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "paper_values.json"


@cache
def values() -> dict[str, Any]:
    numbers: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return numbers


def row(table: str, **wanted: Any) -> dict[str, Any]:
    """Return the only row with these values, else raise: `row("table1", method="milan_base")`."""
    rows: list[dict[str, Any]] = values()[table]["rows"]
    fitting = [r for r in rows if wanted.items() <= r.items()]
    if len(fitting) != 1:
        raise LookupError(f"{len(fitting)} rows of {table} have {wanted}")
    return fitting[0]


ENCODER = "clip_vit_b16"
IMAGES = {"imagenet_val": 50_000, "cifar100_train": 50_000}
WEIGHTS = {"resnet50": "IMAGENET1K_V1", "resnet18_places365": "places365"}
# Names of the right classes: their own, the target's, and that of the target's as a setting.
TRUTHS = {
    "resnet50": ("imagenet", "resnet50", "auto"),
    "resnet18_places365": ("places365", "resnet18_places365", "auto"),
}
CLASS_LAYER = "fc"  # of both targets
SUMMARIES = ("auto", "mean")  # the same for networks without a class token
# Columns of the published label files, by folder.
_LABELS: Mapping[str, Any] = {
    "layer_column": "layer",
    "unit_column": "unit",
    "description_column": "description",
    "first_unit": 0,
}
_NETDISSECT = {"layer_column": None, "description_column": "label", "first_unit": 1}
COLUMNS: Mapping[str, Mapping[str, Any]] = {
    "clip_dissect": _LABELS,
    "milan": _LABELS,
    "netdissect": {**_LABELS, **_NETDISSECT},
}
PRESETS = {name: f"published_{name}" for name in COLUMNS}

Run = Mapping[str, Any]


def is_own(run: Run, wanted: Mapping[str, str]) -> bool:
    """Return whether the labels are CLIP-Dissect's with the `wanted` parts and its defaults."""
    hyperparameters = values()["hyperparameters"][wanted["similarity"]]
    return (
        _name(run, "method") == "clip_dissect"
        and run.get("encoder") == ENCODER
        and _name(run, "concepts") == wanted["concepts"]
        and _name(run, "similarity") == wanted["similarity"]
        and hyperparameters.items() <= _part(run, "similarity").items()
        and has_probe(run, wanted["probe"])
        and has_target(run, wanted["target"])
        and has_summary(run)
    )


def is_published(run: Run, file: str, layer: str, strip: Collection[str] = ()) -> bool:
    """Return whether the labels are a published file's, with its layer and stripped suffixes."""
    method = _part(run, "method")
    return (
        method.get("name") == "published"
        and _part(run, "digests").get("labels") == values()["label_files"][file]
        and COLUMNS[file.partition("/")[0]].items() <= method.items()
        and set(method.get("strip") or ()) == set(strip)
        and layer in (method.get("layers") or [layer])
    )


def published_options(file: str, layer: str, strip: Collection[str] = ()) -> str:
    """Return the options that give labels which `is_published` accepts."""
    options = [f"method={PRESETS[file.partition('/')[0]]}", f"method.path=FOLDER/{file}"]
    if layer != CLASS_LAYER:
        options.append(f"'method.layers=[{layer}]'")
    if strip:
        options.append(f"'method.strip=[{','.join(strip)}]'")
    return " ".join(options)


def is_judged(run: Run, target: str) -> bool:
    """Return whether the labels were compared with the target's own class names."""
    truth = _part(run, "truth")
    return truth.get("name") in TRUTHS[target] and truth.get("layer") in (None, CLASS_LAYER)


def has_target(run: Run, name: str) -> bool:
    return _name(run, "target") == name and _part(run, "target").get("weights") == WEIGHTS[name]


def has_probe(run: Run, name: str) -> bool:
    """Return whether the probe has this name and, if their number is known, all images."""
    images = _part(run, "probe").get("images")
    return _name(run, "probe") == name and images == IMAGES.get(name, images)


def has_summary(run: Run) -> bool:
    return _part(run, "summary").get("kind") in SUMMARIES


def _name(run: Run, key: str) -> Any:
    return _part(run, key).get("name")


def _part(run: Run, key: str) -> Mapping[str, Any]:
    part = run.get(key)
    return part if isinstance(part, Mapping) else {}
