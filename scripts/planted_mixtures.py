#!/usr/bin/env python
"""Test whether `meanings` finds both concepts of planted mixtures (table of docs/meanings.md).

    .venv/bin/python scripts/planted_mixtures.py --out results/offline/planted

Writes mixtures.csv (each unit's truth and meanings), mixtures.md and mixtures.json.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipdissect import concepts, method, probe, similarity, testing
from clipdissect.capture.settings import Settings
from clipdissect.method import Job
from clipdissect.results.manifest import git_state, machine, versions
from clipdissect.results.meanings import IMAGES
from clipdissect.results.run_files import write_json, write_table

OBJECTS = 10  # the most frequent ones
FUNCTIONS: dict[str, dict[str, Any]] = {
    "soft_wpmi": {"top_k": IMAGES},
    "cosine_cubed": {},
}
LEAST = 3  # of the top images show a concept that the unit can be said to mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000, help="scenes to describe units on")
    parser.add_argument("--meanings", type=int, default=3, help="to look for")
    parser.add_argument("--out", type=Path, default=Path("results/offline/planted"))
    options = parser.parse_args()
    images = probe.build("synthetic_broden", images=options.images, seed=0)
    encoder = testing.LabelEncoder(images)
    objects = testing.planted_labels(encoder, frequent(images, "object"))
    facts = {"versions": versions(), "machine": machine(), "git": git_state()}
    facts |= {"images": options.images, "meanings": options.meanings, "seconds": {}}
    rows = []
    for name, parameters in FUNCTIONS.items():
        for planted in (testing.planted_colours(), objects):
            start = time.perf_counter()
            job = Job(
                target=planted.target,
                probe=images,
                concepts=concepts.resolve(list(images.masks.texts)),
                encoder=encoder,
                similarity=similarity.build(name, **parameters),
                settings=Settings(device="cpu"),
                images=IMAGES,
                null=False,
            )
            result = method.build("clip_dissect", meanings=options.meanings).describe(job)
            facts["silhouette_above"] = result.run["meanings"]["silhouette_above"]
            rows += [{"function": name, **row} for row in units(planted, result, encoder, images)]
            seconds = round(time.perf_counter() - start, 1)
            facts["seconds"][f"{planted.target.name}, {name}"] = seconds
    table = pd.DataFrame(rows)
    options.out.mkdir(parents=True, exist_ok=True)
    write_table(options.out / "mixtures.csv", table)
    text = summary(table)
    (options.out / "mixtures.md").write_text(text, encoding="utf-8")
    write_json(options.out / "mixtures.json", facts)
    print(text)


def frequent(images: probe.Probe, category: str) -> list[str]:
    """Return the texts of the concepts of a category that most images show."""
    assert images.masks is not None  # the probe always has them
    known = images.masks.concepts
    shown = (images.masks.read(image).concepts() for image in range(len(images)))
    counts = Counter(
        known[number].text
        for of_image in shown
        for number in of_image
        if known[number].category == category
    )
    return [text for text, _ in counts.most_common(OBJECTS)]


def units(
    planted: testing.Planted, result: Any, encoder: testing.LabelEncoder, images: probe.Probe
) -> list[dict[str, Any]]:
    """Return each unit's truth and meanings, and how many of its top images show each concept."""
    numbers = {name: number for number, name in enumerate(images.images)}
    texts = list(encoder.masks.texts)
    rows = []
    for layer in planted.target.layers:
        for unit, truth in enumerate(planted.truth[layer]):
            parts = truth.split(" OR ")
            top, found = (
                table[(table["layer"] == layer) & (table["unit"] == unit)]
                for table in (result.top_images, result.meanings)
            )
            shares = np.stack([encoder.shares(numbers[name]) for name in top["image"]])
            # The concept that activates a unit more, on each image.
            larger = shares[:, [texts.index(part) for part in parts]].argmax(1)
            shown = np.bincount(larger, minlength=len(parts))
            rows.append(
                {
                    "network": planted.target.name,
                    "layer": layer,
                    "unit": unit,
                    "truth": truth,
                    "shown": ";".join(map(str, shown)),
                    "meanings": len(found),
                    "texts": ";".join(found["description"]),
                    "silhouette": found["silhouette"].iloc[0],
                    "right": len(set(parts) & set(found["description"])),
                }
            )
    return rows


def summary(units: pd.DataFrame) -> str:
    both = units["shown"].map(lambda text: min(map(int, text.split(";"))) >= LEAST)
    kind = np.where(
        units["layer"] == "singles",
        "one concept",
        np.where(both, f"two, each in at least {LEAST} top images", "two, one in the top images"),
    )
    header = ["function", "network", "planted", "units", "1 meaning", "2 meanings", "3 meanings"]
    header += ["both named", "one named", "none named"]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    groups = units.assign(kind=kind).groupby(["function", "network", "kind"], sort=False)
    for key, group in groups:
        cells = [len(group), *((group["meanings"] == n).sum() for n in (1, 2, 3))]
        cells += [(group["right"] == n).sum() for n in (2, 1, 0)]
        lines.append("| " + " | ".join(map(str, (*key, *cells))) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
