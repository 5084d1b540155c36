#!/usr/bin/env python
"""Test which activation ranges name planted concepts (table of docs/dissection_methods.md).

    .venv/bin/python scripts/planted_ranges.py --images 200 --out results/offline/planted_ranges

Writes ranges.csv (each range's description with the unit's truth), table.md and run.json.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import pandas as pd
from planted_concepts import kind_of, names_truth

from clipdissect import method, probe, testing
from clipdissect.capture.settings import Settings
from clipdissect.method import Job
from clipdissect.results.manifest import git_state, machine, versions
from clipdissect.results.run_files import write_json, write_table
from clipdissect.store import Store
from clipdissect.utils.paths import store_dir

METHODS = ("network_dissection", "compositional")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--ranges", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("results/offline/planted_ranges"))
    options = parser.parse_args()
    images = probe.build("synthetic_broden", images=options.images, seed=0)
    planted, seconds, tables = testing.planted_filters(), {}, []
    for name in METHODS:
        start = time.perf_counter()
        tables.append(described(planted, images, name, options.ranges).assign(method=name))
        seconds[name] = round(time.perf_counter() - start, 1)
    ranges = pd.concat(tables, ignore_index=True)
    options.out.mkdir(parents=True, exist_ok=True)
    write_table(options.out / "ranges.csv", ranges)
    table = summary(ranges)
    (options.out / "table.md").write_text(table, encoding="utf-8")
    facts = {"versions": versions(), "machine": machine(), "git": git_state()}
    facts |= {"seconds": seconds, "images": options.images, "ranges": options.ranges}
    write_json(options.out / "run.json", facts)
    print(table)


def described(
    planted: testing.Planted, images: probe.Probe, name: str, ranges: int
) -> pd.DataFrame:
    """Return all units' ranges, with the unit's truth and whether the range names it.

    Range 0 is what lies above the method's threshold.
    """
    job = Job(
        target=planted.target,
        probe=images,
        settings=Settings(device="cpu"),
        store=Store(store_dir()),
    )
    found = method.build(name, ranges=ranges).describe(job)
    table = pd.concat([found.descriptions.assign(meaning=0), found.meanings], ignore_index=True)
    columns = ["layer", "unit", "meaning", "description", "similarity", *found.meanings]
    table = table[[c for c in dict.fromkeys(columns) if c in table]]
    if name == "network_dissection":  # descriptions of units have no formulas
        table["formula"] = [json.dumps({"label": text}) for text in table["description"]]
    truth = [planted.truth[row["layer"]][row["unit"]] for _, row in table.iterrows()]
    right = [names_truth(t, row) for t, (_, row) in zip(truth, table.iterrows(), strict=True)]
    return table.assign(truth=truth, right=right)


def summary(ranges: pd.DataFrame) -> str:
    """Return a table of the right ranges and the mean IoU, by kind of concept and range."""
    numbers = sorted(ranges["meaning"].unique())
    header = ["method", "planted", "units", *(f"range {n}" if n else "top 0.5 %" for n in numbers)]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    kinds = ranges.assign(kind=[kind_of(text) for text in ranges["truth"]])
    for (name, kind), group in kinds.groupby(["method", "kind"], sort=False):
        units = len(group[["layer", "unit"]].drop_duplicates())
        by_range = [group[group["meaning"] == n] for n in numbers]
        cells = [f"{int(g['right'].sum())} ({g['similarity'].mean():.2f})" for g in by_range]
        lines.append("| " + " | ".join([name, kind, str(units), *cells]) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
