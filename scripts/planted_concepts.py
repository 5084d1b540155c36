#!/usr/bin/env python
"""Do the methods name concepts that are known to be there? Writes the table of the docs.

    .venv/bin/python scripts/planted_concepts.py --out results/offline/planted

Networks whose units detect known concepts by construction (`clipdissect.testing`) are described on
`synthetic_broden` by Network Dissection, Compositional Explanations and CLIP-Dissect. Writes
units.csv (every unit's truth and descriptions), table.md and run.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from clipdissect import concepts, encoder, method, probe, similarity, targets, testing
from clipdissect.capture.settings import Settings
from clipdissect.errors import MissingResource
from clipdissect.method import Job
from clipdissect.results.provenance import git_state, machine, versions
from clipdissect.results.run_files import write_json, write_table
from clipdissect.store import Store
from clipdissect.utils.paths import store_dir

KINDS = ("color", "shape", "texture")  # of the probes, beside the most frequent objects
OBJECTS = 10
ROOT = Path(__file__).parents[1]


def main() -> None:
    """Run everything and write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000, help="scenes to describe units on")
    parser.add_argument("--fit", type=int, default=1000, help="other scenes, to fit probes to")
    parser.add_argument("--layer", default="blocks.2", help="of EfficientNet-Lite0, with probes")
    parser.add_argument("--top-k", type=int, default=20, help="of soft_wpmi")
    parser.add_argument("--out", type=Path, default=Path("results/offline/planted"))
    given = parser.parse_args()
    settings = Settings(device="cpu")
    images = probe.build("synthetic_broden", images=given.images, seed=0)
    planted = [testing.planted_filters(), probes(given, settings)]
    seconds: dict[str, float] = {}
    rows = [
        row
        for own in planted
        if own is not None
        for row in described(own, images, settings, given.top_k, seconds)
    ]
    units = pd.DataFrame(rows)
    given.out.mkdir(parents=True, exist_ok=True)
    write_table(given.out / "units.csv", units)
    table = summary(units)
    (given.out / "table.md").write_text(table, encoding="utf-8")
    write_json(
        given.out / "run.json",
        {
            "versions": versions(),
            "machine": machine(),
            "git": git_state(ROOT),
            "seconds": seconds,
            "images": given.images,
            "fit": given.fit,
            "layer": given.layer,
            "top_k": given.top_k,
        },
    )
    print(table)


def probes(given: Any, settings: Settings) -> testing.Planted | None:
    """Probes on EfficientNet-Lite0; None where its weights aren't here."""
    try:
        network = targets.build("efficientnet_lite0")
    except MissingResource as missing:
        print(f"no planted probes: {missing}")
        return None
    scenes = probe.build("synthetic_broden", images=given.fit, seed=1)
    assert scenes.masks is not None  # it always has them
    often: dict[str, int] = {}
    for image in range(len(scenes)):
        for number in scenes.masks.read(image).concepts():
            concept = scenes.masks.concepts[number]
            if concept.category == "object":
                often[concept.text] = often.get(concept.text, 0) + 1
    objects = sorted(often, key=lambda text: -often[text])[:OBJECTS]
    texts = [c.text for c in scenes.masks.concepts if c.category in KINDS]
    return testing.planted_probes(network, given.layer, scenes, [*texts, *objects], settings)


