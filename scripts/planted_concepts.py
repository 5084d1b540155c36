#!/usr/bin/env python
"""Test whether the methods name planted concepts (table of docs/dissection_methods.md).

    .venv/bin/python scripts/planted_concepts.py --out results/offline/planted

Writes units.csv (each unit's truth and descriptions), table.md and run.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from clipdissect import concepts, method, probe, similarity, targets, testing
from clipdissect import encoder as encoders
from clipdissect.capture.settings import Settings
from clipdissect.errors import MissingResource
from clipdissect.method import Job
from clipdissect.probe.scenes import SHAPES, TEXTURES
from clipdissect.results.manifest import git_state, machine, versions
from clipdissect.results.run_files import write_json, write_table
from clipdissect.store import Store
from clipdissect.utils.paths import store_dir

KINDS = ("color", "shape", "texture")  # of the probes, with the most frequent objects
OBJECTS = 10
FORMULAS = ("compositional", "invert")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000, help="scenes to describe units on")
    parser.add_argument("--fit", type=int, default=1000, help="other scenes, to fit probes to")
    parser.add_argument("--layer", default="blocks.2", help="of EfficientNet-Lite0, with probes")
    parser.add_argument("--top-k", type=int, default=20, help="of soft_wpmi")
    parser.add_argument("--methods", nargs="+", help="such as invert; all by default")
    parser.add_argument("--invert", nargs="+", default=[], help="options, such as length=1")
    parser.add_argument("--out", type=Path, default=Path("results/offline/planted"))
    options = parser.parse_args()
    settings = Settings(device="cpu")
    images = probe.build("synthetic_broden", images=options.images, seed=0)
    networks = [testing.planted_filters(), linear_probes(options, settings)]
    seconds: dict[str, float] = {}
    rows = []
    for planted in networks:
        if planted is not None:
            rows += described(planted, images, settings, options, seconds)
    units = pd.DataFrame(rows)
    options.out.mkdir(parents=True, exist_ok=True)
    write_table(options.out / "units.csv", units)
    table = summary(units)
    (options.out / "table.md").write_text(table, encoding="utf-8")
    facts = {"versions": versions(), "machine": machine(), "git": git_state()}
    facts |= {"seconds": seconds, "images": options.images, "fit": options.fit}
    facts |= {"layer": options.layer, "top_k": options.top_k}
    write_json(options.out / "run.json", facts)
    print(table)


def linear_probes(options: argparse.Namespace, settings: Settings) -> testing.Planted | None:
    """Fit linear probes on EfficientNet-Lite0; None without its weights."""
    try:
        network = targets.build("efficientnet_lite0")
    except MissingResource as missing:
        print(f"no planted probes: {missing}")
        return None
    scenes = probe.build("synthetic_broden", images=options.fit, seed=1)
    assert scenes.masks is not None  # it always has them
    concepts = scenes.masks.concepts
    counts = Counter(
        concepts[index].text
        for image in range(len(scenes))
        for index in scenes.masks.read(image).concepts()
        if concepts[index].category == "object"
    )
    objects = [text for text, _ in counts.most_common(OBJECTS)]
    texts = [concept.text for concept in concepts if concept.category in KINDS]
    return testing.planted_probes(network, options.layer, scenes, [*texts, *objects], settings)


def described(
    planted: testing.Planted,
    images: probe.Probe,
    settings: Settings,
    options: argparse.Namespace,
    seconds: dict[str, float],
) -> list[dict[str, Any]]:
    """Return every unit's ground truth and descriptions, one row per unit."""
    target, store = planted.target, Store(store_dir())
    rows: list[dict[str, Any]] = [
        {"network": target.name, "layer": layer, "unit": unit, "truth": truth}
        for layer in target.layers
        for unit, truth in enumerate(planted.truth[layer])
    ]
    truth = {layer: [plain(text) for text in texts] for layer, texts in planted.truth.items()}
    job = Job(target=target, probe=images, settings=settings, store=store, truth=truth)
    for name, chosen, method_job in methods(images, job, options):
        if options.methods and name not in options.methods:
            continue
        start = time.perf_counter()
        table = chosen.describe(method_job).descriptions
        seconds[f"{target.name}, {name}"] = round(time.perf_counter() - start, 1)
        for row, (_, unit) in zip(rows, table.iterrows(), strict=True):
            row[name] = unit["description"]
            row[f"{name} score"] = unit["similarity"]
            row[f"{name} right"] = names_truth(row["truth"], unit)
            if name == "network_dissection":
                row["detector"] = unit["detector"]
            if name in FORMULAS:
                row[f"{name} exact"] = plain(unit["description"]) == plain(row["truth"])
    return rows


