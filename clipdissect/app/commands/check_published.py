"""Reproduce the paper's numbers that follow from published label files, to four digits.

Tables 1 and 2 and Fig. 3, for Network Dissection's and MILAN's labels. Needs the label files and
the paper's sentence encoder (clipdissect fetch mpnet). Writes published.md, published.csv and
their manifest, published.json. Exits with 1 if a number differs, with 2 if it can't run.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipdissect import sentence
from clipdissect.app import paper
from clipdissect.app.commands import command_parser, exit_on_user_errors, write_comparison
from clipdissect.app.launch import set_up_logging
from clipdissect.errors import MissingResource
from clipdissect.evaluation import Evaluation, Resampling, evaluate, places365
from clipdissect.evaluation.truth import of_source
from clipdissect.evaluation.vectors import vectors
from clipdissect.method import Job, build
from clipdissect.results.manifest import git_state, versions
from clipdissect.results.run_files import write_json
from clipdissect.sentence import SentenceEncoder
from clipdissect.store import Store
from clipdissect.utils import hashing
from clipdissect.utils.paths import store_dir

HEADER = [
    "table",
    "row",
    "metric",
    "paper",
    "ours",
    "95 % interval",
    "difference",
    "equal",
    "note",
]


@exit_on_user_errors
def main() -> None:
    options = _parser().parse_args()
    set_up_logging(logging.WARNING)
    checks = run(Path(options.data).expanduser(), Path(options.out).expanduser())
    for check in checks:
        print(
            f"{check.table:<7} {check.row:<19} {check.metric:<10} expected {_paper(check):<11} "
            f"got {check.ours:.4f}  {_verdict(check)}"
        )
    wrong = [check for check in checks if not check.agrees]
    printed = sum(check.paper is not None for check in checks)
    print(
        f"{printed - len(wrong)} of {printed} printed numbers agree to four digits; "
        f"tables: {Path(options.out) / 'published.md'}"
    )
    sys.exit(1 if wrong else 0)


def run(data: Path, out: Path) -> list[Check]:
    """Write the table of all checks and its manifest; `data` has `published/`, `concepts/`."""
    absent = [
        str((data / name).absolute()) for name in FILES.values() if not (data / name).is_file()
    ]
    if absent:
        remedy = "give the folder that has published/ and concepts/: --data FOLDER"
        raise MissingResource("published label files", absent, remedy)
    mpnet = sentence.build("mpnet")
    results = checks(data, mpnet, Store(store_dir()))
    write_tables(results, out)
    write_json(out / "published.json", _manifest(data, mpnet))
    return results


def write_tables(checks: Sequence[Check], out: Path) -> None:
    write_comparison(out / "published", HEADER, [_cells(check) for check in checks], HEAD)


HEAD = """The paper's numbers from published labels

Computed by `scripts/check_published` from the label files that were published with the paper and
with Network Dissection and MILAN; `published.json` lists inputs and versions. Intervals are
percentile bootstrap intervals over units."""


def _cells(check: Check) -> tuple[str, ...]:
    return (
        check.table,
        check.row,
        check.metric,
        _paper(check),
        f"{check.ours:.4f}",
        "" if check.low is None else f"{check.low:.4f} to {check.high:.4f}",
        "" if check.paper is None else f"{check.ours - check.paper:+.5f}",
        _verdict(check),
        check.note,
    )


def _paper(check: Check) -> str:
    return "not printed" if check.paper is None else f"{check.paper:.4f}"


def _verdict(check: Check) -> str:
    if check.paper is None:
        return "-"
    return "yes" if check.agrees else "NO"


def _manifest(data: Path, mpnet: Any) -> dict[str, Any]:
    return {
        "command": "scripts/check_published",
        "inputs": {name: {"sha256": hashing.hash_file(data / name)} for name in FILES.values()},
        "sentence encoder": {"name": mpnet.name, "digest": mpnet.digest},
        "versions": {name: v for name, v in versions().items() if name != "platform"},
        "git": git_state(Path(__file__).parents[3]),
    }


def _parser() -> argparse.ArgumentParser:
    shared = Path(os.environ.get("CLIPDISSECT_SHARED", Path(__file__).parents[4] / "shared"))
    parser = command_parser("check_published", __doc__)
    data = (
        "with published/ and concepts/ (default: data in $CLIPDISSECT_SHARED, else in shared/ "
        "next to this repository)"
    )
    out = "where the tables go (%(default)s)"
    parser.add_argument("--data", metavar="FOLDER", default=str(shared / "data"), help=data)
    parser.add_argument("--out", metavar="FOLDER", default="results/tables", help=out)
    return parser


# Below the data folder.
FILES = {
    "table1 network_dissection": "published/netdissect/resnet50_imagenet_fc.csv",
    "table1 milan_base": "published/milan/m_base_resnet50_imagenet.csv",
    "table2 network_dissection": "published/netdissect/resnet18_places365_fc.csv",
    "places365": "concepts/places365_categories.txt",
}
NETDISSECT: Mapping[str, Any] = {
    "layers": ["fc"],
    "layer_column": None,
    "description_column": "label",
    "similarity_column": "score",
    "first_unit": 1,
}
DIGITS = 4


@dataclass(frozen=True)
class Check:
    """A number of the paper (None if not printed) and ours, with its interval."""

    table: str
    row: str
    metric: str
    paper: float | None
    ours: float
    low: float | None = None
    high: float | None = None
    note: str = ""

    @property
    def agrees(self) -> bool:
        """Return whether both agree to four digits; a number that isn't printed agrees."""
        return self.paper is None or round(self.ours, DIGITS) == round(self.paper, DIGITS)