def described(
    planted: testing.Planted,
    images: probe.Probe,
    settings: Settings,
    top_k: int,
    seconds: dict[str, float],
) -> list[dict[str, Any]]:
    """Every unit's truth and what each method says."""
    layers = planted.target.layers
    rows = [
        {"network": planted.target.name, "layer": layer, "unit": unit, "truth": truth}
        for layer in layers
        for unit, truth in enumerate(planted.truth[layer])
    ]
    job = Job(
        target=planted.target,
        probe=images,
        settings=settings,
        store=Store(store_dir()),
        truth={k: [plain(t) for t in v] for k, v in planted.truth.items()},
    )
    for name, how, own in methods(images, job, top_k):
        start = time.perf_counter()
        table = how.describe(own).descriptions
        seconds[f"{planted.target.name}, {name}"] = round(time.perf_counter() - start, 1)
        for row, (_, found) in zip(rows, table.iterrows(), strict=True):
            row[name] = found["description"]
            row[f"{name} score"] = found["similarity"]
            row[f"{name} right"] = names(row["truth"], found)
            if name == "network_dissection":
                row["detector"] = found["detector"]
            if name == "compositional":
                row["compositional exact"] = plain(found["description"]) == plain(row["truth"])
    return rows


def methods(images: probe.Probe, job: Job, top_k: int) -> list[tuple[str, method.Method, Job]]:
    """The methods by name, with what each is given."""
    assert images.masks is not None  # it always has them
    without = replace(job, truth={})  # of formulas there is no rank
    scorer = similarity.build("soft_wpmi", top_k=top_k)
    clip = method.build("clip_dissect")
    texts = concepts.resolve(list(images.masks.texts))
    labels = replace(
        without, concepts=texts, similarity=scorer, encoder=testing.LabelEncoder(images)
    )
    found = [
        ("network_dissection", method.build("network_dissection"), without),
        ("compositional", method.build("compositional"), without),
        ("clip_dissect, labels", clip, labels),
    ]
    try:
        words = concepts.resolve(list(dict.fromkeys(map(plain, images.masks.texts))))
        conse = replace(labels, concepts=words, encoder=encoder.build("conse"))
        found.append(("clip_dissect, conse", clip, conse))
    except MissingResource as missing:
        print(f"no ConSE: {missing}")
    return found


def plain(text: str) -> str:
    """Without the mark of colours."""
    return text.replace("-c", "")


def names(truth: str, found: pd.Series[Any]) -> bool:
    """Whether a description names the planted concept: of a formula, every part of it.

    Of a formula that is found, the parts that are not negated are its names.
    """
    wanted = {plain(part) for part in operands(truth)}
    if "formula" not in found.index:
        return {plain(str(found["description"]))} == wanted
    if not found["formula"]:
        return False
    return wanted <= {plain(text) for text in shown(json.loads(found["formula"]))}


def operands(text: str) -> list[str]:
    """The concepts of a planted formula."""
    return text.replace(" AND ", " OR ").split(" OR ")


def shown(tree: dict[str, Any]) -> list[str]:
    """The labels in a formula that aren't negated."""
    if "op" not in tree:
        return [str(tree["label"])]
    if tree["op"] == "NOT":
        return []
    return [label for part in tree["of"] for label in shown(part)]


def summary(units: pd.DataFrame) -> str:
    """A Markdown table: right units of all, by network and kind of concept."""
    columns = [c.removesuffix(" right") for c in units if str(c).endswith(" right")]
    header = ["planted", "units", *columns]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for (network, layer, kind), own in units.assign(kind=kinds(units["truth"])).groupby(
        ["network", "layer", "kind"], sort=False
    ):
        cells = [f"{int(own[f'{c} right'].sum())}" for c in columns]
        name = f"{network.split('(')[0]}, {layer}: {kind}"
        lines.append(f"| {name} | {len(own)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def kinds(truth: Sequence[str]) -> list[str]:
    """What is planted: a colour, a shape, a texture, an object or a formula."""
    from clipdissect.probe.scenes.patterns import SHAPES, TEXTURES

    found = []
    for text in truth:
        joined = [word for word in ("OR", "AND") if f" {word} " in text]
        known = (
            ("color", text.endswith("-c")),
            ("shape", text in SHAPES),
            ("texture", text in TEXTURES),
        )
        kind = next((name for name, is_it in known if is_it), "object")
        found.append(f"a {joined[0]} b" if joined else kind)
    return found


if __name__ == "__main__":
    main()
