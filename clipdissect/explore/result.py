"""The result of a dissection, in memory or read back from a run's folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from clipdissect.encoder import Encoder
from clipdissect.explore.find import Picture, asked, find
from clipdissect.method import Job
from clipdissect.report.run import load as load_run
from clipdissect.results.tables import ResultTables
from clipdissect.results.vectors import FILE, read_vectors

log = logging.getLogger(__name__)


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
        run.descriptions,
        run.top_images,
        run.run,
        units=run.units,
        meanings=run.meanings,
        vectors=read_vectors(run.folder / FILE),
    )
    return Result.of(tables, folder=run.folder)
