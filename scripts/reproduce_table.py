#!/usr/bin/env python
"""Write docs/reproduce.md: every number of the paper, its command, and ours where it was run.

    .venv/bin/python scripts/reproduce_table.py

Reads the packaged values of the paper and the committed files below results/ alone; run
`scripts/check_published` and `clipdissect tables` first to bring those up to date.
"""

from __future__ import annotations

import csv
import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clipdissect import similarity
from clipdissect.app import paper
from clipdissect.app.console import markdown_table
from clipdissect.utils.files import write_text

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reproduce.md"
OFFLINE = ROOT / "results" / "offline"
HEADER = ("row", "metric", "paper", "ours", "offline, not comparable", "command")
NONE = "-"
# What stands in for the paper's images in the offline runs.
STAND_INS = {
    "imagenet_val": "imagenet_sample",
    "cifar100_train": "tiny_imagenet_val",
    "broden": "stamps",
    "imagenet_broden": "union",
    "average": "average",
}
FINAL = "clipdissect final_layer target=resnet50"

Row = dict[str, str]
Cells = Mapping[tuple[str, ...], str]


@dataclass(frozen=True)
class Line:
    """A number of the paper, ours in its setting or the reason for none, and the offline one."""

    row: str
    metric: str
    paper: str
    ours: str
    command: str
    offline: str = NONE


@dataclass(frozen=True)
class Section:
    """A table or figure of the paper: `fetch` are items of `clipdissect fetch`, `runs` folders."""

    title: str
    lead: str
    lines: Sequence[Line]
    fetch: str = ""
    offline: str = ""
    runs: Sequence[str] = ()

    def text(self) -> str:
        commands = list(dict.fromkeys(line.command for line in self.lines))
        rows = [
            (x.row, x.metric, x.paper, x.ours, x.offline, f"[{commands.index(x.command) + 1}]")
            for x in self.lines
        ]
        block = "\n".join(f"{command}  # [{n}]" for n, command in enumerate(commands, 1))
        parts = [f"## {self.title}", _wrapped(self.lead)]
        parts += [f"Data: `clipdissect fetch {self.fetch}`."] if self.fetch else []
        parts += [markdown_table(HEADER, rows).strip(), f"```sh\n{block}\n```"]
        if self.runs:
            command = f"\n\n```sh\n{self.offline}\n```"
            runs = "; ".join(map(_run_text, self.runs))
            parts.append(_wrapped(f"Offline: {runs}.") + command)
        return "\n\n".join(parts)


def main() -> None:
    write_text(PAGE, page())


def page() -> str:
    return "\n\n".join([HEAD, *(section.text() for section in sections()), FOOT]) + "\n"


def sections() -> list[Section]:
    return [
        _table1(),
        _table2(),
        _table3(),
        _table4(),
        _fig3(),
        _missing_concepts(),
        _weight_similarity(),
        _class_from_descriptions(),
        _simulation(),
        _hyperparameters(),
    ]


def _table1() -> Section:
    return Section(
        "Table 1: probes and concept sets",
        "The last layer of ResNet-50 (1000 units) against ImageNet's class names, SoftWPMI: mean "
        "cosine of label and class name by CLIP ViT-B/16 and by mpnet. All rows of CLIP-Dissect: "
        "`clipdissect final_layer experiment=table1` and `experiment=table1_probes`. Intervals "
        "are 95 %, over units.",
        [_from_tables("table1", row, _comparison("table1")) for row in _rows("table1")],
        "resnet50 clip_vit_b16 mpnet imagenet_val broden cifar100 broden_labels ef_3k google_10k "
        "google_20k",
        "scripts/offline_tables IMAGENET_SAMPLE TINY_IMAGENET_VAL",
        ["table1"],
    )


