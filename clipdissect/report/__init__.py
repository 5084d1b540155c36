"""HTML reports of a run: its units, their top images and their descriptions.

`collect` computes what needs the network and the images, `build` writes the page from files alone,
`compare` writes a page that shows two runs side by side.
"""

from __future__ import annotations

from clipdissect.report.build import build
from clipdissect.report.collect_data import collect
from clipdissect.report.compare import compare
from clipdissect.report.other_methods import read_labels, set_others
from clipdissect.report.run import Run, load
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
