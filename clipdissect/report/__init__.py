"""HTML reports: `build` and `compare` use files alone, `collect` also network and images."""

from __future__ import annotations

from clipdissect.report.build import build
from clipdissect.report.collect_data import (
    ReportSettings,
    collect,
    read_labels,
    set_others,
    truth_of,
)
from clipdissect.report.compare import Comparison, compare, undescribed_jobs
from clipdissect.report.run import Run, load

__all__ = [
    "Comparison",
    "ReportSettings",
    "Run",
    "build",
    "collect",
    "compare",
    "load",
    "read_labels",
    "set_others",
    "truth_of",
    "undescribed_jobs",
]