def _table2() -> Section:
    lines = [_from_tables("table2", row, {}) for row in _rows("table2")]
    clips = {r["row"].split()[0]: r for r in _rows("table2") if r["metric"] == "clip_vit_b16_cos"}
    for printed in paper.values()["table2"]["rows"]:
        method = printed["method"]
        for metric, value in printed["published_run"].items():
            row = clips[method] | {"metric": metric, "paper": str(value)}
            line = _from_tables("table2", row, {})
            lines.append(replace(line, row=f"{method}, {NOTEBOOK}"))
    return Section(
        "Table 2: Places365",
        "The last layer of ResNet-18 (Places365) with Broden as images and concepts. Accuracy "
        "(`top1`) is over the classes whose name is a label of Broden, with the released matching "
        "of names, which takes some right labels for wrong ones "
        "([published.md](../results/tables/published.md) has both). The cosines of the "
        "released notebook are of labels without the suffixes `-s` and `-c`; those that the "
        "paper prints differ, and how their labels were read isn't published. The notebook's "
        "`top5` counts a hit twice where a label is listed twice. All rows of CLIP-Dissect: "
        "`clipdissect final_layer experiment=table2`. No network trained on Places365 is "
        "available offline.",
        lines,
        "resnet18_places365 clip_vit_b16 mpnet broden broden_labels places365_names",
    )


def _table3() -> Section:
    cells = _comparison("table3")
    values = paper.values()["table3"]
    lines = [_from_tables("table3", row, cells) for row in _rows("table3")]
    probes = [p.replace("val+", "") for p in values["probes"] if p != "average"]
    released = values["published_run"]
    for metric in ("mpnet_cos", "top1"):
        numbers, concepts = released[metric]["cosine"], released[metric]["concepts"]
        lines += _released("cosine", concepts, metric, zip(probes, numbers, strict=True), cells)
    for metric in ("top5", "mean_rank", "auc"):
        numbers, concepts = released["soft_wpmi"][metric], released["soft_wpmi"]["concepts"]
        lines += _released("soft_wpmi", concepts, metric, zip(probes, numbers, strict=True), cells)
    return Section(
        "Table 3: similarity functions",
        "The same layer by similarity function and probe: mpnet cosine with 20,000 words, and the "
        "share of units that get exactly their class name (`top1`) with ImageNet's names. "
        "Averages include the union of ImageNet and Broden, as printed. Rows of the released "
        "notebook are not in the paper's table. All cells: "
        "`clipdissect final_layer experiment=table3`.",
        lines,
        "resnet50 clip_vit_b16 mpnet imagenet_val broden cifar100 google_20k",
        "scripts/offline_tables IMAGENET_SAMPLE TINY_IMAGENET_VAL",
        ["table3"],
    )


def _released(
    function: str, concepts: str, metric: str, numbers: Iterator[tuple[str, float]], cells: Cells
) -> Iterator[Line]:
    concepts = {"20k": "google_20k"}.get(concepts, concepts)
    for probe, value in numbers:
        command = f"{FINAL} probe={probe} concepts={concepts} similarity={function}"
        needs = next(r for r in _rows("table3") if probe in r["row"].split())["verdict"]
        offline = cells.get((STAND_INS[probe], concepts, function, metric), NONE)
        row = f"clip_dissect, {probe}, {concepts}, {function}, {NOTEBOOK}"
        yield Line(row, metric, _number(value), needs, command, offline)


def _table4() -> Section:
    values = paper.values()["table4"]
    measured = _metrics("table4")
    cold = measured["methods"]["clip_dissect"]["cold"]["seconds"]["median"]
    whole = measured["extrapolated"]["clip_dissect"]["total"]
    commands = {
        "clip_dissect": "clipdissect runtime experiment=table4",
        "milan": f"{RUNTIME} 'runtime.methods=[{{name: milan, path: FILE}}]'",
        "network_dissection": f"{RUNTIME} probe=broden 'runtime.methods=[network_dissection]'",
        "compositional": f"{RUNTIME} probe=broden 'runtime.methods=[compositional]'",
    }
    lines = [
        Line(
            method,
            "seconds",
            str(seconds),
            f"not run: needs {TIMED[method]}",
            commands[method],
            f"{cold:.1f}" if method == "clip_dissect" else NONE,
        )
        for method, seconds in values["seconds"].items()
    ]
    return Section(
        "Table 4: seconds",
        f"All {values['units']:,} units of five layers of ResNet-50, {values['images']:,} images "
        f"and {values['concepts']:,} concepts; the paper's are of a {values['hardware']}. Speed "
        "doesn't depend on weights: `target.weights=random encoder=open_clip "
        "encoder.pretrained=random`. The offline number is of fewer images and units on two CPU "
        f"cores; extrapolated to the paper's sizes, with the offline networks, {whole:,.0f} s "
        "([runtime.md](runtime.md)).",
        lines,
        "resnet50 clip_vit_b16 imagenet_val broden google_20k milan",
        "clipdissect runtime experiment=table4_offline probe=folder probe.root=IMAGENET_SAMPLE "
        "concepts=google_10k",
        ["table4"],
    )


