"""Gather the runs below results/ into the paper's Tables 1 to 3, studies and published scores.

Writes table1.md, table1.csv and so on. A run of final_layer, or a cell of a run of
similarity_comparison with default hyperparameters, counts as a row if its run.json says so (the
target and its weights, probe, concepts, encoder, similarity function, summary, class names; of
published labels the file), never by its folder's name; the latest run counts. As in the paper,
averages include the union of ImageNet and Broden. Every number lists the command that gives it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipdissect.app import paper
from clipdissect.app.commands import command_parser, exit_on_user_errors, write_comparison

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
    "imagenet_broden": "ImageNet val, Broden",
}
COLUMNS = ("row", "metric", "paper", "ours", "low", "high", "difference", "verdict", "command")
AVERAGE = "average"
TARGET = "resnet50"
OWN = {"target": TARGET, "similarity": "soft_wpmi", "concepts": "google_20k"}

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
    complete = list(_complete_runs(results))
    runs = _evaluated(complete)
    tables = {name: _rows(name, runs) for name in ("table1", "table2", "table3")}
    return {**tables, "studies": _study_rows(complete), "scores": _score_rows(complete)}


def _complete_runs(results: Path) -> Iterator[tuple[Any, Any]]:
    """Yield the contents of `run.json` and `metrics.json` from any depth below `results`."""
    for path in results.rglob("metrics.json"):
        if not (path.parent / "run.json").is_file():
            continue
        try:
            metrics = json.loads(path.read_text(encoding="utf-8"))
            yield json.loads((path.parent / "run.json").read_text(encoding="utf-8")), metrics
        except ValueError:
            print(f"{path.parent} isn't readable and is left out", file=sys.stderr)


def _evaluated(complete: Sequence[tuple[Any, Any]]) -> list[Run]:
    """Return `run` and `metrics` of runs of final_layer and of comparisons' cells, by date."""
    runs: list[Run] = []
    for run, metrics in complete:
        if "final_layer" in metrics and "intervals" in metrics:
            runs.append({"run": run, "metrics": metrics})
        elif "comparison" in metrics:
            runs += _cells(run, metrics["comparison"])
    return sorted(runs, key=lambda entry: str(entry["run"].get("date")))


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
        return _own_row(number) | known[-1] | _verdict(number, known[-1]["ours"])
    reason = f"{metric} is undefined in its run" if matching else "not run"
    return _own_row(number) | {"verdict": f"{reason}: {_needs(facts, metric)}"}


def _average(number: Row, cells: Sequence[Row], runs: Sequence[Run]) -> Row:
    """Average the cells as Table 3 does: one of its four probes is the union of two others."""
    values = [cell["ours"] for cell in cells]
    if None in values:
        return _own_row(number) | {"verdict": "not run: needs the numbers that it is of"}
    mean = sum(values) / len(values)
    facts = number["facts"]
    matching = [run["metrics"] for run in runs if _matches(run["run"], facts)]
    known = [_value(metrics, number["metric"], facts["target"]) for metrics in matching]
    same = [v for v in known if v and abs(v["ours"] - mean) < 1e-9]
    interval = {end: same[-1][end] if same else None for end in ("low", "high")}
    return _own_row(number) | interval | {"ours": mean} | _verdict(number, mean)


def _own_row(number: Row) -> Row:
    facts = number["facts"]
    names = [facts[k] for k in ("method", "probe", "concepts", "similarity") if k in facts]
    return _empty_row(" ".join(names), number["metric"], number["paper"], _command(facts))


def _empty_row(name: str, metric: str, published: float | None, command: str) -> Row:
    row = {"row": name, "metric": metric, "paper": published, "command": command}
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
    if not paper.is_judged(run, facts["target"]):
        return False
    if "labels" in facts:
        strip = facts.get("strip", ())
        return paper.is_published(run, facts["labels"], paper.CLASS_LAYER, strip)
    return paper.is_own(run, facts)


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
    if "labels" in facts:
        is_clip = metric.startswith("clip")
        return "needs CLIP and the published labels" if is_clip else "see published.md"
    probe = str(facts["probe"])
    return f"needs {DATA.get(probe, probe)} and CLIP"


