"""Gather the runs below results/ into the paper's Tables 1 to 3 and studies, beside its numbers.

Writes table1.md, table1.csv and so on. A run of final_layer, or a cell of a run of
similarity_comparison with default hyperparameters, counts as a row if its run.json says so (the
target and its weights, probe, concepts, encoder, similarity function, summary, class names; of
published labels the file), never by its folder's name; of several the latest. Averages are of the
numbers above them, the union of ImageNet and Broden among them, as the paper's are. A number
without a run says which command would give it. Nothing of the paper is filled in as ours.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

TOLERANCE = {"top1": 0.005}  # others: cosines
COSINE = 0.005
NAMES = {"3k": "ef_3k", "10k": "google_10k", "20k": "google_20k",
         "imagenet_val+broden": "imagenet_broden"}  # fmt: skip
COLUMNS = ("row", "metric", "paper", "ours", "low", "high", "difference", "verdict")
AVERAGE = "average"
EMPTY = dict.fromkeys(("ours", "low", "high", "difference"))

Run = Mapping[str, Any]
Row = dict[str, Any]


def main() -> None:
    """Entry point of `clipdissect tables`."""
    parser = argparse.ArgumentParser(prog="clipdissect tables", description=__doc__)
    parser.add_argument("--results", default="results", help="where the runs are")
    parser.add_argument("--out", default="results/tables", help="where the tables go")
    options = parser.parse_args()
    try:
        for name, rows in gather(Path(options.results)).items():
            write(name, rows, Path(options.out))
            done = sum(row["ours"] is not None for row in rows)
            print(f"{name}: {done} of {len(rows)} numbers have a run; {options.out}/{name}.md")
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def gather(results: Path) -> dict[str, list[Row]]:
    """Each table's numbers: the paper's, ours where a run gives it, and the verdict.

    Args:
        results: searched at any depth for complete runs.
    """
    from clipdissect.app.paper import study_tables

    runs = list(runs_below(results))
    tables = {name: _rows(name, runs) for name in ("table1", "table2", "table3")}
    return {**tables, "studies": study_tables.rows(results)}


def runs_below(results: Path) -> Iterator[Run]:
    """`run` and `metrics` of every complete final-layer run and of every cell of a comparison.

    They come by date; unreadable ones are named.
    """
    found: list[Run] = []
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
            found.append({"run": run, "metrics": metrics})
        elif "comparison" in metrics:
            found += _cells(run, metrics["comparison"])
    yield from sorted(found, key=lambda one: str(one["run"].get("date")))


def write(name: str, rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Write `<name>.csv` and `<name>.md`."""
    import pandas as pd

    from clipdissect.results.run_files import write_table
    from clipdissect.utils.files import write_text

    write_table(out / f"{name}.csv", pd.DataFrame(rows, columns=list(COLUMNS)))
    lines = [COLUMNS, ["---"] * len(COLUMNS), *([_text(row[c]) for c in COLUMNS] for row in rows)]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    write_text(out / f"{name}.md", f"# {name.capitalize()} of the paper, and ours\n\n{text}\n")


def _cells(run: Run, rows: Sequence[Mapping[str, Any]]) -> Iterator[Run]:
    """A comparison's numbers of default hyperparameters, each as if a run of its own."""
    # Of each function the default comes first.
    defaults = {s["name"]: s for s in reversed(run.get("similarities", []))}
    probes = {AVERAGE: {"name": AVERAGE}, **run.get("probes", {})}
    for row in rows:
        if row["setting"] == "default" and row["probe"] in probes:
            facts = {"method": {"name": "clip_dissect"}, "probe": probes.get(row["probe"]),
                     "concepts": run.get("concepts", {}).get(row["concepts"]),
                     "similarity": defaults.get(row["similarity"])}  # fmt: skip
            span = {end: row[end] for end in ("low", "high")}
            yield {"run": {**run, **facts}, "metrics": {
                "final_layer": {row["metric"]: row["value"]}, "intervals": {row["metric"]: span},
            }}  # fmt: skip


def _rows(table: str, runs: Sequence[Run]) -> list[Row]:
    found: list[Row] = []
    for wanted in _numbers(table):
        averaged = wanted["facts"]["probe"] == AVERAGE
        of = found[-wanted["of"] :] if averaged else []
        found.append(_averaged(wanted, of, runs) if averaged else _judged(wanted, runs))
    return found


def _numbers(table: str) -> Iterator[Row]:
    """The paper's numbers of a table, each with the facts of the run that would give it."""
    from clipdissect.app.paper import values as paper

    values = paper.values()[table]
    if table == "table3":
        yield from _table3(values)
        return
    target = values["target"].split()[0]
    for row in values["rows"]:
        facts = {"method": row["method"], "target": target, "probe": _ours(row["probe"])}
        facts |= {"concepts": _ours(row["concepts"])} if row["concepts"] else {}
        facts |= {key: row[key] for key in ("labels", "strip") if key in row}
        facts |= {} if "labels" in facts else {"similarity": "soft_wpmi"}
        for metric in ("top1", "clip_vit_b16_cos", "mpnet_cos"):
            if metric in row:
                yield {"facts": facts, "metric": metric, "paper": row[metric],
                       "released": row.get("published_run", {}).get(metric)}  # fmt: skip