def _fig3() -> Section:
    values = paper.values()["fig3"]
    offline = _metrics("qualitative/stamps")["qualitative"]["unit_table"]["methods"]["ours"]
    lines = []
    for row in values["rows"]:
        for metric in ("clip_vit_b16_cos", "mpnet_cos"):
            ours = _published("fig3", row["method"], metric, row[metric])
            command = CHECK if ours else FIGURE
            text = NONE
            if row["method"].startswith("clip_dissect") and metric in offline:
                text = f"{offline[metric]:.4f} ({offline['label']!r})"
            name = f"{row['method']}: {row['label']!r}"
            needs = "not run: needs CLIP"
            lines.append(Line(name, metric, _number(row[metric]), ours or needs, command, text))
    return Section(
        f"Fig. 3: unit {values['unit']}, {values['truth']}",
        f"Labels of the last layer's unit {values['unit']} by three methods, and their cosine to "
        f"the class name '{values['truth']}'. The panels of Figs. 1, 7 and 8 come from the same "
        "command; they have no numbers.",
        lines,
        "resnet50 clip_vit_b16 mpnet imagenet_val broden google_20k",
        "clipdissect qualitative experiment=qualitative_offline concepts=google_20k "
        "sentence=mpnet 'evaluation.sentences=[]'",
        ["qualitative/stamps"],
    )


def _missing_concepts() -> Section:
    values = paper.values()["missing_concepts"]
    rows = [row for row in _rows("studies") if row["row"].startswith("missing_concepts")]
    offline = _metrics("missing_concepts/imagenet_sample")["missing_concepts"]
    lines = []
    for row, group in zip(rows, ("dog.n.01", "bird.n.01"), strict=True):
        found, printed = offline[group], values[group]
        count = f"{found['missing']['top1_right']} of {found['units']}"
        both = f"{count} ({found['present']['top1_right']} with the images)"
        of = f"{printed['right']} of {printed['units']}"
        lines.append(Line(group, "right units", of, _ours(row), row["command"], both))
    return Section(
        "Sec. 4.5, Fig. 4: missing concepts",
        "Units of dog and bird classes that get exactly their class name, though CIFAR-100 shows "
        "neither dogs nor birds. Offline, dogs and birds are taken out of the images.",
        lines,
        "resnet50 clip_vit_b16 mpnet cifar100",
        "clipdissect missing_concepts experiment=missing_concepts_offline "
        "probe.root=IMAGENET_SAMPLE sentence=mpnet 'evaluation.sentences=[]' study.panels=0",
        ["missing_concepts/imagenet_sample"],
    )


def _weight_similarity() -> Section:
    values = paper.values()["weight_similarity"]
    rows = [row for row in _rows("studies") if row["row"].startswith("weight_similarity")]
    offline = _metrics("weight_similarity/imagenet_sample")["weight_similarity"]["mpnet"]
    lines = []
    for row, key in zip(rows, ("all_pairs", "top_pairs"), strict=True):
        found = offline[key]
        text = _interval(found["pearson_r"], found["interval"])
        name = row["row"].partition(": ")[2]
        paper_r = _number(float(row["paper"]))
        lines.append(Line(name, "pearson_r", paper_r, _ours(row), row["command"], text))
    last = f"log10 {offline['all_pairs']['log10_p']:.0f}"
    lines.append(Line("both", "p", values["p"], lines[0].ours, lines[0].command, last))
    return Section(
        "Sec. 5, Fig. 6: weights and similarity of descriptions",
        "Correlation of the weights from the last hidden layer's units to the classes with the "
        "similarity of description and class name by CLIP (offline: by mpnet). `method.path` is "
        "the released file of labels; without `method`, our own labels.",
        lines,
        "resnet50 clip_vit_b16 imagenet_val broden google_20k",
        "clipdissect weight_similarity experiment=weight_similarity_offline probe=folder "
        "probe.root=IMAGENET_SAMPLE profile.top_k=5 concepts=google_20k sentence=mpnet "
        "'evaluation.sentences=[]'",
        ["weight_similarity/imagenet_sample"],
    )


