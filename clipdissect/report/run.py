"""A run's files, complete or interrupted, and one unit of it."""

from __future__ import annotations

import hashlib
import io
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipdissect.datasets.class_names import is_a_name
from clipdissect.errors import DissectError, MissingResource, unknown
from clipdissect.method import Job
from clipdissect.method.published import Published
from clipdissect.report.report_data import (
    REPORT,
    THUMBNAILS,
    ReportData,
    read_json,
    read_report_data,
)
from clipdissect.report.scores import KEYS, SCORED, join
from clipdissect.results import flags
from clipdissect.results.coherence import NAMES
from clipdissect.results.describe import NULL
from clipdissect.results.sweeps import MULTIRUN, job_folders, own_overrides
from clipdissect.results.tables import ResultTables
from clipdissect.utils.memo import Memo

NUMBERS = re.compile(
    r"unit|rank|activation|margin|null_similarity|truth_rank|(right|top5)(_any_synonym)?"
    r"|similarity(_\d+)?|.*_cos|fires|density|meanings?|share|images|silhouette"
    rf"|{'|'.join(NAMES)}"
)
NAN = float("nan")


def _empty() -> pd.DataFrame:
    table: pd.DataFrame = pd.DataFrame(columns=["layer", "unit", "rank", "image", "activation"])
    return table


@dataclass(frozen=True)
class Meaning:
    """One of a unit's meanings: a cluster of its top images, or a range of its activations.

    `share` is of the activation on the top images, or of the positions. `lower` and `upper` are the
    ends of a range; NaN for a cluster.
    """

    text: str
    score: float
    null: float  # score with shuffled images; NaN if unknown
    share: float
    images: int
    lower: float = NAN
    upper: float = NAN

    @property
    def is_range(self) -> bool:
        return not math.isnan(self.lower)


