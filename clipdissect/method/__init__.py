"""Methods that describe units; `OPTIONS` maps names to classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clipdissect.method.base import Job, Method
from clipdissect.method.captioner import Captioner
from clipdissect.method.captioning import ImageCaptioner
from clipdissect.method.clip_dissect import ClipDissect
from clipdissect.method.compositional import Compositional
from clipdissect.method.decoder_names import DecoderNames
from clipdissect.method.invert import Invert
from clipdissect.method.linear import Linear
from clipdissect.method.milan import Milan
from clipdissect.method.network_dissection import NetworkDissection
from clipdissect.method.published import Published
from clipdissect.method.published_linear import PublishedLinear
from clipdissect.utils import registry

OPTIONS: dict[str, Callable[..., Method]] = {
    "captioner": Captioner,
    "clip_dissect": ClipDissect,
    "compositional": Compositional,
    "decoder_names": DecoderNames,
    "invert": Invert,
    "linear": Linear,
    "milan": Milan,
    "network_dissection": NetworkDissection,
    "published": Published,
    "published_linear": PublishedLinear,
}

__all__ = ["OPTIONS", "ImageCaptioner", "Job", "Method", "build"]


def build(name: str, **parameters: Any) -> Method:
    """Build a method by name; raise a DissectError for an unknown name or parameter."""
    method: Method = registry.build("method", OPTIONS, name, parameters)
    return method