def _class_from_descriptions() -> Section:
    rows = [row for row in _rows("studies") if row["row"].startswith("class_from_descriptions")]
    run = "class_from_descriptions/imagenet_sample"
    offline = _metrics(run)["class_from_descriptions"]["mpnet"]
    lines = []
    for row in rows:
        method, metric = row["row"].partition(": ")[2], row["metric"]
        found = offline[metric]
        text = _interval(found["value"], found) if method == "clip_dissect" else NONE
        number = _number(float(row["paper"]))
        lines.append(Line(method, metric, number, _ours(row), row["command"], text))
    return Section(
        "Appendix A.6: the class from a description",
        "Share of images for which the description of the unit that contributes most to the "
        "predicted class is nearest, of all class names, to the true class (`truth`) or to the "
        "predicted one (`prediction`), by mpnet.",
        lines,
        "resnet50 clip_vit_b16 mpnet imagenet_val google_20k",
        "clipdissect class_from_descriptions experiment=class_from_descriptions_offline "
        "probe.root=IMAGENET_SAMPLE concepts=google_20k sentence=mpnet "
        "'evaluation.sentences=[]' study.panels=0",
        [run],
    )


def _simulation() -> Section:
    lines = [
        Line(row["row"], row["metric"], _number(float(row["paper"])), _ours(row), row["command"])
        for row in _rows("scores")
    ]
    return Section(
        "Linear Explanations (ICML 2024): simulation",
        "A later paper of the same group scores the released labels of ResNet-50's `layer4` by "
        "how well they predict activations; [scores.md](scores.md) has our scores on other "
        "networks and images.",
        lines,
        "resnet50 imagenet_val",
    )


def _hyperparameters() -> Section:
    lines = []
    for name, printed in paper.values()["hyperparameters"].items():
        ours = similarity.build(name).parameters
        lines += [
            Line(name, key, _short(value), _short(ours[key]), f"{SHOW} similarity={name}")
            for key, value in printed.items()
        ]
    return Section(
        "Hyperparameters",
        "The paper's, and as ours the defaults of `similarity=`. `membership` and `variant` name "
        "which of two readings is meant, that of the released code or that of the text "
        "([similarity.md](similarity.md)).",
        lines,
    )


CHECK = "scripts/check_published"
NOTEBOOK = "released notebook"
RUNTIME = "clipdissect runtime experiment=table4"
SHOW = "clipdissect dissect --cfg job --package similarity"
FIGURE = (
    "clipdissect qualitative experiment=qualitative 'study.labels={milan: {path: "
    "FOLDER/milan/m_base_resnet50_imagenet.csv}, netdissect: {path: "
    "FOLDER/netdissect/resnet50_imagenet_fc.csv, layers: [fc], layer_column: null, "
    "description_column: label, similarity_column: score, first_unit: 1}}'"
)
TIMED = {
    "clip_dissect": "CLIP, ImageNet val and a GPU",
    "milan": "MILAN's checkpoint, ImageNet val and a GPU",
    "network_dissection": "Broden and a GPU",
    "compositional": "Broden and a GPU",
}
HEAD = f"""# The paper's numbers, and how to check them

Every number of the paper that `clipdissect/app/paper_values.json` lists, with the command that
computes it. `scripts/reproduce_table.py` writes this page from that file and the committed
[results](../results); no number in a table is typed by hand.

- **row**: method, probe, concepts and similarity function, by their names on the command line.
- **paper**: the printed value. Rows of the "released notebook" have what the authors' notebooks
  print, where it differs or the paper has none.
- **ours**: computed in the paper's setting, with 95 % intervals over units. Only the label files
  released with the paper could be evaluated (`{CHECK}`); "equal" means equal to four digits.
  "not run" names what is missing. CLIP's, ResNet-50's and ResNet-18's weights, MILAN's checkpoint,
  Broden, CIFAR-100 and the ImageNet validation images are not available without a model hub and
  their hosts.
- **offline, not comparable**: the same experiment with another network (EfficientNet-Lite0),
  another encoder (ConSE, not CLIP), fewer images, and 20 (Tables 1 and 3, Fig. 3), 5 (studies) or
  100 (Table 4) top images per unit. In Tables 1 and 3 `imagenet_sample` (one image per class)
  stands for ImageNet val, `tiny_imagenet_val` for CIFAR-100, the stamps for Broden, and their
  union for the union. It shows that the command runs, not that the paper's number is right.
- **command**: the number in brackets is below each table. `FOLDER` has the released label files
  (`clip_dissect/`, `milan/`, `netdissect/`). `clipdissect fetch` without a name lists the data with
  sizes and licences.
- **time**: the paper has one number, Table 4's; the seconds of the offline runs stand below their
  tables.

Where CLIP is missing but mpnet is there, add `'evaluation.sentences=[]'`."""
FOOT = """## Without a number

Fig. 5 (compositional concepts, Sec. 4.6) and the panels of Figs. 1, 7 and 8 have presets, too:
`clipdissect compositional_concepts experiment=compositional_concepts` and
`clipdissect qualitative experiment=qualitative`; see [studies.md](studies.md). Tables of the
appendix that are not listed above are not in `paper_values.json`.

`clipdissect tables` gathers your own runs in the paper's setting next to its numbers."""