def _command(facts: Mapping[str, Any]) -> str:
    if facts["probe"] == AVERAGE:
        return "clipdissect final_layer experiment=table3"
    command = f"clipdissect final_layer target={facts['target']}"
    if "labels" in facts:
        strip = facts.get("strip", ())
        return f"{command} {paper.published_options(facts['labels'], paper.CLASS_LAYER, strip)}"
    keys = ("probe", "concepts", "similarity")
    return " ".join([command, *(f"{key}={facts[key]}" for key in keys)])


@dataclass(frozen=True)
class Number:
    """A number of the paper, and the conditions on runs that reproduce it.

    `own` are the parts of our labels (see `paper.is_own`), `labels` a published label
    file and `images` its probe. `keys` lead to the number in the metrics. `needs` are the weights
    and images that the command takes.
    """

    study: str
    name: str
    metric: str
    keys: tuple[str, ...]
    needs: str
    published: float | None = None
    own: Mapping[str, str] | None = None
    labels: str | None = None
    images: str | None = None
    settings: Row = field(default_factory=dict)
    layers: Mapping[str, str] = field(default_factory=dict)

    def row(self, runs: list[tuple[Row, Row]]) -> Row:
        name = f"{self.study}: {self.name}"
        row = _empty_row(name, self.metric, self.published, self._command)
        fitting = [metrics[self.study] for run, metrics in runs if self._fits(run, metrics)]
        known = [value for metrics in fitting if (value := self._value(metrics))]
        if not known:
            return row | {"verdict": f"not run: needs {self.needs}"}
        ours = known[-1]
        if self.published is None:
            return row | ours | {"verdict": "the paper has no such number"}
        low, high = (ours["ours"] if ours[end] is None else ours[end] for end in ("low", "high"))
        verdict = "the paper's is in our interval" if low <= self.published <= high else "differs"
        return row | ours | {"difference": ours["ours"] - self.published, "verdict": verdict}

    def _fits(self, run: Row, metrics: Row) -> bool:
        values = metrics.get(self.study)
        if run["study"].get("name") != self.study or not isinstance(values, Mapping):
            return False
        return (
            self.settings.items() <= run["study"].items()
            and self.layers.items() <= values.items()
            and paper.is_judged(run, TARGET)
            and paper.has_target(run, TARGET)
            and ((self.own and paper.is_own(run, self.own)) or self._is_published(run))
        )

    def _is_published(self, run: Row) -> bool:
        if not self.labels or not paper.is_published(run, self.labels, self.layers["layer"]):
            return False
        if self.images is None:
            return True
        return paper.has_probe(run, self.images) and paper.has_summary(run)

    @property
    def _command(self) -> str:
        command = f"clipdissect {self.study} experiment={self.study}"
        if self.labels is None:
            return command
        return f"{command} {paper.published_options(self.labels, self.layers['layer'])}"

    def _value(self, metrics: Any) -> Row | None:
        for key in self.keys:
            metrics = (metrics or {}).get(key)
        if not metrics:
            return None
        value = metrics.get("value", metrics.get(self.metric))
        intervals = metrics.get("intervals") or {}
        span = metrics.get("interval") or intervals.get(self.metric) or metrics
        if value is None:
            return None
        return {"ours": value, "low": span.get("low"), "high": span.get("high")}


def _study_rows(runs: Sequence[tuple[Row, Row]]) -> list[Row]:
    """Return the studies' numbers: the paper's, and ours."""
    of_studies = [
        (run, metrics)
        for run, metrics in runs
        if isinstance(run, dict) and isinstance(run.get("study"), dict)
    ]
    ordered = sorted(of_studies, key=lambda entry: str(entry[0].get("date")))
    numbers = (*_missing(), *_weights(), *_classes(), *_phrases())
    return [number.row(ordered) for number in numbers]


