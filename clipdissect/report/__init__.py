"""Reports: pages that show a run's units, their top images and their labels.

`collect` gathers what needs the network and the images, `build` makes the page from files alone,
`compare` sets two runs side by side.
"""

from __future__ import annotations

from clipdissect.report.build import build
from clipdissect.report.collect import collect
from clipdissect.report.compare import compare
from clipdissect.report.loading import Run, load
from clipdissect.report.others import read_labels, set_others
from clipdissect.report.settings import ReportSettings

__all__ = [
    "ReportSettings",
    "Run",
    "build",
    "collect",
    "compare",
    "load",
    "read_labels",
    "set_others",
]
