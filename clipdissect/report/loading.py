"""A run as its files tell it, whole or interrupted."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from clipdissect.errors import DissectError, MissingResource
from clipdissect.method import Job
from clipdissect.method.published import Published
from clipdissect.report.material import Material, read_material
from clipdissect.results import flags

NUMBERS = re.compile(
    r"unit|rank|activation|margin|null_similarity|truth_rank|(right|top5)(_any_synonym)?"
    r"|similarity(_\d+)?|.*_cos"
)
NO_IMAGES = ("layer", "unit", "rank", "image", "activation")


@dataclass(frozen=True)
class Run:
    """What there is of a run.

    Args:
        folder: where it is; of labels alone, their file.
        descriptions: one row a unit.
        top_images: of every unit; perhaps none.
        units: layer `units.csv` where the runner judged labels, with truth and ranks; else empty.
        run, metrics: of `run.json` and `metrics.json`; empty where they are missing.
        material: what the report's part left.
        problem: why the run isn't complete; empty where it is.
    """

    folder: Path
    descriptions: pd.DataFrame
    top_images: pd.DataFrame
    units: pd.DataFrame
    run: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    material: Material = field(default_factory=Material)
    problem: str = ""

    @property
    def name(self) -> str:
        """The folder's name, or the file's."""
        return self.folder.resolve().name

    @property
    def layers(self) -> list[str]:
        """In the order of the descriptions."""
        return [str(layer) for layer in self.descriptions["layer"].unique()]

    @property
    def columns(self) -> list[tuple[str, str]]:
        """Names of the columns of descriptions and their scores, best first."""
        found = [("description", "similarity")]
        while f"description_{len(found) + 1}" in self.descriptions:
            number = len(found) + 1
            found.append((f"description_{number}", f"similarity_{number}"))
        return found

    def rows(self, layer: str) -> pd.DataFrame:
        """A layer's descriptions."""
        rows = self.descriptions[self.descriptions["layer"] == layer]
        numbered: pd.DataFrame = rows.reset_index(drop=True)
        return numbered


def load(path: str | Path) -> Run:
    """Read a run's folder, or a file of labels.

    Raises:
        MissingResource: there are no descriptions.
        DissectError: a table that can't be read.
    """
    folder = Path(path).expanduser()
    if folder.is_file():
        table = Published(path=str(folder)).describe(Job()).descriptions
        return Run(folder, _whole(table), _empty(), _empty())
    folder = run_folder(folder)
    tables = {name: _table(folder / f"{name}.csv") for name in ("top_images", "units")}
    return Run(
        folder, _whole(_table(folder / "descriptions.csv")), tables["top_images"], tables["units"],
        _json(folder / "run.json"), _json(folder / "metrics.json"), read_material(folder),
        _problem(folder),
    )  # fmt: skip


def run_folder(path: str | Path) -> Path:
    """The folder of a run, whose report can be written there.

    Raises:
        MissingResource: there are no descriptions.
        DissectError: it is a file.
    """
    folder = Path(path).expanduser()
    if folder.is_file():
        raise DissectError(
            f"{folder} is a file; a report is of a run's folder. Labels of a file can stand beside "
            f"a run's: clipdissect report <run> --against NAME={folder}, or clipdissect compare"
        )
    descriptions, problem = folder / "descriptions.csv", _problem(folder)
    if not descriptions.is_file():
        raise MissingResource(
            "a run's descriptions" + (f" ({problem})" if problem else ""),
            [str(descriptions.absolute())], "name the folder of a run that describes units",
        )  # fmt: skip
    return folder


def _whole(table: pd.DataFrame) -> pd.DataFrame:
    """With the columns that every page counts on."""
    for column in ("layer", "unit", "description"):
        if column not in table:
            raise DissectError(f"the table of descriptions has no column {column}")
    missing: dict[str, Any] = {"similarity": float("nan"), "margin": float("nan"), flags.COLUMN: ""}
    for column, filler in missing.items():
        if column not in table:
            table = table.assign(**{column: filler})
    whole: pd.DataFrame = table.assign(flags=table[flags.COLUMN].map(flags.read))
    return whole


def _table(path: Path) -> pd.DataFrame:
    """A CSV file's texts as they are ("nan" is a label), its numbers as numbers."""
    if not path.is_file():
        return _empty()
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
        for column in filter(NUMBERS.fullmatch, map(str, table)):
            table[column] = pd.to_numeric(table[column])
    except (ValueError, pd.errors.ParserError) as error:
        raise DissectError(f"{path} can't be read: {error}") from error
    return table


def _empty() -> pd.DataFrame:
    empty: pd.DataFrame = pd.DataFrame(columns=list(NO_IMAGES))
    return empty


def _problem(folder: Path) -> str:
    if (folder / "run.json").is_file():
        return ""
    said = str(_json(folder / "failure.json").get("message", "")).split("\n")[0]
    return f"the run isn't complete: {said or 'it has no run.json'}"


def _json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
