"""A run's units as a page's scripts read them.

Texts, scores and flags of all units are in one file, for search must see all; pictures, regions
and histograms are in a file for every hundred units, loaded when their cards come into view. Pages
opened from disk can't fetch JSON, so these are scripts that hand over one value each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from clipdissect.report.loading import Run
from clipdissect.report.material import short
from clipdissect.report.overview import low_margins
from clipdissect.report.truths import truth_of
from clipdissect.results.describe import NULL
from clipdissect.results.flags import DEAD, FEW, SATURATED, TIED, has_flag

CHUNK = 100  # units a file of details
FLAGS = {DEAD: 1, TIED: 2, FEW: 4, SATURATED: 16}
LOW = 8


@dataclass
class Texts:
    """Texts by number: each stands once in a page's data."""

    numbers: dict[str, int] = field(default_factory=dict)

    def number(self, text: Any) -> int:
        """A text's number; -1 for an empty one."""
        return self.numbers.setdefault(str(text), len(self.numbers)) if text else -1


def side(run: Run, rows: pd.DataFrame, texts: Texts) -> dict[str, Any]:
    """What a run says of a layer's rows: `d` descriptions, `s` scores, `m` margins, `f` flags.

    Also `n`, scores under shuffled images, where the run has them.
    """
    names = [list(rows[text]) for text, _ in run.columns]
    scores = [list(rows[score]) for _, score in run.columns if score in rows]
    known = [[s for s in own if not math.isnan(s)] for own in scores]
    flat = [s for own in known for s in own]
    flags = LOW * low_margins(rows).astype(int)
    for flag, bit in FLAGS.items():
        flags += bit * has_flag(rows, flag)
    null = {"n": [short(s) for s in rows[NULL]]} if NULL in rows else {}
    return {
        "d": [[n for n in map(texts.number, own) if n >= 0] for own in zip(*names, strict=True)],
        "s": [[short(s) for s in own if not math.isnan(s)] for own in zip(*scores, strict=True)],
        "m": [short(m) for m in rows["margin"]], "f": flags.tolist(), **null,
        "low": short(min(flat, default=0.0)), "high": short(max(flat, default=1.0)),
    }  # fmt: skip


def truths(
    run: Run, layer: str, texts: Texts, units: Sequence[int] | None = None
) -> dict[str, Any]:
    """`t` right texts, `r` whether the label is right (2: by a synonym), `k` its rank.

    Empty without truth.

    Args:
        run: the run.
        layer: of it.
        texts: where texts get their numbers.
        units: some of the layer's units, in order; None for all.
    """
    truth = truth_of(run, layer)
    if truth is None:
        return {}
    if units is not None:
        truth = truth.set_axis(run.rows(layer)["unit"].tolist()).loc[list(units)]
    return {
        "t": [texts.number(name) for name in truth["truth"]],
        "r": [
            1 if right else 2 if near else 0
            for right, near in zip(truth["right"], truth["right_any_synonym"], strict=True)
        ],
        "k": [short(rank) for rank in truth["rank"]],
    }


def others(run: Run, layer: str, units: Sequence[int], texts: Texts) -> dict[str, Any]:
    """`o` the labels of each other method, `a` how near all texts are to the description."""
    facts, found = run.material.facts, {}
    labels = facts.get("others", {})
    if labels:
        found["o"] = [
            [texts.number(own.get(layer, {}).get(str(unit), "")) for unit in units]
            for own in labels.values()
        ]
    agreement = facts.get("agreement", {}).get(layer)
    if agreement and len(agreement) == len(units):
        found["a"] = agreement
    return found


def details(run: Run, layer: str, units: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Chunks of `CHUNK` units: their pictures, activations there, regions, and histograms."""
    images = _top_images(run, layer)
    own = run.material.layers.get(layer, {})
    for start in range(0, len(units), CHUNK):
        names: dict[str, int] = {}
        chunk = [
            _unit(unit, images.get(unit, []), own, names) for unit in units[start : start + CHUNK]
        ]
        pictures = run.material.pictures
        yield {"images": [[name, *pictures.get(name, [])] for name in names], "units": chunk}


def _top_images(run: Run, layer: str) -> dict[int, list[tuple[str, float]]]:
    """Each unit's best images, as many as the report shows."""
    most = run.material.facts.get("images", 5)
    rows = run.top_images[run.top_images["layer"] == layer]
    rows = rows[rows["rank"].astype(float) <= most]
    found: dict[int, list[tuple[str, float]]] = {}
    for unit, image, activation in zip(
        rows["unit"], rows["image"], rows["activation"], strict=True
    ):
        found.setdefault(int(unit), []).append((str(image), float(activation)))
    return found


def _unit(
    number: int, shown: Sequence[tuple[str, float]], own: dict[str, Any], names: dict[str, int]
) -> dict[str, Any]:
    """`i` images by their number in the chunk, `v` activations, `p` paths, `h` histogram."""
    unit: dict[str, Any] = {
        "i": [names.setdefault(name, len(names)) for name, _ in shown],
        "v": [short(value) for _, value in shown],
    }
    if number < len(own.get("outlines", ())):
        unit["p"] = own["outlines"][number][: len(shown)]
        unit["th"] = own["thresholds"][number]
    if number < len(own.get("counts", ())):
        counted = {"h": own["counts"], "lo": own["low"], "hi": own["high"]}
        unit |= {name: values[number] for name, values in counted.items()}
    return unit
