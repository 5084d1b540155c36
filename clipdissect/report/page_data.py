"""The data of a page, as its scripts read them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from clipdissect.report.overview import low_margins
from clipdissect.report.report_data import rounded
from clipdissect.report.run import Run
from clipdissect.results.describe import NULL
from clipdissect.results.flags import DEAD, FEW, SATURATED, TIED, has_flag

# Pages opened from disk can't fetch JSON, so data files are scripts that pass a value. `units.js`
# has the texts and scores that search needs; details are loaded when their cards become visible.
CHUNK = 100  # units per file of details
FLAG_BITS = {DEAD: 1, TIED: 2, FEW: 4, SATURATED: 16}
LOW_MARGIN_BIT = 8


class TextTable:
    """Numbers texts, so that each is stored once in a page's data."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def number(self, text: Any) -> int:
        """Return a text's number; -1 for an empty text."""
        return self.numbers.setdefault(str(text), len(self.numbers)) if text else -1


def descriptions(run: Run, rows: pd.DataFrame, texts: TextTable) -> dict[str, Any]:
    """Return `d` descriptions, `s` scores, `m` margins, `f` flags and `n` null scores of rows."""
    names = [list(rows[text]) for text, _ in run.columns]
    scores = [list(rows[score]) for _, score in run.columns if score in rows]
    finite = [score for column in scores for score in column if not math.isnan(score)]
    bits = LOW_MARGIN_BIT * low_margins(rows).astype(int)
    for flag, bit in FLAG_BITS.items():
        bits += bit * has_flag(rows, flag)
    null = {"n": [rounded(score) for score in rows[NULL]]} if NULL in rows else {}
    return {
        "d": [[n for n in map(texts.number, row) if n >= 0] for row in zip(*names, strict=True)],
        "s": [[rounded(s) for s in row if not math.isnan(s)] for row in zip(*scores, strict=True)],
        "m": [rounded(margin) for margin in rows["margin"]],
        "f": bits.tolist(),
        **null,
        "low": rounded(min(finite, default=0.0)),
        "high": rounded(max(finite, default=1.0)),
    }


def ground_truth(
    run: Run, layer: str, texts: TextTable, units: Sequence[int] | None = None
) -> dict[str, Any]:
    """Return `t` class names, `r` correctness (2: by a synonym), `k` ranks; empty if unknown."""
    truth = run.ground_truth(layer)
    if truth is None:
        return {}
    if units is not None:
        truth = truth.set_axis(run.rows(layer)["unit"].tolist()).loc[list(units)]
    correct = zip(truth["right"], truth["right_any_synonym"], strict=True)
    return {
        "t": [texts.number(name) for name in truth["truth"]],
        "r": [1 if exact else 2 if synonym else 0 for exact, synonym in correct],
        "k": [rounded(rank) for rank in truth["rank"]],
    }


def other_labels(run: Run, layer: str, units: Sequence[int], texts: TextTable) -> dict[str, Any]:
    """Return `o`, other methods' labels, and `a`, their agreement with the descriptions."""
    facts = run.report_data.facts
    values: dict[str, Any] = {}
    if facts.get("others"):
        values["o"] = [
            [texts.number(labels.get(layer, {}).get(str(unit), "")) for unit in units]
            for labels in facts["others"].values()
        ]
    agreement = facts.get("agreement", {}).get(layer)
    if agreement and len(agreement) == len(units):
        values["a"] = agreement
    return values


def details(run: Run, layer: str, units: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yield images, regions and histograms of `CHUNK` units at a time."""
    images, pictures = run.top_images_of(layer), run.report_data.pictures
    for start in range(0, len(units), CHUNK):
        numbers: dict[str, int] = {}
        chunk = [
            _unit(unit, images.get(unit, []), run.report_data.layers.get(layer, {}), numbers)
            for unit in units[start : start + CHUNK]
        ]
        yield {"images": [[name, *pictures.get(name, [])] for name in numbers], "units": chunk}


def _unit(
    number: int,
    images: Sequence[tuple[str, float]],
    layer: dict[str, Any],
    image_numbers: dict[str, int],
) -> dict[str, Any]:
    """Return `i` image numbers in the chunk, `v` activations, `p` outlines, `h` histogram."""
    unit: dict[str, Any] = {
        "i": [image_numbers.setdefault(name, len(image_numbers)) for name, _ in images],
        "v": [rounded(activation) for _, activation in images],
    }
    if number < len(layer.get("outlines", ())):
        unit["p"] = layer["outlines"][number][: len(images)]
        unit["th"] = layer["thresholds"][number]
    if number < len(layer.get("counts", ())):
        for key, name in (("h", "counts"), ("lo", "low"), ("hi", "high")):
            unit[key] = layer[name][number]
    return unit
