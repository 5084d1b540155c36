"""Gather the runs below results/ into the paper's Tables 1 to 3 and studies, with its numbers.

Writes table1.md, table1.csv and so on. A run of final_layer, or a cell of a run of
similarity_comparison with default hyperparameters, counts as a row if its run.json says so (the
target and its weights, probe, concepts, encoder, similarity function, summary, class names; of
published labels the file), never by its folder's name; the latest run counts. As in the paper,
averages include the union of ImageNet and Broden. A number without a run lists the command that
gives it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from clipdissect.app import paper
from clipdissect.app.commands import command_parser, exit_on_user_errors, write_comparison
from clipdissect.app.paper import matching as fitting

TOLERANCE = 0.005
NAMES = {
    "3k": "ef_3k",
    "10k": "google_10k",
    "20k": "google_20k",
    "imagenet_val+broden": "imagenet_broden",
}
DATA = {
    "imagenet_val": "ImageNet val",
    "broden": "Broden",
    "cifar100_train": "CIFAR-100",
    "imagenet_broden": "ImageNet val and Broden",
}
COLUMNS = ("row", "metric", "paper", "ours", "low", "high", "difference", "verdict")
AVERAGE = "average"

Run = Mapping[str, Any]
Row = dict[str, Any]


@exit_on_user_errors
def main() -> None:
    parser = command_parser("tables", __doc__)
    parser.add_argument("--results", default="results", help="folder of the runs")
    parser.add_argument("--out", default="results/tables", help="folder for the tables")
    options = parser.parse_args()
    for name, rows in gather(Path(options.results)).items():
        write(name, rows, Path(options.out))
        done = sum(row["ours"] is not None for row in rows)
        print(f"{name}: {done} of {len(rows)} numbers have a run; {options.out}/{name}.md")


def gather(results: Path) -> dict[str, list[Row]]:
    """Return rows by table: the paper's numbers, those of complete runs, and verdicts."""
    from clipdissect.app.paper import study_tables

    runs = list(runs_below(results))
    tables = {name: _rows(name, runs) for name in ("table1", "table2", "table3")}
    return {**tables, "studies": study_tables.rows(results)}


def runs_below(results: Path) -> Iterator[Run]:
    """Yield `run` and `metrics` of complete runs and of comparisons' cells, by date."""
    runs: list[Run] = []
    for path in results.rglob("metrics.json"):
        if not (path.parent / "run.json").is_file():
            continue
        try:
            metrics = json.loads(path.read_text(encoding="utf-8"))
            run = json.loads((path.parent / "run.json").read_text(encoding="utf-8"))
        except ValueError:
            print(f"{path.parent} isn't readable and is left out", file=sys.stderr)
            continue
        if "final_layer" in metrics and "intervals" in metrics:
            runs.append({"run": run, "metrics": metrics})
        elif "comparison" in metrics:
            runs += _cells(run, metrics["comparison"])
    yield from sorted(runs, key=lambda entry: str(entry["run"].get("date")))


