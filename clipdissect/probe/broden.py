"""Broden, the densely labelled image set of Network Dissection; here its images alone."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from clipdissect.errors import DissectError, MissingResource
from clipdissect.fetch import find
from clipdissect.paths import data_places
from clipdissect.probe.base import Probe
from clipdissect.probe.folder import of_files


def broden(root: str | None = None, on_error: str = "skip") -> Probe:
    """The images that the release's `index.csv` lists, below its `images/`.

    Args:
        root: the unpacked release, such as `broden1_224`; by default where `clipdissect fetch
            broden` puts it.
        on_error: what to do with unreadable images, `skip` or `raise`.

    Raises:
        MissingResource: no root, or the folder has no `index.csv`.
        DissectError: the index lists files that aren't there, or has no `image` column.
    """
    folder = Path(root).expanduser() if root else find("broden")
    index = folder / "index.csv" if folder else None
    if index is None or not index.is_file():
        raise MissingResource(
            "the Broden images (index.csv and images/ of the 224-pixel release)",
            [str(index.absolute())] if index else [str(p / "broden1_224") for p in data_places()],
            "clipdissect fetch broden, or set probe.root to the unpacked release, or choose "
            "another probe (probe=folder)",
        )
    table = pd.read_csv(index)
    if "image" not in table:
        raise DissectError(f"{index} has no column 'image'; it has {', '.join(table.columns)}")
    images = index.parent / "images"
    files = [images / name for name in dict.fromkeys(table["image"])]
    absent = [f for f in files if not f.is_file() or images.resolve() not in f.resolve().parents]
    if absent:
        raise DissectError(
            f"{index} lists {len(absent)} images that aren't below {images}, "
            f"such as {absent[0].name}"
        )
    return of_files("broden", images, files, on_error)