@dataclass(frozen=True)
class Run:
    """A run's tables and metadata; missing files are empty.

    `folder` may be a file of labels. `units` is `units.csv`, with ground truth and ranks. `scores`
    has a row per unit, see `scores.join`; `meanings` has one per meaning of a unit. `problem` says
    why the run is incomplete; empty if it is complete.
    """

    folder: Path
    descriptions: pd.DataFrame
    top_images: pd.DataFrame = field(default_factory=_empty)
    units: pd.DataFrame = field(default_factory=_empty)
    run: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    report_data: ReportData = field(default_factory=ReportData)
    problem: str = ""
    scores: pd.DataFrame = field(default_factory=_empty)
    meanings: pd.DataFrame = field(default_factory=_empty)

    @property
    def name(self) -> str:
        """The folder's name; of a multirun's job, the overrides that it alone has."""
        folder = self.folder.resolve()
        return ", ".join(own_overrides(folder)) or folder.name

    @property
    def layers(self) -> list[str]:
        return [str(layer) for layer in self.descriptions["layer"].unique()]

    @property
    def columns(self) -> list[tuple[str, str]]:
        """Column names of descriptions and their scores, best first."""
        columns = [("description", "similarity")]
        while f"description_{len(columns) + 1}" in self.descriptions:
            number = len(columns) + 1
            columns.append((f"description_{number}", f"similarity_{number}"))
        return columns

    @property
    def score_names(self) -> list[str]:
        known = self.scores.notna().any()
        return [str(name) for name in known[known].index if name not in (*KEYS, SCORED)]

    @property
    def images(self) -> int | None:
        """Number of images that the units were seen on, if known."""
        probe = self.run.get("probe")
        return probe.get("used") if isinstance(probe, dict) else None

    def rows(self, layer: str) -> pd.DataFrame:
        is_layer = self.descriptions["layer"] == layer
        rows: pd.DataFrame = self.descriptions[is_layer].reset_index(drop=True)
        return rows

    def ground_truth(self, layer: str) -> pd.DataFrame | None:
        """Return `truth`, `right`, `right_any_synonym` (0 or 1) and `rank` per unit, if known.

        Read from `units.csv`, else from the target's class names. `right` is an exact match with
        the class name, `right_any_synonym` a match with any of its names.
        """
        rows = self.rows(layer)
        units = self.units[self.units["layer"] == layer] if "truth" in self.units else _empty()
        class_names = self.report_data.facts.get("truth", {}).get(layer)
        unknown = pd.Series([NAN] * len(rows))
        if len(units):
            by_unit = units.set_index("unit").reindex(rows["unit"])
            names = by_unit["truth"].fillna("").tolist()
            ranks = by_unit.get("rank", unknown).tolist()
        elif class_names:
            names = [class_names[u] if u < len(class_names) else "" for u in rows["unit"]]
            ranks = rows.get("truth_rank", unknown).tolist()
        else:
            return None
        has_class = np.array([bool(name) for name in names])
        descriptions = rows["description"].to_numpy(dtype=object)
        exact = has_class & (descriptions == np.array(names, dtype=object))
        synonym = has_class & np.array(is_a_name(rows["description"], names), dtype=bool)
        columns = {"right": exact.astype(float), "right_any_synonym": synonym.astype(float)}
        table: pd.DataFrame = pd.DataFrame({"truth": names, **columns, "rank": ranks})
        return table

    def top_images_of(self, layer: str) -> dict[int, list[tuple[str, float]]]:
        """Return each unit's images with activations, up to the report's limit."""
        limit = self.report_data.facts.get("images", 5)
        rows = self.top_images[self.top_images["layer"] == layer]
        rows = rows[rows["rank"].astype(float) <= limit]
        images: dict[int, list[tuple[str, float]]] = {}
        columns = (rows[name] for name in ("unit", "image", "activation"))
        for unit, image, activation in zip(*columns, strict=True):
            images.setdefault(int(unit), []).append((str(image), float(activation)))
        return images

    def several_meanings(self, layer: str) -> dict[int, list[Meaning]]:
        """Return the meanings of the units that have several, in the order of their numbers."""
        rows = self.meanings[self.meanings["layer"] == layer]
        if rows.empty:
            return {}
        meanings: dict[int, list[Meaning]] = {}
        for _, row in rows[rows.duplicated("unit", keep=False)].iterrows():
            null, lower, upper = (float(row.get(name, NAN)) for name in (NULL, "lower", "upper"))
            numbers = float(row["similarity"]), null, float(row["share"]), int(row["images"])
            meaning = Meaning(row["description"], *numbers, lower, upper)
            meanings.setdefault(int(row["unit"]), []).append(meaning)
        return meanings

    def meanings_of_images(self, layer: str) -> dict[int, list[int]]:
        """Return the meaning, or 0, of each image of `top_images_of`; empty if not known."""
        rows = self.top_images[self.top_images["layer"] == layer]
        if "meaning" not in rows:
            return {}
        meanings: dict[int, list[int]] = {}
        for unit, meaning in zip(rows["unit"], rows["meaning"].fillna(0), strict=True):
            meanings.setdefault(int(unit), []).append(int(meaning))
        return meanings


def load(path: str | Path) -> Run:
    """Read a run's folder or a file of labels; raise a DissectError if it is unreadable."""
    folder = Path(path).expanduser()
    if folder.is_file():
        table = Published(path=str(folder)).describe(Job()).descriptions
        return Run(folder, _with_required_columns(table))
    folder = run_folder(folder)
    descriptions = _with_required_columns(_read_table(folder / "descriptions.csv"))
    units, scored = (_read_table(folder / name) for name in ("units.csv", "scores.csv"))
    return Run(
        folder,
        descriptions,
        _read_table(folder / "top_images.csv"),
        units,
        read_json(folder / "run.json"),
        read_json(folder / "metrics.json"),
        read_report_data(folder),
        _problem(folder),
        join(descriptions, units, scored),
        _read_table(folder / "meanings.csv"),
    )