def write(name: str, rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    cells = [[row[column] for column in COLUMNS] for row in rows]
    write_comparison(out / name, COLUMNS, cells, f"{name.capitalize()} of the paper, and ours")


def _cells(run: Run, rows: Sequence[Mapping[str, Any]]) -> Iterator[Run]:
    """Yield a comparison's cells with default hyperparameters as runs."""
    # The first entry of each function is the default.
    defaults = {s["name"]: s for s in reversed(run.get("similarities", []))}
    probes = {AVERAGE: {"name": AVERAGE}, **run.get("probes", {})}
    for row in rows:
        if row["setting"] == "default" and row["probe"] in probes:
            facts = {
                "method": {"name": "clip_dissect"},
                "probe": probes[row["probe"]],
                "concepts": run.get("concepts", {}).get(row["concepts"]),
                "similarity": defaults.get(row["similarity"]),
            }
            interval = {end: row[end] for end in ("low", "high")}
            values = {row["metric"]: row["value"]}
            metrics = {"final_layer": values, "intervals": {row["metric"]: interval}}
            yield {"run": {**run, **facts}, "metrics": metrics}


def _rows(table: str, runs: Sequence[Run]) -> list[Row]:
    rows: list[Row] = []
    for number in _numbers(table):
        if number["facts"]["probe"] == AVERAGE:
            rows.append(_average(number, rows[-number["cells"] :], runs))
        else:
            rows.append(_compared(number, runs))
    return rows


def _numbers(table: str) -> Iterator[Row]:
    """Yield a table's published numbers with the manifest entries that reproduce each."""
    values = paper.values()[table]
    if table == "table3":
        yield from _table3(values)
        return
    target = values["target"].split()[0]
    for row in values["rows"]:
        facts = {"method": row["method"], "target": target, "probe": _our_name(row["probe"])}
        facts |= {"concepts": _our_name(row["concepts"])} if row["concepts"] else {}
        facts |= {key: row[key] for key in ("labels", "strip") if key in row}
        facts |= {} if "labels" in facts else {"similarity": "soft_wpmi"}
        released = row.get("published_run", {})
        for metric in ("top1", "clip_vit_b16_cos", "mpnet_cos"):
            if metric in row:
                number = {"facts": facts, "metric": metric, "paper": row[metric]}
                yield number | {"released": released.get(metric)}


def _table3(values: Mapping[str, Any]) -> Iterator[Row]:
    for metric in ("mpnet_cos", "top1"):
        facts = {"target": "resnet50", "method": "clip_dissect"}
        facts["concepts"] = _our_name(values[metric]["concepts"])
        for name in ("rank_reorder", "wpmi", "soft_wpmi"):
            for probe, value in zip(values["probes"], values[metric][name], strict=True):
                row = facts | {"similarity": name, "probe": _our_name(probe)}
                cells = len(values["probes"]) - 1
                yield {"facts": row, "metric": metric, "paper": value, "cells": cells}


def _our_name(name: str) -> str:
    return NAMES.get(name, name)


def _compared(number: Row, runs: Sequence[Run]) -> Row:
    facts, metric = number["facts"], number["metric"]
    matching = [run["metrics"] for run in runs if _matches(run["run"], facts)]
    known = [v for v in (_value(m, metric, facts["target"]) for m in matching) if v]
    if known:
        return _empty_row(number) | known[-1] | _verdict(number, known[-1]["ours"])
    reason = f"{metric} is undefined in its run" if matching else "not run"
    return _empty_row(number) | {"verdict": f"{reason}: {_needs(facts, metric)}"}


def _average(number: Row, cells: Sequence[Row], runs: Sequence[Run]) -> Row:
    """Average the cells as Table 3 does: one of its four probes is the union of two others."""
    values = [cell["ours"] for cell in cells]
    if None in values:
        return _empty_row(number) | {"verdict": "not run: needs the numbers that it is of"}
    mean = sum(values) / len(values)
    facts = number["facts"]
    matching = [run["metrics"] for run in runs if _matches(run["run"], facts)]
    known = [_value(metrics, number["metric"], facts["target"]) for metrics in matching]
    same = [v for v in known if v and abs(v["ours"] - mean) < 1e-9]
    interval = {end: same[-1][end] if same else None for end in ("low", "high")}
    return _empty_row(number) | interval | {"ours": mean} | _verdict(number, mean)


def _empty_row(number: Row) -> Row:
    facts = number["facts"]
    names = [facts[k] for k in ("method", "probe", "concepts", "similarity") if k in facts]
    row = {"row": " ".join(names), "metric": number["metric"], "paper": number["paper"]}
    return row | dict.fromkeys(("ours", "low", "high", "difference"))


def _verdict(number: Row, ours: float) -> Row:
    difference, released = ours - number["paper"], number.get("released")
    verdict = "agrees" if _agrees(difference) else "differs"
    if verdict == "differs" and released is not None and _agrees(ours - released):
        verdict += f", but agrees with what the released notebook printed, {released:.4f}"
    return {"difference": difference, "verdict": verdict}


def _agrees(difference: float) -> bool:
    return abs(difference) <= TOLERANCE + 1e-9


def _matches(run: Run, facts: Mapping[str, Any]) -> bool:
    if not fitting.is_judged(run, facts["target"]):
        return False
    if "labels" in facts:
        strip = facts.get("strip", ())
        return fitting.is_published(run, facts["labels"], fitting.CLASS_LAYER, strip)
    return fitting.is_own(run, facts)


def _value(metrics: Mapping[str, Any], metric: str, target: str) -> Row | None:
    """Return a metric with its interval; Table 2's accuracy is over Broden's scenes."""
    if metric == "top1" and "places365" in target:
        released = metrics.get("places365", {}).get("released", {})
        ours, interval = released.get("top1"), released.get("top1_interval")
    else:
        ours, interval = metrics["final_layer"].get(metric), metrics["intervals"].get(metric)
    if ours is None or interval is None:
        return None
    return {"ours": ours, "low": interval.get("low"), "high": interval.get("high")}


def _needs(facts: Mapping[str, Any], metric: str) -> str:
    command = f"clipdissect final_layer target={facts['target']}"
    if "labels" in facts:
        strip = facts.get("strip", ())
        options = fitting.published_options(facts["labels"], fitting.CLASS_LAYER, strip)
        data = "needs CLIP and the" if metric.startswith("clip") else "see published.md; from the"
        return f"{data} published labels: {command} {options}"
    probe = str(facts["probe"])
    return (
        f"needs {DATA.get(probe, probe)} and CLIP: {command} probe={probe} "
        f"concepts={facts['concepts']} similarity={facts['similarity']}"
    )
