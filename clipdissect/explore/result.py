"""The result of a dissection, in memory or read back from a run's folder."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from PIL import Image

from clipdissect.evaluation.vectors import Sentences
from clipdissect.explore.diff import Difference, diff
from clipdissect.explore.explain import Explanation, explain
from clipdissect.method import Job
from clipdissect.report.run import load as load_run
from clipdissect.results.tables import ResultTables


@dataclass(frozen=True, repr=False)
class Result(ResultTables):
    """A method's tables, with what they were made from.

    Args:
        job: the network, images, words and encoder; None if the run was read from files.
        folder: the run's folder; None if it has not been saved.
    """

    job: Job | None = None
    folder: Path | None = None

    @classmethod
    def of(cls, tables: ResultTables, job: Job | None = None, folder: Path | None = None) -> Result:
        """Return a result with the values of a method's tables."""
        values = {field.name: getattr(tables, field.name) for field in fields(ResultTables)}
        return cls(**values, job=job, folder=folder)

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
        layers = self.descriptions["layer"].nunique()
        return f"<Result: {len(self.descriptions)} units of {layers} layers>"


def load(folder: str | Path) -> Result:
    """Read a run back from its folder, or from a file of labels.

    Raises:
        DissectError: the folder has no descriptions, or a file is unreadable.
    """
    run = load_run(folder)
    tables = ResultTables(
        run.descriptions, run.top_images, run.run, units=run.units, meanings=run.meanings
    )
    return Result.of(tables, folder=run.folder)
