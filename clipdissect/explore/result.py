"""The result of a dissection, in memory or read back from a run's folder."""

from __future__ import annotations

import logging
import tempfile
import webbrowser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from clipdissect.encoder import Encoder
from clipdissect.errors import DissectError
from clipdissect.evaluation.vectors import Sentences
from clipdissect.explore import pictures
from clipdissect.explore.diff import Difference, diff
from clipdissect.explore.explain import Explanation, explain
from clipdissect.explore.find import Picture, asked, find
from clipdissect.explore.pictures import Card, Shown
from clipdissect.method import Job
from clipdissect.probe.thumbnails import NetworkInputs
from clipdissect.report import ReportSettings, truth_of
from clipdissect.report.build import single_file
from clipdissect.report.collect_data import histogram_values, thumbnails
from clipdissect.report.overview import header, why_no_pictures
from clipdissect.report.report_data import REPORT, ReportData
from clipdissect.report.run import Run, Unit, of_tables, unit_of
from clipdissect.report.run import load as load_run
from clipdissect.report.unit_facts import histogram
from clipdissect.report.writing import copy_report, remove, write
from clipdissect.results.flags import DEAD, RARE, has_flag
from clipdissect.results.histograms import Histograms
from clipdissect.results.tables import ResultTables
from clipdissect.results.vectors import FILE, read_vectors
from clipdissect.utils.progress import in_notebook
from clipdissect.utils.short_repr import count

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN_UNITS, PER_LAYER = 8, 2  # of a result in a notebook's cell
IMAGES = 5
_folders: list[tempfile.TemporaryDirectory[str]] = []  # kept until the process ends

log = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class Result(ResultTables):
    """A method's tables, with what they were made from.

    Args:
        job: the network, images, words and encoder; None if the run was read from files.
        folder: the run's folder, or a file of labels; None if made in this process.
        problem: why the run is incomplete; empty if it is complete.
    """

    job: Job | None = None
    folder: Path | None = None
    problem: str = ""

    @classmethod
    def of(cls, tables: ResultTables, job: Job | None = None, **about: Any) -> Result:
        """Return a result with the values of a method's tables; `about`: further fields."""
        values = {field.name: getattr(tables, field.name) for field in fields(ResultTables)}
        return cls(**values, job=job, **about)

    def find(
        self,
        text: str | Sequence[str] | None = None,
        image: Picture | Sequence[Picture] | None = None,
        layers: Sequence[str] | None = None,
        top: int = 10,
        encoder: Encoder | Mapping[str, Any] | str | None = None,
    ) -> pd.DataFrame:
        """Return the units whose top images are closest in meaning to a text or to images.

        Several texts are several queries, several images are one: their mean. `attrs["notes"]` of
        the table, which are logged as well, say which texts no unit answers.

        Args:
            layers: to search; None: all.
            top: units per query.
            encoder: the run's, or its name and parameters; needed if the result was read from
                files.

        Raises:
            DissectError: neither or both of text and image, another encoder than the run's, or a
                run without vectors; see `explore.find.find` for the columns.
        """
        of_job = self.job.encoder if self.job else None
        chosen = encoder if encoder is not None else of_job
        found = find(self, asked(self, text, image, chosen), layers, top)
        for note in found.notes:
            log.warning(note)
        found.table.attrs["notes"] = list(found.notes)
        return found.table

    def explain(
        self,
        image: str | Path | Image.Image,
        layer: str | None = None,
        top: int = 10,
        class_name: str | int | None = None,
    ) -> Explanation:
        """Return the units behind a prediction; see `explore.explain.explain`."""
        return explain(self, image, layer, top, class_name)

    def diff(
        self,
        other: Result,
        match: str = "index",
        sentences: Sentences = None,
        layer: str | None = None,
    ) -> Difference:
        """Return which units' meanings differ in another result; see `explore.diff.diff`."""
        return diff(self, other, match, sentences, layer)

    def __repr__(self) -> str:
        problem = f"; {self.problem}" if self.problem else ""
        return f"<Result: {self._summary}{problem}>"

    def _repr_html_(self) -> str:
        layers = self._run.layers[-SHOWN_UNITS:]
        left_out = len(self._run.layers) - len(layers)
        return pictures.render(
            notes=self._notes,
            heading=self._heading,
            layers=[(layer, self._best_cards(layer)) for layer in layers],
            footer=(f"{left_out} layers before these. " if left_out else "")
            + "The units with the highest scores. One unit: result.show('LAYER/NUMBER'); units by "
            "word: result.units('dog'); scores: result.plot(); all units: result.report().",
        )

    def units(self, text: str = "") -> pd.DataFrame:
        """Return the units that have a text in a description, also as a runner-up.

        Args:
            text: any part of a description, in any case; all units if empty.

        Returns:
            `layer, unit, description, similarity` and, of the description that has the text,
            `match` and `match_rank` (1: the best). The best ranks are first, then the highest
            scores.
        """
        table, found = self._run.descriptions, []
        for rank, (column, _) in enumerate(self._run.columns, 1):
            has_text = table[column].str.contains(text, case=False, regex=False, na=False)
            rows = table[has_text & table[column].ne("")]
            shown = rows[["layer", "unit", "description", "similarity"]]
            found.append(shown.assign(match=rows[column], match_rank=rank))
        units = pd.concat(found).drop_duplicates(["layer", "unit"])
        units = units.sort_values(["match_rank", "similarity"], ascending=[True, False])
        ordered: pd.DataFrame = units.reset_index(drop=True)
        return ordered

    def show(self, address: str, images: int = 10) -> Shown:
        """Show a unit: its descriptions, scores, top images and activation histogram.

        Raises:
            DissectError: the address isn't `LAYER/NUMBER`, or there is no such unit.
        """
        unit = unit_of(self._run, address)
        card = self._card(unit, images)
        text = pictures.card_as_text(card, histogram(unit))
        return Shown(pictures.render(card=card, notes=self._notes), text)

    def images(self, address: str, most: int = 10) -> Shown:
        """Show a unit's top images; the table of all of them is `top_images`.

        Raises:
            DissectError: see `show`.
        """
        card = self._card(unit_of(self._run, address), most)
        plain = Card(card.address, card.title, "", (), card.images, ())
        text = "\n".join(pictures.images_as_text(card.images))
        return Shown(pictures.render(card=plain, notes=self._notes), text)

    def plot(self) -> Figure:
        """Return a figure of each layer's scores, next to those with shuffled images.

        Raises:
            DissectError: the run has no scores.
        """
        from clipdissect.explore.plots import plot_scores

        return plot_scores(self.descriptions)

    def report(self, megabytes: float = 5.0, height: int = 800) -> Shown | Path:
        """Open the page of all units: in a notebook in the cell, else in the browser.

        Args:
            megabytes: most pictures in a notebook, the best-ranked first; the browser shows all.
            height: of the cell, in pixels.

        Returns:
            The page in a cell, or the path of its file.

        Raises:
            DissectError: the result was read from a file of labels.
        """
        folder = self._report_folder
        page = folder / REPORT / "index.html"
        if in_notebook():
            html = pictures.frame(single_file(folder, megabytes), height)
            return Shown(html, f"report: {page}")
        webbrowser.open(page.absolute().as_uri())
        return page

    def save(self, folder: str | Path, report: bool | ReportSettings = True) -> Path:
        """Write the tables, `run.json` and the report to a folder, and return it.

        The report runs the network again on some images, to show regions; see `ReportSettings`.

        Args:
            report: its settings, or whether to write one; a failure is logged.
        """
        path = super().save(folder)
        if self.folder is not None and self.folder.resolve() == path.resolve():
            return path  # whose report is this run's
        remove(path)
        look = report if isinstance(report, ReportSettings) else ReportSettings()
        if report and self.job is not None:
            write(path, self, self.job, look, truth=self._truth)
        elif report and self.folder is not None:
            copy_report(self.folder, path)
        return path

    @property
    def _summary(self) -> str:
        layers = self.descriptions["layer"].nunique()
        units = f"{count(len(self.descriptions), 'unit')} of {count(layers, 'layer')}"
        names = [self.run.get(part) for part in ("target", "probe")]
        known = [str(name["name"]) for name in names if isinstance(name, dict) and "name" in name]
        return f"{units}; {' on '.join(known)}" if known else units

    @property
    def _heading(self) -> str:
        rows = dict(header(self._run, len(self.descriptions)))
        names = ("Target", "Units", "Probe", "Concepts", "Encoder", "Similarity", "Method")
        # Without the parameters, which follow in brackets.
        known = {name: rows[name].split(" (")[0] for name in names if name in rows}
        return "; ".join(f"{name.lower()} {value}" for name, value in known.items())

    @property
    def _notes(self) -> list[str]:
        missing = "" if self._inputs else why_no_pictures(self._run)
        return [*filter(None, (self.problem, missing))]

    @cached_property
    def _run(self) -> Run:
        if self.folder is not None:
            return load_run(self.folder)
        histograms = self.histograms.items()
        layers = {layer: histogram_values(of_layer) for layer, of_layer in histograms}
        facts = {"truth": self._truth, "probe_images": None}
        return of_tables(self, ReportData(facts, layers=layers))

    @property
    def _truth(self) -> dict[str, Any]:
        target = self.job.target if self.job else None
        return {} if target is None else dict(truth_of(target))

    @cached_property
    def _inputs(self) -> NetworkInputs | None:
        """What makes pictures of the top images; None if the run was read from files."""
        job = self.job
        target = self.target or (job.target if job else None)
        if job is None or job.probe is None or target is None:
            return None
        return thumbnails(job.probe, target)

    @cached_property
    def _report_folder(self) -> Path:
        if self.folder is not None and (self.folder / REPORT / "index.html").is_file():
            return self.folder
        if self.folder is not None and self.folder.is_file():
            raise DissectError(f"{self.folder} is a file of labels: only a run has a report")
        _folders.append(tempfile.TemporaryDirectory(prefix="clipdissect-"))
        return self.save(_folders[-1].name)

    def _card(self, unit: Unit, images: int = IMAGES) -> Card:
        return pictures.card(unit, pictures.pictures(unit.images, self._inputs, images))

    def _best_cards(self, layer: str) -> list[Card]:
        rows = self._run.rows(layer)
        rows = rows[~has_flag(rows, DEAD) & ~has_flag(rows, RARE) & rows["description"].ne("")]
        best = rows.sort_values("similarity", ascending=False, kind="stable")
        shown = max(1, min(PER_LAYER, SHOWN_UNITS // len(self._run.layers)))
        units = (unit_of(self._run, f"{layer}/{unit}") for unit in best["unit"][:shown])
        return [self._card(unit) for unit in units]


def load(folder: str | Path) -> Result:
    """Read a run back from its folder, or from a file of labels.

    Raises:
        DissectError: the folder has no descriptions, or a file is unreadable.
    """
    run = load_run(folder)
    tables = ResultTables(
        run.descriptions,
        run.top_images,
        run.run,
        _histograms(run.report_data.layers),
        thresholds=_thresholds(run.report_data.layers),
        unit_metrics=run.units,
        meanings=run.meanings,
        vectors=read_vectors(run.folder / FILE),
    )
    return Result.of(tables, folder=run.folder, problem=run.problem)


def _histograms(layers: Mapping[str, Mapping[str, Any]]) -> dict[str, Histograms]:
    """Return the histograms of report data, whose ends have four digits."""
    return {
        layer: Histograms(
            _numbers(values["low"]),
            _numbers(values["high"]),
            torch.tensor(values["counts"]),
            values["images"],
            values["whole"],
        )
        for layer, values in layers.items()
        if "counts" in values
    }


def _thresholds(layers: Mapping[str, Mapping[str, Any]]) -> dict[str, Float[Tensor, " units"]]:
    """Return the methods' own thresholds, not those of the report's regions."""
    return {
        layer: _numbers(values["thresholds"])
        for layer, values in layers.items()
        if values.get("threshold_images") == 0
    }


def _numbers(values: list[float | None]) -> Float[Tensor, " units"]:
    return torch.tensor([float("nan") if value is None else value for value in values])
