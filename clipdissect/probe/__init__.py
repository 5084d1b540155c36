"""Probes: the image sets a network is shown. One function each; `OPTIONS` lists them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from clipdissect import options
from clipdissect.probe.base import Probe
from clipdissect.probe.broden import broden
from clipdissect.probe.dataset import dataset
from clipdissect.probe.folder import folder
from clipdissect.probe.photos import photos
from clipdissect.probe.stamps import stamps

OPTIONS: dict[str, Callable[..., Probe]] = {
    "broden": broden,
    "folder": folder,
    "photos": photos,
    "stamps": stamps,
}

__all__ = ["OPTIONS", "Probe", "build", "dataset", "resolve"]


def build(name: str, **parameters: Any) -> Probe:
    """The probe of a name.

    Raises:
        DissectError: unknown name or parameter; lists the valid ones.
    """
    probe: Probe = options.call("probe", OPTIONS, name, parameters)
    return probe


def resolve(what: Any) -> Probe:
    """A probe from a `Probe`, an option's name, a folder's path, or a dataset.

    A bare word that names an option means the option; write `./photos` for a folder of that name.

    Raises:
        DissectError: nothing that can be a probe.
    """
    if isinstance(what, Probe):
        return what
    if isinstance(what, str) and what in OPTIONS:
        return build(what)
    if isinstance(what, (str, Path)):
        return folder(str(what))
    return dataset(what)
