"""Ground truth of a layer whose units are classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clipdissect.datasets.class_names import imagenet_names, names_of_file
from clipdissect.datasets.places365 import places365_names
from clipdissect.errors import DissectError
from clipdissect.targets import Target


@dataclass(frozen=True)
class ClassLabels:
    """The classes' names.

    Args:
        name: where they come from.
        names: in unit order.
        layer: whose units they are; None where it isn't known.

    Raises:
        DissectError: no names.
    """

    name: str
    names: tuple[str, ...]
    layer: str | None = None

    def __post_init__(self) -> None:
        if not self.names:
            raise DissectError(f"{self.name} has no class names")

    @property
    def is_places(self) -> bool:
        """Whether the classes are those of Places365, for which there is its own accuracy."""
        return "places365" in self.name and len(self.names) == 365


def of_source(
    source: str, layer: str | None = None, categories: str | None = None
) -> ClassLabels:  # fmt: skip
    """Ground truth by where the class names come from.

    Args:
        source: `imagenet`, `places365`, or a UTF-8 file with one name a line, in unit order.
        layer: whose units they are.
        categories: Places365's `categories_places365.txt`; by default found in the data places.

    Raises:
        MissingResource: no such file.
        DissectError: as `classes.names_of_file`.
    """
    if source == "imagenet":
        return ClassLabels(source, imagenet_names(), layer)
    if source == "places365":
        return ClassLabels(source, places365_names(categories), layer)
    path = Path(source).expanduser()
    remedy = "set evaluation.truth to imagenet, places365, or a file with one name a line"
    return ClassLabels(path.stem, names_of_file(path, remedy), layer)


def of_target(target: Target, layer: str | None = None) -> ClassLabels:
    """Ground truth that a target knows of itself.

    Args:
        target: the network.
        layer: another layer than the one that it names.

    Raises:
        DissectError: it knows no class names, or not whose units they are.
    """
    layer = layer or target.class_layer
    if not target.class_names or layer is None:
        raise DissectError(
            f"target {target.name} has no layer with class names: set evaluation.layer and "
            f"evaluation.truth (imagenet, places365, or a file with one name a line)"
        )
    return ClassLabels(target.name, target.class_names, layer)
