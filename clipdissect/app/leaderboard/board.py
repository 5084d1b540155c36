"""The table of a leaderboard: one row per method, layer and score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from clipdissect.app.console import markdown_table
from clipdissect.app.leaderboard.entries import Described
from clipdissect.app.scoring.output import MAIN
from clipdissect.scores.summary import ALL

COLUMNS = (
    *("method", "layer", "score", "value", "low", "high", "units", "controls", "reached_by"),
    *("difference", "difference_low", "difference_high", "requires", "seconds"),
)
NOTHING = "nothing"  # that a method takes besides a network and images
FEW = 0.9  # share of a layer's units below which a mean says how many it is of
LEGEND = (
    "Means over units with 95 % intervals, best first by the first score. `+` and `-`: certainly "
    "above or below {baseline}, over the units that both have a score of. `(c)`: a control's mean "
    "is not certainly below. `n`: the units that have the score, where they are fewer than nine "
    "tenths of the layer's. Seconds are of all layers together, with stored features.\n"
)


@dataclass(frozen=True)
class Board:
    """The scores of all methods.

    Args:
        table: `COLUMNS`, a row per method, layer and score; `controls` is the largest mean of a
            control, `difference` what the labels have over the first method's.
        layers: in the network's order; of several, all together first.
        missing: why methods and scores aren't in the table.
    """

    table: pd.DataFrame
    layers: tuple[str, ...]
    baseline: str
    missing: dict[str, str]

    @classmethod
    def of(
        cls, metrics: Mapping[str, Any], described: Sequence[Described], missing: dict[str, str]
    ) -> Board:
        by_name = {entry.labels.name: entry for entry in described}
        sets = {metrics["labels"]: metrics["layers"], **metrics["against"]}
        rows = [
            {**row, "requires": ", ".join(by_name[name].requires) or NOTHING}
            | {"seconds": round(by_name[name].seconds, 2)}
            for name, layers in sets.items()
            for row in _rows(name, layers, metrics["differences"].get(name, {}))
        ]
        layers = tuple(sorted(metrics["layers"], key=lambda layer: layer != ALL))
        table = pd.DataFrame(rows, columns=COLUMNS)
        return cls(table, layers, metrics["labels"], {**missing, **metrics["not_scored"]})

    def scores(self, layer: str) -> list[str]:
        """Return the main scores that any method has in a layer."""
        known = set(self.table.loc[self.table["layer"] == layer, "score"])
        return [name for name in MAIN if name in known]

    def methods(self, layer: str) -> list[str]:
        """Return the methods with a score in a layer, best first by the first score."""
        rows = self.table[self.table["layer"] == layer]
        names = list(dict.fromkeys(rows["method"]))
        values = rows[rows["score"] == self.scores(layer)[0]].set_index("method")["value"]
        return sorted(names, key=lambda name: -values.get(name, float("-inf")))

    @cached_property
    def cells(self) -> dict[tuple[str, str, str], dict[Any, Any]]:
        """Return the table's rows by layer, method and score."""
        keys = zip(self.table["layer"], self.table["method"], self.table["score"], strict=True)
        return dict(zip(keys, self.table.to_dict("records"), strict=True))

    @cached_property
    def about(self) -> dict[str, tuple[str, float]]:
        """Return what each method takes, and its seconds."""
        rows = self.table.drop_duplicates("method").set_index("method")
        pairs = zip(rows["requires"], rows["seconds"], strict=True)
        return dict(zip(map(str, rows.index), pairs, strict=True))

    @cached_property
    def units(self) -> dict[str, int]:
        """Return the number of units that any score is of, by layer."""
        most = self.table.groupby("layer")["units"].max()
        return {str(layer): int(units) for layer, units in most.items()}

    def few(self, row: Mapping[str, Any]) -> str:
        """Return the number of units of a mean, where it lacks many."""
        units = int(row["units"])
        return f", n = {units}" if units < FEW * self.units[row["layer"]] else ""

    def text_of(self, row: Mapping[str, Any] | None) -> str:
        """Return a mean with its interval and marks; empty without one."""
        if row is None:
            return ""
        mark = {1: " +", -1: " -"}.get(sign_of(row), "")
        return f"{interval_text(row)}{self.few(row)}{mark}{' (c)' if row['reached_by'] else ''}"

    def markdown(self) -> str:
        """Return a table per layer, the methods that are missing, and a legend."""
        parts = [f"{layer}\n\n{self._layer_table(layer)}" for layer in self.layers]
        parts += [f"Missing: {name}: {why}\n" for name, why in self.missing.items()]
        return "\n".join([*parts, LEGEND.format(baseline=self.baseline)])

    def _layer_table(self, layer: str) -> str:
        scores, cells = self.scores(layer), self.cells
        rows = []
        for name in self.methods(layer):
            texts = [self.text_of(cells.get((layer, name, score))) for score in scores]
            requires, seconds = self.about[name]
            rows.append([name, requires, f"{seconds:.1f}", *texts])
        return markdown_table(["method", "takes", "seconds", *scores], rows)


def _rows(
    name: str, layers: Mapping[str, Any], differences: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    for layer, scores in layers.items():
        for score, found in scores.items():
            minus = differences.get(layer, {}).get(score) or dict.fromkeys(("value", "low", "high"))
            controls = [control["value"] for control in found["controls"].values()]
            known = [value for value in controls if value is not None and value == value]
            yield {
                "method": name,
                "layer": layer,
                "score": score,
                **{key: found[key] for key in ("value", "low", "high", "units")},
                "controls": max(known, default=None),
                "reached_by": " ".join(found["reached_by"]),
                # The metrics have the first labels minus these.
                "difference": _negative(minus["value"]),
                "difference_low": _negative(minus["high"]),
                "difference_high": _negative(minus["low"]),
            }


def _negative(value: float | None) -> float | None:
    return None if value is None else 0.0 - value  # not -0.0


def sign_of(row: Mapping[str, Any]) -> int:
    """Return 1 or -1 for a difference that is certainly above or below 0, and 0 for others."""
    low, high = row["difference_low"], row["difference_high"]
    if pd.isna(low) or pd.isna(high):
        return 0
    return int(low > 0) - int(high < 0)


def interval_text(row: Mapping[str, Any]) -> str:
    """Return a mean and, if it has one, its interval."""
    text = f"{row['value']:.3f}"
    return text if pd.isna(row["low"]) else f"{text} [{row['low']:.3f}, {row['high']:.3f}]"