def _from_tables(table: str, row: Row, cells: Cells) -> Line:
    parts = row["row"].split()
    ours = _published(table, parts[0], row["metric"], float(row["paper"]))
    offline = NONE
    if len(parts) == 4:
        _, probe, concepts, function = parts
        offline = cells.get((STAND_INS[probe], concepts, function, row["metric"]), NONE)
    return Line(
        ", ".join(parts),
        row["metric"],
        _number(float(row["paper"])),
        ours or _ours(row),
        CHECK if ours else row["command"],
        offline,
    )


def _ours(row: Row) -> str:
    """Return the number of a run in the paper's setting, or why there is none."""
    if not row["ours"]:
        return row["verdict"]
    interval = {end: float(row[end]) for end in ("low", "high")} if row["low"] else None
    return f"{_interval(float(row['ours']), interval)}, {row['verdict']}"


def _published(table: str, method: str, metric: str, value: float) -> str | None:
    """Return the number that the published labels give, if it was checked against `value`."""
    for row in _rows("published"):
        key = (row["table"], row["row"], row["metric"], row["paper"])
        if key == (table, method, metric, f"{value:.4f}"):
            interval = row["95 % interval"].replace(" to ", ", ")
            equal = {"yes": "equal", "NO": "differs"}[row["equal"]]
            return f"{row['ours']}{f' [{interval}]' if interval else ''}, {equal}"
    return None


def _comparison(run: str) -> Cells:
    """Return an offline comparison's numbers at default hyperparameters, with intervals."""
    cells = {}
    with (OFFLINE / run / "comparison.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["setting"] == "default" and row["value"]:
                key = (row["probe"], row["concepts"], row["similarity"], row["metric"])
                ends = {end: float(row[end]) for end in ("low", "high")}
                cells[key] = _interval(float(row["value"]), ends)
    return cells


def _rows(table: str) -> list[Row]:
    path = ROOT / "results" / "tables" / f"{table}.csv"
    with path.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["paper"] not in ("", "not printed")]


def _metrics(run: str) -> Any:
    return json.loads((OFFLINE / run / "metrics.json").read_text(encoding="utf-8"))


def _run_text(run: str) -> str:
    """Return a link to an offline run with its date, commit and seconds."""
    facts = json.loads((OFFLINE / run / "run.json").read_text(encoding="utf-8"))
    text = f"[results/offline/{run}](../results/offline/{run}), {facts['date'][:10]}, commit "
    text += facts["git"]["commit"][:7]
    seconds = sum(facts.get("seconds", {}).values())
    return f"{text}, {seconds:,.0f} s on two CPU cores" if seconds else text


def _interval(value: float, ends: Mapping[str, Any] | None) -> str:
    return f"{value:.4f}" + (f" [{ends['low']:.4f}, {ends['high']:.4f}]" if ends else "")


def _number(value: float) -> str:
    """Return a value with four digits, or with all of its own where those are more."""
    text = f"{value:.4f}"
    return text if abs(value) < 1 and float(text) == value else str(value)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    main()
