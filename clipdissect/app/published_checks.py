"""The paper's numbers that follow from published label files, and ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipdissect.app import paper
from clipdissect.evaluation import Evaluation, Resampling, evaluate, places365
from clipdissect.evaluation.truth import of_source
from clipdissect.evaluation.vectors import vectors
from clipdissect.method import Job, build
from clipdissect.sentence import SentenceEncoder
from clipdissect.store import Store

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