def _table3(values: Mapping[str, Any]) -> Iterator[Row]:
    """The cells, and after those of a function their average."""
    for metric in ("mpnet_cos", "top1"):
        concepts = _ours(values[metric]["concepts"])
        for name in ("rank_reorder", "wpmi", "soft_wpmi"):
            for probe, number in zip(values["probes"], values[metric][name], strict=True):
                facts = {"target": "resnet50", "similarity": name, "method": "clip_dissect",
                         "probe": _ours(probe), "concepts": concepts}  # fmt: skip
                yield {"facts": facts, "metric": metric, "paper": number,
                       "of": len(values["probes"]) - 1}  # fmt: skip


def _judged(wanted: Row, runs: Sequence[Run]) -> Row:
    facts, metric = wanted["facts"], wanted["metric"]
    fitting = [one["metrics"] for one in runs if _fits(one["run"], facts)]
    known = [v for v in (_value(m, metric, facts["target"]) for m in fitting) if v]
    if known:
        return _started(wanted) | known[-1] | _verdict(wanted, known[-1]["ours"])
    why = f"{metric} is undefined in its run" if fitting else "not run"
    return _started(wanted) | {"verdict": f"{why}: {_needs(facts, metric)}"}


def _averaged(wanted: Row, cells: Sequence[Row], runs: Sequence[Run]) -> Row:
    """The mean of the cells, as in the paper's Table 3: of four probes, one a union of two others.

    Its interval where one comparison gave them all.
    """
    values = [cell["ours"] for cell in cells]
    if None in values:
        return _started(wanted) | {"verdict": "not run: needs the numbers that it is of"}
    mean = sum(values) / len(values)
    same = [one for one in runs if _fits(one["run"], wanted["facts"])]
    known = [_value(one["metrics"], wanted["metric"], wanted["facts"]["target"]) for one in same]
    spans = [v for v in known if v and abs(v["ours"] - mean) < 1e-9]
    ends = {end: spans[-1][end] if spans else None for end in ("low", "high")}
    return _started(wanted) | ends | {"ours": mean} | _verdict(wanted, mean)


def _started(wanted: Row) -> Row:
    """A row without a number of ours."""
    facts = wanted["facts"]
    named = [facts[k] for k in ("method", "probe", "concepts", "similarity") if k in facts]
    return {"row": " ".join(named), "metric": wanted["metric"], "paper": wanted["paper"], **EMPTY}


def _verdict(wanted: Row, ours: float) -> Row:
    metric, difference = wanted["metric"], ours - wanted["paper"]
    verdict = "agrees" if _is_within(metric, difference) else "differs"
    released = wanted.get("released")
    if verdict == "differs" and released is not None and _is_within(metric, ours - released):
        verdict += f", but agrees with what the released notebook printed, {released:.4f}"
    return {"difference": difference, "verdict": verdict}


def _is_within(metric: str, difference: float) -> bool:
    return abs(difference) <= TOLERANCE.get(metric, COSINE) + 1e-9


def _fits(run: Run, facts: Mapping[str, Any]) -> bool:
    """Whether a run is the row's."""
    from clipdissect.app.paper import matching as fitting

    if not fitting.is_judged(run, facts["target"]):
        return False
    if "labels" in facts:
        layer, strip = fitting.CLASS_LAYER, facts.get("strip", ())
        return fitting.is_published(run, facts["labels"], layer, strip)
    return fitting.is_own(run, facts)


def _value(metrics: Mapping[str, Any], metric: str, target: str) -> Row | None:
    """A metric with its interval; Table 2's accuracy is over Broden's scenes, released matching."""
    if metric == "top1" and "places365" in target:
        released = metrics.get("places365", {}).get("released", {})
        ours, span = released.get("top1"), released.get("top1_interval")
    else:
        ours, span = metrics["final_layer"].get(metric), metrics["intervals"].get(metric)
    if ours is None or span is None:
        return None
    return {"ours": ours, "low": span.get("low"), "high": span.get("high")}


def _needs(facts: Mapping[str, Any], metric: str) -> str:
    """What is missing and the command that would give the number."""
    from clipdissect.app.paper.matching import CLASS_LAYER, published_options

    command = f"clipdissect final_layer target={facts['target']}"
    if "labels" in facts:
        options = published_options(facts["labels"], CLASS_LAYER, facts.get("strip", ()))
        data = "needs CLIP and the" if metric.startswith("clip") else "see published.md; from the"
        return f"{data} published labels: {command} {options}"
    probe = str(facts["probe"])
    data = {"imagenet_val": "ImageNet val", "broden": "Broden", "cifar100_train": "CIFAR-100",
            "imagenet_broden": "ImageNet val and Broden"}.get(probe, probe)  # fmt: skip
    return (
        f"needs {data} and CLIP: {command} probe={probe} concepts={facts['concepts']} "
        f"similarity={facts['similarity']}"
    )


def _ours(name: str) -> str:
    """Our name of the paper's probe or concept set."""
    return NAMES.get(name, name)


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
