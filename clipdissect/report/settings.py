"""What a report shows and how it is kept."""

from __future__ import annotations

from dataclasses import dataclass

from clipdissect.errors import DissectError
from clipdissect.utils.type_checks import check_fields

PATHS = ("relative", "absolute")


@dataclass(frozen=True)
class ReportSettings:
    """What a report shows and how it is kept.

    Args:
        images: top images a unit; as many as the run has where that is fewer.
        regions: images at most that the network is shown again, to outline where units fire: some
            at random, then top images, best ranks first; 0 outlines nothing.
        thumbnail: pixels a side of a picture.
        single_file: everything in `index.html`, up to `megabytes`.
        megabytes: of pictures in a single file; what is left out is told in the page.
        paths: of image files: `relative` to the probe's folder, or `absolute`, which also links to
            the files, and names folders of this machine.

    Raises:
        DissectError: a value out of its range.
    """

    images: int = 5
    regions: int = 400
    thumbnail: int = 160
    single_file: bool = False
    megabytes: float = 30.0
    paths: str = "relative"

    def __post_init__(self) -> None:
        check_fields(self, "report.")
        ranges = {"images": (self.images, 1, 100), "regions": (self.regions, 0, 10**9),
                  "thumbnail": (self.thumbnail, 16, 1024),
                  "megabytes": (self.megabytes, 0, 10**6)}  # fmt: skip
        for name, (value, least, most) in ranges.items():
            if not least <= value <= most:
                raise DissectError(f"report.{name} is {value}; it can be {least} to {most}")
        if self.paths not in PATHS:
            raise DissectError(f"report.paths is '{self.paths}'; it can be {' or '.join(PATHS)}")
