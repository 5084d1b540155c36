"""The paper's numbers that follow from published label files, computed by our evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipdissect.app.paper import values as paper
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
    """One number of the paper beside ours.

    Args:
        table: where it stands.
        row: the method there.
        metric: in our words.
        paper: the paper's; None where it prints none.
        ours: computed from the label file.
        low, high: the interval of ours, where it is a mean over units.
        note: what must be known of it.
    """

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
        """Whether the two are equal to four digits; a number that isn't printed can't differ."""
        return self.paper is None or round(self.ours, DIGITS) == round(self.paper, DIGITS)


def checks(data: Path, mpnet: SentenceEncoder, store: Store | None) -> list[Check]:
    """All checks: Table 1, Fig. 3, and Network Dissection's rows of Table 2.

    Args:
        data: with `FILES` below it.
        mpnet: the paper's sentence encoder.
        store: keeps sentence embeddings.

    Raises:
        DissectError: a file isn't there, or not what it should be.
    """
    return [*_table1_and_fig3(data, mpnet, store), *_table2(data, mpnet, store)]


def _table1_and_fig3(data: Path, mpnet: SentenceEncoder, store: Store | None) -> Iterator[Check]:
    truth = of_source("imagenet")
    options = {"network_dissection": NETDISSECT, "milan_base": {"layers": ["fc"]}}
    found: dict[str, Evaluation] = {}
    for method, how in options.items():
        labels = _labels(data, f"table1 {method}", how)
        found[method] = evaluate(labels, truth, None, {"mpnet": mpnet}, store)
        expected = paper.row("table1", method=method)["mpnet_cos"]
        yield _of_metric("table1", method, "mpnet_cos", expected, found[method].metrics)
    unit = int(paper.values()["fig3"]["unit"])
    for row in paper.values()["fig3"]["rows"]:
        method, label, name = row["method"], row["label"], truth.names[unit]
        if method in found:  # the label of the file; the other file isn't published
            label = str(found[method].units.table["description"][unit])
        ours = vectors(mpnet, [[name], [label]], store).cosines([label], [name])[0]
        yield Check(
            "fig3",
            method,
            "mpnet_cos",
            row["mpnet_cos"],
            float(ours),
            note=f"'{label}' against '{name}'",
        )


def _table2(data: Path, mpnet: SentenceEncoder, store: Store | None) -> Iterator[Check]:
    method = "network_dissection"
    truth = of_source("places365", categories=str(data / FILES["places365"]))
    labels = _labels(data, f"table2 {method}", {**NETDISSECT, "strip": ["-s", "-c"]})
    found = evaluate(labels, truth, None, {"mpnet": mpnet}, store)
    scenes = places365(found.rows, truth.names, None, Resampling())
    expected = paper.row("table2", method=method)
    for matching, printed in (("released", expected["top1"]), ("normalised", None)):
        values = scenes[matching]
        counts = f"{values['top1_right']} of the published {values['classes']}, {matching} matching"
        low, high = (values["top1_interval"][side] for side in ("low", "high"))
        yield Check("table2", method, "top1", printed, values["top1"], low, high, counts)
    run = expected["published_run"]["mpnet_cos"]
    note = (
        f"labels without -s and -c, as the released run; the paper prints {expected['mpnet_cos']}"
    )
    yield _of_metric("table2", method, "mpnet_cos", run, found.metrics, note)


def _labels(data: Path, name: str, how: Mapping[str, Any]) -> Any:
    return build("published", path=str(data / FILES[name]), **how).describe(Job()).descriptions


def _of_metric(
    table: str, row: str, metric: str, expected: float, metrics: dict[str, Any], note: str = ""
) -> Check:
    interval = metrics["intervals"][metric]
    ours = metrics["final_layer"][metric]
    return Check(table, row, metric, expected, ours, interval["low"], interval["high"], note)
