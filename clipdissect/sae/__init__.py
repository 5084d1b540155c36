"""Sparse autoencoders."""

from __future__ import annotations

from typing import Any

from torch import nn

from clipdissect.sae.base import Sae

__all__ = ["Sae", "resolve"]


def resolve(given: Any) -> Sae:
    if isinstance(given, nn.Module):
        decoder = getattr(given, "W_dec", None)
        latents, inputs = decoder.shape if decoder is not None else (None, None)
        return Sae(type(given).__name__, given, inputs=inputs, latents=latents, decoder=decoder)
    assert isinstance(given, Sae)
    return given