def checks(data: Path, mpnet: SentenceEncoder, store: Store | None) -> list[Check]:
    """Check Table 1, Fig. 3, and Network Dissection's rows of Table 2, from `data`'s `FILES`."""
    return [*_table1_and_fig3(data, mpnet, store), *_table2(data, mpnet, store)]


def _table1_and_fig3(data: Path, mpnet: SentenceEncoder, store: Store | None) -> Iterator[Check]:
    truth = of_source("imagenet")
    options = {"network_dissection": NETDISSECT, "milan_base": {"layers": ["fc"]}}
    evaluations: dict[str, Evaluation] = {}
    for method, columns in options.items():
        labels = _labels(data, f"table1 {method}", columns)
        evaluations[method] = evaluate(labels, truth, None, {"mpnet": mpnet}, store)
        printed = paper.row("table1", method=method)["mpnet_cos"]
        yield _mpnet_check("table1", method, printed, evaluations[method])
    unit = int(paper.values()["fig3"]["unit"])
    name = truth.names[unit]
    for row in paper.values()["fig3"]["rows"]:
        method, label = row["method"], row["label"]
        if method in evaluations:  # the other method's file isn't published
            label = str(evaluations[method].units.table["description"][unit])
        ours = float(vectors(mpnet, [[name], [label]], store).cosines([label], [name])[0])
        note = f"'{label}' against '{name}'"
        yield Check("fig3", method, "mpnet_cos", row["mpnet_cos"], ours, note=note)


def _table2(data: Path, mpnet: SentenceEncoder, store: Store | None) -> Iterator[Check]:
    method = "network_dissection"
    truth = of_source("places365", categories=str(data / FILES["places365"]))
    labels = _labels(data, f"table2 {method}", {**NETDISSECT, "strip": ["-s", "-c"]})
    evaluation = evaluate(labels, truth, None, {"mpnet": mpnet}, store)
    scenes = places365(evaluation.rows, truth.names, None, Resampling())
    printed = paper.row("table2", method=method)
    for matching, top1 in (("released", printed["top1"]), ("normalised", None)):
        values = scenes[matching]
        note = f"{values['top1_right']} of the published {values['classes']}, {matching} matching"
        low, high = (values["top1_interval"][end] for end in ("low", "high"))
        yield Check("table2", method, "top1", top1, values["top1"], low, high, note)
    cosine, released = printed["mpnet_cos"], printed["published_run"]["mpnet_cos"]
    note = f"labels without -s and -c, as the released run; the paper prints {cosine}"
    yield _mpnet_check("table2", method, released, evaluation, note)


def _labels(data: Path, name: str, options: Mapping[str, Any]) -> Any:
    return build("published", path=str(data / FILES[name]), **options).describe(Job()).descriptions


def _mpnet_check(
    table: str, method: str, printed: float, evaluation: Evaluation, note: str = ""
) -> Check:
    metric = "mpnet_cos"
    ours = evaluation.metrics["final_layer"][metric]
    low, high = (evaluation.metrics["intervals"][metric][end] for end in ("low", "high"))
    return Check(table, method, metric, printed, ours, low, high, note)