def _score_rows(complete: Sequence[tuple[Run, Row]]) -> list[Row]:
    """Return the published mean simulation scores of ResNet-50's layer4, and ours."""
    published = paper.values()["simulation"]
    runs = [entry for entry in complete if _is_simulation(entry[0], published["encoder"])]
    ordered = sorted(runs, key=lambda entry: str(entry[0].get("date")))
    rows = []
    for name, (file, mean) in published["labels"].items():
        number = {"paper": mean}
        command = "clipdissect score experiment=scores_published profile.labels=FOLDER"
        row = _empty_row(f"{published['layer']}: {name}", "simulation", mean, command)
        known = [v for run, metrics in ordered if (v := _simulation(run, metrics, file))]
        if known:
            value = known[-1] | _verdict(number, known[-1]["ours"])
        else:
            value = {"verdict": "not run: needs ImageNet val, SigLIP and the published labels"}
        rows.append(row | value)
    return rows


def _is_simulation(run: Run, encoder: str) -> bool:
    scorers = run.get("scores", {}).get("scorers", {})
    is_own = scorers.get("simulation", {}).get("encoder") == encoder
    return is_own and paper.has_target(run, TARGET) and paper.has_probe(run, "imagenet_val")


def _simulation(run: Run, metrics: Row, file: str) -> Row | None:
    """Return the mean of a published file's labels in a run of `score`."""
    wanted = paper.values()["label_files"][file]
    for name, digests in run["scores"]["digests"].items():
        if digests.get("labels") == wanted:
            layers = metrics["against"].get(name, metrics["layers"])
            found = layers.get(paper.values()["simulation"]["layer"], {}).get("simulation")
            if found and found["value"] is not None:
                return {"ours": found["value"], "low": found["low"], "high": found["high"]}
    return None


def _missing() -> Iterator[Number]:
    values = paper.values()["missing_concepts"]
    parts = OWN | {key: values[key] for key in ("probe", "concepts")}
    for group in ("dog.n.01", "bird.n.01"):
        name, share = f"{group}, {values['probe']}", values[group]["right"] / values[group]["units"]
        keys, needs = (group, "missing"), "CIFAR-100 and CLIP"
        yield Number("missing_concepts", name, "top1", keys, needs, share, parts)


def _weights() -> Iterator[Number]:
    values, parts = paper.values()["weight_similarity"], OWN | {"probe": "imagenet_broden"}
    layers = {key: values[key] for key in ("layer", "into")}
    for pairs, r in values["pearson_r"].items():
        is_part = int(pairs) <= 50_000
        yield Number(
            "weight_similarity",
            f"{layers['layer']} to {layers['into']}, {pairs} weights",
            "pearson_r",
            (paper.ENCODER, "top_pairs" if is_part else "all_pairs"),
            "CLIP, ResNet-50's weights and the published labels",
            r,
            parts,
            values["labels"],
            settings={"top_pairs": int(pairs)} if is_part else {},
            layers=layers,
        )


def _classes() -> Iterator[Number]:
    study, images = "class_from_descriptions", "imagenet_val"
    layers = {"layer": "layer4", "into": "fc"}
    for method, values in paper.values()[study].items():
        parts = OWN | {"probe": images} if method == "clip_dissect" else None
        for metric in ("truth", "prediction"):
            facts = {"own": parts, "labels": values["labels"], "images": images, "layers": layers}
            needs = "ImageNet val, ResNet-50's weights and the published labels"
            yield Number(study, method, metric, ("mpnet", metric), needs, values[metric], **facts)


def _phrases() -> Iterator[Number]:
    keys = ("fc", "judged", "mpnet", "phrases_minus_words")
    parts = OWN | {"probe": "imagenet_broden"}
    settings = {"templates": ["{} {}"], "words": 100, "length": 2}
    name = "phrases minus words, fc"
    needs = "ImageNet val, Broden and CLIP"
    study = "compositional_concepts"
    yield Number(study, name, "mpnet_cos", keys, needs, own=parts, settings=settings)
