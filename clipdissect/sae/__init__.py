"""Sparse autoencoders whose latents are described as units; `OPTIONS` maps names to functions."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from clipdissect.errors import DissectError
from clipdissect.sae.base import Sae
from clipdissect.sae.detect import READERS, auto
from clipdissect.sae.module import module, wrap
from clipdissect.utils import registry
from clipdissect.utils.type_checks import shortened


def none() -> None:
    """Describe the units of layers themselves."""


OPTIONS: dict[str, Callable[..., Sae | None]] = {
    "auto": auto,
    **READERS,
    "module": module,
    "none": none,
}

__all__ = ["OPTIONS", "Sae", "build", "load", "resolve"]


def build(name: str, **parameters: Any) -> Sae | None:
    """Build an option by name; raise a DissectError for an unknown name or parameter."""
    sae: Sae | None = registry.build("sae", OPTIONS, name, parameters)
    return sae


def load(path: str | os.PathLike[str], layer: str | None = None) -> Sae:
    """Return a sparse autoencoder of any library by its files; raises as `auto` does."""
    return auto(os.fspath(path), layer)


def resolve(given: Any) -> Sae:
    """Return a `Sae` of one, a path, `{"name": "saelens", "path": ...}` or a module with `encode`.

    Raises:
        DissectError: something else, or as the named function.
    """
    if isinstance(given, Sae):
        return given
    if isinstance(given, (str, os.PathLike)):
        return load(given)
    if isinstance(given, nn.Module):
        return wrap(given, type(given).__name__)
    if isinstance(given, Mapping):
        sae = registry.named("sae", build, given)
        if sae is not None:
            return sae
    raise DissectError(
        f"sae must be a path, a mapping such as {{'name': 'saelens', 'path': ...}}, a Sae, or a "
        f"torch.nn.Module with encode; got {shortened(given)}"
    )
