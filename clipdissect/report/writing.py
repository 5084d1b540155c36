"""Write the report of a complete run; a failure leaves the run's files intact."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from clipdissect.method import Job
from clipdissect.report.build import build
from clipdissect.report.collect_data import ReportSettings, collect
from clipdissect.report.page import clear
from clipdissect.report.report_data import REPORT, THUMBNAILS, read_report_data, remove_report_data
from clipdissect.results.tables import ResultTables
from clipdissect.utils.files import link_or_copy

log = logging.getLogger(__name__)


def write(
    folder: Path, result: ResultTables, job: Job, look: ReportSettings, **texts: Any
) -> Path | None:
    """Collect a run's report data, write its page and return its path; None, logged, on failure.

    `texts`: `truth`, `others` and `sentences`, see `collect`.
    """
    try:
        parts = job.target, job.probe, job.settings, job.store
        collect(folder, result, *parts, look=look, encoder=job.encoder, **texts)
        return build(folder, single_file=look.single_file, megabytes=look.megabytes)
    except Exception as error:  # from any of the networks' and images' libraries
        reason = f"{type(error).__name__}: {error}"
        log.warning("the report failed (%s); the run's files are complete", reason)
        return None


def copy_report(run: Path, folder: Path) -> None:
    """Write another run's report to a folder with the same tables, if its data are there."""
    data = read_report_data(run)
    if not data.facts:
        return
    data.write(folder)
    thumbnails = folder / REPORT / THUMBNAILS
    thumbnails.mkdir(parents=True, exist_ok=True)
    for file in (run / REPORT / THUMBNAILS).glob("*"):
        link_or_copy(file, thumbnails / file.name)
    build(folder)


def remove(folder: Path) -> None:
    """Remove an earlier run's page and report data; foreign files stay."""
    remove_report_data(folder)
    if (folder / REPORT).is_dir():
        clear(folder / REPORT)
