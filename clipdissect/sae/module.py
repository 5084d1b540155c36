"""Sparse autoencoders of the user's own: built by their code, or given as modules."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from clipdissect.errors import DissectError
from clipdissect.sae.base import Sae
from clipdissect.utils import import_path


def module(factory: str, arguments: Any = None, layer: str | None = None) -> Sae:
    """Return what a function of the user's code builds: `sae.factory=mymodule:build`.

    Args:
        factory: import path of a function or class; the current folder is importable. It returns
            a module with `encode` (and `decode`), or a `Sae`.
        arguments: keyword arguments of the factory.
        layer: the target's layer that it encodes; default: that of the `Sae`.

    Raises:
        DissectError: the factory cannot be imported, raises, or returns something else.
    """
    built = import_path.call(factory, arguments, "sae.factory")
    if isinstance(built, Sae):
        return built.at(layer) if layer is not None else built
    if not isinstance(built, nn.Module):
        raise DissectError(
            f"sae.factory: {factory} must return a torch.nn.Module with encode, or a Sae; it "
            f"returned a {type(built).__name__}"
        )
    return wrap(built, factory.partition(":")[2], layer)


def wrap(built: nn.Module, name: str, layer: str | None = None) -> Sae:
    """Return a `Sae` of a module; raise a DissectError if it has no `encode`.

    An attribute `W_dec` [latents, inputs] gives the sizes and the directions of the latents.
    """
    if not callable(getattr(built, "encode", None)):
        raise DissectError(
            f"a sparse autoencoder needs a method encode(x [..., inputs]) -> codes [..., latents]; "
            f"{type(built).__name__} has none"
        )
    decoder = getattr(built, "W_dec", None)
    if not isinstance(decoder, Tensor) or decoder.ndim != 2:
        return Sae(name, built.eval(), layer)
    latents, inputs = decoder.shape
    rows = decoder.detach().float()
    return Sae(name, built.eval(), layer, inputs=inputs, latents=latents, decoder=rows)
