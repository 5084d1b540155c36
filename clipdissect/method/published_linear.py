"""Published files of Linear Explanations: weighted sums as columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from clipdissect.errors import DissectError, unknown
from clipdissect.method.base import Job, Method
from clipdissect.method.linear import text_of
from clipdissect.method.published import labels_result, numbers, read_cells, units_of
from clipdissect.results import formulas
from clipdissect.results.tables import ResultTables

CORRELATION = "val correlation"
MOST = 10  # concepts per file that is written
NONE = "0"  # as a concept: there is none


@dataclass(frozen=True, kw_only=True)
class PublishedLinear(Method):
    """Sums from a CSV file `layer, unit, val correlation, weight0, concept0, ..., bias`.

    The concept "0" means none. Further columns are left out. `to_published` writes such files.

    Args:
        path: the CSV file.
        layers: layers to take, in this order; None for all. They name the only layer of a file
            without the column `layer`.

    Source: files of Oikarinen & Weng, "Linear Explanations for Individual Neurons", ICML 2024.
    """

    path: str
    layers: list[str] | None = None
    name: ClassVar[str] = "published_linear"

    def describe(self, job: Job) -> ResultTables:
        file = Path(self.path).expanduser()
        cells = read_cells(file)
        if "layer" not in cells:
            if len(self.layers or ()) != 1:
                raise DissectError(f"{file} has no column layer: name it (method.layers=[layer4])")
            cells["layer"] = (self.layers or [""])[0]
        options = {"name": self.name, **asdict(self)}
        return labels_result(_table(cells, file), file, options, self.layers)


def _table(cells: pd.DataFrame, file: Path) -> pd.DataFrame:
    for column in ("unit", CORRELATION, "weight0", "concept0", "bias"):
        if column not in cells:
            raise unknown(f"column of {file}", column, map(str, cells))
    trees = list(_trees(cells, file))
    columns = {
        "layer": cells["layer"],
        "unit": units_of(cells["unit"], file),
        "description": [text_of(tree) if tree["of"] else "" for tree in trees],
        "similarity": numbers(cells[CORRELATION], file),
        formulas.COLUMN: [formulas.written(tree) if tree["of"] else "" for tree in trees],
        "length": [len(tree["of"]) for tree in trees],
    }
    table: pd.DataFrame = pd.DataFrame(columns)
    return table


def _trees(cells: pd.DataFrame, file: Path) -> Iterator[dict[str, Any]]:
    count = sum(f"concept{n}" in cells and f"weight{n}" in cells for n in range(len(list(cells))))
    weights = [numbers(cells[f"weight{n}"], file).tolist() for n in range(count)]
    concepts = [cells[f"concept{n}"].tolist() for n in range(count)]
    for row, bias in enumerate(numbers(cells["bias"], file).tolist()):
        terms = [(c[row], w[row]) for c, w in zip(concepts, weights, strict=True)]
        kept = [(concept, weight) for concept, weight in terms if concept not in ("", NONE)]
        yield formulas.weighted_sum([c for c, _ in kept], [w for _, w in kept], bias)


def to_published(descriptions: pd.DataFrame) -> pd.DataFrame:
    """Return `descriptions.csv` of method=linear as the published file, weights descending.

    Units without a sum have no concepts, a bias of 0, and an empty correlation.

    Raises:
        DissectError: no sums, or more than 10 concepts in one.
    """
    if formulas.COLUMN not in descriptions:
        raise DissectError("the descriptions have no column formula: they aren't of method linear")
    rows = [
        {
            "layer": layer,
            "unit": unit,
            CORRELATION: correlation,
            **_cells(formulas.read(cell) if cell else None),
        }
        for layer, unit, correlation, cell in zip(
            *(descriptions[c] for c in ("layer", "unit", "similarity", formulas.COLUMN)),
            strict=True,
        )
    ]
    table: pd.DataFrame = pd.DataFrame(rows)
    return table


def _cells(tree: formulas.Tree | None) -> dict[str, Any]:
    if tree is not None and tree.get("op") != formulas.SUM:
        raise DissectError(f"'{formulas.to_text(tree)}' isn't a weighted sum of method linear")
    of = tree or {"of": [], "weights": [], "bias": 0.0}
    if len(of["of"]) > MOST:
        raise DissectError(
            f"a sum has {len(of['of'])} concepts, but the published files have {MOST} at most: "
            f"run with method.length={MOST}"
        )
    order = np.argsort(-np.array(of["weights"], dtype=float), kind="stable")
    cells: dict[str, Any] = {}
    for place in range(MOST):
        is_there = place < len(order)
        cells[f"weight{place}"] = of["weights"][order[place]] if is_there else 0
        cells[f"concept{place}"] = of["of"][order[place]]["label"] if is_there else 0
    return cells | {"bias": of["bias"]}
