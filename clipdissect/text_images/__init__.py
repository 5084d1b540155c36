"""Sources of images that show a text; `OPTIONS` maps names to functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clipdissect.probe import Probe
from clipdissect.text_images.base import TextImages
from clipdissect.text_images.folder import folder
from clipdissect.text_images.generated import diffusers
from clipdissect.text_images.labelled import Labelled, labelled
from clipdissect.text_images.rendered import rendered
from clipdissect.utils import registry


def none() -> None:
    """Use no images of texts."""


OPTIONS: dict[str, Callable[..., TextImages | None]] = {
    "diffusers": diffusers,
    "folder": folder,
    "labelled": labelled,
    "none": none,
    "rendered": rendered,
}

__all__ = ["OPTIONS", "TextImages", "bind", "build"]


def build(name: str, **parameters: Any) -> TextImages | None:
    """Build an option by name; raise a DissectError for an unknown name or parameter."""
    source: TextImages | None = registry.build("text_images", OPTIONS, name, parameters)
    return source


def bind(source: TextImages, probe: Probe) -> TextImages:
    """Return the source, with `probe` for `labelled` without a probe."""
    return source.bind(probe) if isinstance(source, Labelled) else source
