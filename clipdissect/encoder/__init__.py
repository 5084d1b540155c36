"""Image-text encoders, by name. `OPTIONS` lists the functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import getattr_static
from typing import Any

from clipdissect.encoder.base import Encoder
from clipdissect.encoder.conse import conse
from clipdissect.encoder.hf import hf
from clipdissect.encoder.open_clip import open_clip
from clipdissect.encoder.presets import PRESETS, preset
from clipdissect.encoder.prompts import PromptEncoder
from clipdissect.errors import DissectError
from clipdissect.utils import registry

OPTIONS: dict[str, Callable[..., PromptEncoder]] = {
    **{name: preset(name) for name in PRESETS},
    "conse": conse,
    "hf": hf,
    "open_clip": open_clip,
}

__all__ = ["OPTIONS", "Encoder", "build", "resolve", "text_notes"]


def build(name: str, **parameters: Any) -> PromptEncoder:
    """Return the encoder of that name.

    Raises:
        DissectError: unknown name or parameter; lists the valid ones.
    """
    encoder: PromptEncoder = registry.build("encoder", OPTIONS, name, parameters)
    return encoder


def resolve(what: Encoder | Mapping[str, Any] | str) -> Encoder:
    """Return an encoder from a name, a mapping of a name and parameters, or an encoder.

    Raises:
        DissectError: unknown name, or an object that lacks a part of `Encoder`.
    """
    if isinstance(what, (str, Mapping)):
        return registry.named("encoder", build, what)
    parts = [name for name in vars(Encoder) if not name.startswith("_")]
    # Looked up statically: a digest is a property that may take seconds.
    lacking = [name for name in parts if getattr_static(what, name, None) is None]
    if lacking:
        raise DissectError(
            f"encoder must be an encoder's name or an Encoder: a {type(what).__name__} lacks "
            f"{', '.join(lacking)}"
        )
    return what


def text_notes(encoder: Encoder, texts: Sequence[str]) -> tuple[str, ...]:
    """Return warnings about texts, such as which are truncated.

    Raises:
        DissectError: texts are too long, and the encoder's `long_texts` is `error`.
    """
    return encoder.text_notes(texts) if isinstance(encoder, PromptEncoder) else ()