def methods(
    images: probe.Probe, job: Job, options: argparse.Namespace
) -> list[tuple[str, method.Method, Job]]:
    assert images.masks is not None  # it always has them
    without_truth = replace(job, truth={})  # formulas have no rank
    scorer, clip = similarity.build("soft_wpmi", top_k=options.top_k), method.build("clip_dissect")
    texts, encoder = concepts.resolve(list(images.masks.texts)), testing.LabelEncoder(images)
    labels = replace(without_truth, concepts=texts, similarity=scorer, encoder=encoder)
    names = ("network_dissection", "compositional")
    chosen = [(name, method.build(name), without_truth) for name in names]
    of_invert = yaml.safe_load("{" + ", ".join(options.invert).replace("=", ": ") + "}")
    chosen.append(("invert", method.build("invert", **of_invert), without_truth))
    cropped = method.build("clip_dissect", crops=True)
    chosen.append(("clip_dissect, labels", clip, labels))
    chosen.append(("clip_dissect, labels, crops", cropped, labels))
    try:
        words = concepts.resolve(list(dict.fromkeys(map(plain, images.masks.texts))))
        conse = replace(labels, concepts=words, encoder=encoders.build("conse"))
        chosen.append(("clip_dissect, conse", clip, conse))
        chosen.append(("clip_dissect, conse, crops", cropped, conse))
    except MissingResource as missing:
        print(f"no ConSE: {missing}")
    return chosen


def plain(text: str) -> str:
    return text.replace("-c", "")


def names_truth(truth: str, unit: pd.Series[Any]) -> bool:
    """Return whether the (not negated) labels include every part of the planted concept."""
    wanted = {plain(part) for part in truth.replace(" AND ", " OR ").split(" OR ")}
    if "formula" not in unit.index:
        return {plain(str(unit["description"]))} == wanted
    if not unit["formula"]:
        return False
    return wanted <= {plain(text) for text in positive_labels(json.loads(unit["formula"]))}


def positive_labels(tree: dict[str, Any]) -> list[str]:
    """Return the labels in a formula that aren't negated."""
    if "op" not in tree:
        return [str(tree["label"])]
    if tree["op"] == "NOT":
        return []
    return [label for part in tree["of"] for label in positive_labels(part)]


def summary(units: pd.DataFrame) -> str:
    columns = [str(c).removesuffix(" right") for c in units if str(c).endswith(" right")]
    header = ["planted", "units", *columns]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    kinds = units.assign(kind=[kind_of(text) for text in units["truth"]])
    for (network, layer, kind), group in kinds.groupby(["network", "layer", "kind"], sort=False):
        cells = [f"{int(group[f'{c} right'].sum())}" for c in columns]
        name = f"{network.split('(')[0]}, {layer}: {kind}"
        lines.append(f"| {name} | {len(group)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def kind_of(text: str) -> str:
    """Return the kind of a planted concept: colour, shape, texture, object or formula."""
    for word in ("OR", "AND"):
        if f" {word} " in text:
            return f"a {word} b"
    if text.endswith("-c"):
        return "color"
    return "shape" if text in SHAPES else "texture" if text in TEXTURES else "object"


if __name__ == "__main__":
    main()
