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
    """Class names of a layer's units, in unit order; `name` is their source."""

    name: str
    names: tuple[str, ...]
    layer: str | None = None

    def __post_init__(self) -> None:
        if not self.names:
            raise DissectError(f"{self.name} has no class names")

    @property
    def is_places(self) -> bool:
        """Return whether the classes are Places365's, which have their own accuracy (Table 2)."""
        return "places365" in self.name and len(self.names) == 365


def of_source(source: str, layer: str | None = None, categories: str | None = None) -> ClassLabels:
    """Read class names from `imagenet`, `places365`, or a UTF-8 file with one name per line."""
    if source == "imagenet":
        return ClassLabels(source, imagenet_names(), layer)
    if source == "places365":
        return ClassLabels(source, places365_names(categories), layer)
    path = Path(source).expanduser()
    remedy = "set evaluation.truth to imagenet, places365, or a file with one name per line"
    return ClassLabels(path.stem, names_of_file(path, remedy), layer)


def of_target(target: Target, layer: str | None = None) -> ClassLabels:
    """Return a target's class names; `layer` overrides its `class_layer`."""
    layer = layer or target.class_layer
    if not target.class_names or layer is None:
        raise DissectError(
            f"target {target.name} has no layer with class names: set evaluation.layer and "
            f"evaluation.truth (imagenet, places365, or a file with one name per line)"
        )
    return ClassLabels(target.name, target.class_names, layer)
