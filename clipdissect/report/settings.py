"""Settings of reports."""

from __future__ import annotations

from dataclasses import dataclass

from clipdissect.errors import DissectError
from clipdissect.utils.type_checks import check_fields

PATHS = ("relative", "absolute")
RANGES = {
    "images": (1, 100),
    "regions": (0, 10**9),
    "thumbnail": (16, 1024),
    "megabytes": (0, 10**6),
}


@dataclass(frozen=True)
class ReportSettings:
    """Content and storage of a report.

    Args:
        images: top images per unit, at most as many as the run has.
        regions: most images to run again for regions: a random sample, then top images by rank;
            0 disables regions.
        thumbnail: width and height of a picture, in pixels.
        single_file: embed everything in `index.html`, up to `megabytes`.
        megabytes: limit for the pictures in a single file.
        paths: `relative` to the probe's folder, or `absolute`, which links to the image files and
            reveals folders of this machine.
    """

    images: int = 5
    regions: int = 400
    thumbnail: int = 160
    single_file: bool = False
    megabytes: float = 30.0
    paths: str = "relative"

    def __post_init__(self) -> None:
        check_fields(self, "report.")
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise DissectError(f"report.{name} is {value}; it can be {least} to {most}")
        if self.paths not in PATHS:
            raise DissectError(f"report.paths is '{self.paths}'; it can be {' or '.join(PATHS)}")