def of_tables(tables: ResultTables, report_data: ReportData) -> Run:
    """Return the run of a result in memory, which has no folder and no thumbnails."""
    units, meanings = (_empty() if t.empty else t for t in (tables.unit_metrics, tables.meanings))
    return Run(
        Path(),
        _with_required_columns(tables.descriptions),
        _empty() if tables.top_images.empty else tables.top_images,
        units,
        tables.run,
        report_data=report_data,
        scores=join(tables.descriptions, units, _empty()),
        meanings=meanings,
    )


def run_folder(path: str | Path) -> Path:
    """Return a run's folder; raise a DissectError if it is a file or has no descriptions."""
    folder = Path(path).expanduser()
    if folder.is_file():
        raise DissectError(
            f"{folder} is a file; a report needs a run's folder. To show a file's labels next to a "
            f"run's, use clipdissect report <run> --against NAME={folder}, or clipdissect compare"
        )
    descriptions, problem = folder / "descriptions.csv", _problem(folder)
    jobs = job_folders(folder) if (folder / MULTIRUN).is_file() else []
    if jobs and not descriptions.is_file():
        raise DissectError(f"{folder} is a multirun: name one of its jobs, such as {jobs[0]}")
    if not descriptions.is_file():
        problem = problem if folder.is_dir() else ""
        raise MissingResource(
            "a run's descriptions" + (f" ({problem})" if problem else ""),
            [str(descriptions.absolute())],
            "name the folder of a run that describes units",
        )
    return folder


def _with_required_columns(table: pd.DataFrame) -> pd.DataFrame:
    for column in ("layer", "unit", "description"):
        if column not in table:
            raise DissectError(f"the table of descriptions has no column {column}")
    table = flags.with_column(table)
    defaults: dict[str, Any] = {"similarity": NAN, "margin": NAN, flags.COLUMN: [()] * len(table)}
    for column, default in defaults.items():
        if column not in table:
            table = table.assign(**{column: default})
    return table


def _read_table(path: Path) -> pd.DataFrame:
    """Read a CSV file as strings, except number columns: "nan" may be a label."""
    if not path.is_file():
        return _empty()
    data = path.read_bytes()
    try:
        return _tables.get(hashlib.blake2b(data).digest(), lambda: _parse(data))
    except (ValueError, pd.errors.ParserError) as error:
        raise DissectError(f"{path} can't be read: {error}") from error


_tables: Memo[pd.DataFrame] = Memo(4)  # by contents: the jobs of a multirun share top images


def _parse(data: bytes) -> pd.DataFrame:
    table = pd.read_csv(io.BytesIO(data), dtype=str, keep_default_na=False, encoding="utf-8")
    for column in filter(NUMBERS.fullmatch, map(str, table)):
        table[column] = pd.to_numeric(table[column])
    texts = {str(column): object for column in table if table[column].dtype.kind not in "if"}
    typed: pd.DataFrame = table.astype(texts)  # whose values are read one by one
    return typed


def _problem(folder: Path) -> str:
    if (folder / "run.json").is_file():
        return ""
    message = str(read_json(folder / "failure.json").get("message", "")).split("\n")[0]
    return f"the run isn't complete: {message or 'it has no run.json'}"


@dataclass(frozen=True)
class TopImage:
    """A top image, the unit's activation on it, its thumbnail file, if any, and its meaning."""

    name: str
    activation: float
    file: Path | None
    meaning: int = 0  # of a unit with several, from 1; 0 if there is none


@dataclass(frozen=True)
class Neighbour:
    """A latent with a similar direction in the decoder; no description if it is dead."""

    number: int
    cosine: float
    description: str


@dataclass(frozen=True)
class Unit:
    """A unit's results; lists are best first, missing numbers NaN.

    `null` is the best score with shuffled images; `counts` is the activation histogram from
    `low` to `high`; `others` maps method names to labels. A latent `fires` on that many images
    (of `run_images`, 0 if unknown), and on the share `density` of all tokens. `meanings` are those
    of a unit with several.
    """

    layer: str
    number: int
    descriptions: list[tuple[str, float]]
    margin: float
    flags: tuple[str, ...]
    null: float = math.nan
    images: list[TopImage] = field(default_factory=list)
    truth: str = ""
    others: dict[str, str] = field(default_factory=dict)
    counts: list[int] = field(default_factory=list)
    low: float = math.nan
    high: float = math.nan
    fires: float = math.nan
    run_images: int = 0
    density: float = math.nan
    neighbours: list[Neighbour] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)
    scored: str = ""
    meanings: list[Meaning] = field(default_factory=list)


def unit_of(run: Run, address: str) -> Unit:
    """Return the unit at an address such as `layer4/720`; raise a DissectError if absent."""
    layer, slash, digits = address.rpartition("/")
    if not slash or not digits.isdecimal():
        raise DissectError(
            f"'{address}' isn't a unit: write LAYER/NUMBER, such as {run.layers[0]}/0"
        )
    if layer not in run.layers:
        raise unknown("layer", layer, run.layers)
    rows, number = run.rows(layer), int(digits)
    matches = rows.index[rows["unit"] == number]
    if not len(matches):
        first, last = rows["unit"].min(), rows["unit"].max()
        raise DissectError(f"layer {layer} has no unit {digits}; its units are {first} to {last}")
    row, truth = rows.loc[matches[0]], run.ground_truth(layer)
    others = run.report_data.facts.get("others", {})
    scored = [(row[text], float(row.get(score, math.nan))) for text, score in run.columns]
    return Unit(
        layer=layer,
        number=number,
        descriptions=[(text, score) for text, score in scored if text],
        margin=float(row["margin"]),
        flags=flags.read(row[flags.COLUMN]),
        null=float(row.get(NULL, math.nan)),
        images=_top_images(run, layer, number),
        truth="" if truth is None else str(truth["truth"].loc[matches[0]]),
        others={
            name: labels.get(layer, {}).get(str(number), "") for name, labels in others.items()
        },
        fires=float(row.get("fires", math.nan)),
        run_images=run.images or 0,
        density=float(row.get("density", math.nan)),
        neighbours=_neighbours(run, layer, number),
        meanings=run.several_meanings(layer).get(number, []),
        **_scores(run, layer, number),
        **_histogram(run, layer, number),
    )


def _scores(run: Run, layer: str, unit: int) -> dict[str, Any]:
    table = run.scores
    rows = table[(table["layer"] == layer) & (table["unit"] == unit)]
    if rows.empty:
        return {}
    values = {name: float(rows[name].iloc[0]) for name in run.score_names}
    known = {name: value for name, value in values.items() if not math.isnan(value)}
    return {"scores": known, "scored": str(rows[SCORED].iloc[0])}


def _histogram(run: Run, layer: str, unit: int) -> dict[str, Any]:
    data = run.report_data.layers.get(layer, {})
    names = [name for name in ("counts", "low", "high") if unit < len(data.get(name, ()))]
    return {name: data[name][unit] for name in names}


def _neighbours(run: Run, layer: str, unit: int) -> list[Neighbour]:
    neighbours = run.report_data.layers.get(layer, {}).get("neighbours", ())
    if unit >= len(neighbours):
        return []
    rows = run.rows(layer)
    texts = dict(zip(rows["unit"], rows["description"], strict=True))
    return [Neighbour(n, cosine, texts.get(n, "")) for n, cosine in neighbours[unit]]


def _top_images(run: Run, layer: str, unit: int) -> list[TopImage]:
    table = run.top_images
    rows = table[(table["layer"] == layer) & (table["unit"] == unit)].sort_values("rank")
    images = []
    # Ranges of activations are meanings, too, but top images have none of them.
    has_several = "meaning" in rows and unit in run.several_meanings(layer)
    meanings = rows["meaning"].fillna(0).astype(int) if has_several else [0] * len(rows)
    for name, activation, meaning in zip(rows["image"], rows["activation"], meanings, strict=True):
        file, *_ = run.report_data.pictures.get(str(name), [None])
        path = run.folder / REPORT / THUMBNAILS / file if file else None
        exists = path is not None and path.is_file()
        images.append(TopImage(str(name), float(activation), path if exists else None, meaning))
    return images
