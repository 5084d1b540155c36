"""Image-text encoders, by name. `OPTIONS` lists the functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import getattr_static
from typing import Any

from clipdissect.encoder.base import Encoder
from clipdissect.encoder.conse import conse
from clipdissect.encoder.hf import hf
from clipdissect.encoder.lazy import facts_of, lazy, networks_of
from clipdissect.encoder.loaded import TUPLE, is_open_clip, loaded
from clipdissect.encoder.open_clip import open_clip
from clipdissect.encoder.presets import PRESETS, preset
from clipdissect.encoder.prompts import PromptEncoder
from clipdissect.errors import DissectError
from clipdissect.models.remembered import remembered
from clipdissect.store import Entry, Store
from clipdissect.utils import hashing, registry

NOTES_VERSION = 1  # increment it when the same texts get other notes

OPTIONS: dict[str, Callable[..., PromptEncoder]] = {
    **{name: preset(name) for name in PRESETS},
    "conse": conse,
    "hf": hf,
    "open_clip": open_clip,
}

_REMEMBERED = dict(OPTIONS)  # functions that run no code of users; they note what they read

__all__ = ["OPTIONS", "Encoder", "build", "lazily", "loaded", "resolve", "text_notes"]


def build(name: str, **parameters: Any) -> PromptEncoder:
    """Return the encoder of that name.

    Raises:
        DissectError: unknown name or parameter; lists the valid ones.
    """
    encoder: PromptEncoder = registry.build("encoder", OPTIONS, name, parameters)
    return encoder


def lazily(name: str, **parameters: Any) -> PromptEncoder:
    """Return the encoder of that name; if its facts are remembered, it is built at first use.

    Raises:
        DissectError: as `build`.
    """
    make = partial(build, name, **parameters)
    if name not in _REMEMBERED or OPTIONS.get(name) is not _REMEMBERED[name]:
        return make()
    found = remembered("encoder", name, parameters, make, facts_of, networks_of)
    return lazy(found) if found.lasts else found.built


def resolve(what: Any) -> Encoder:
    """Return an encoder from one, a name, a mapping with parameters, or open_clip's objects.

    Raises:
        DissectError: unknown name, or an object that lacks a part of `Encoder`; see `loaded`.
    """
    if isinstance(what, (str, Mapping)):
        return registry.named("encoder", lazily, what)
    if is_open_clip(what):
        return loaded(what)
    if isinstance(what, tuple):
        if len(what) != 3:
            raise DissectError(f"a tuple as encoder must be {TUPLE}; got {len(what)} parts")
        return loaded(*what)
    parts = [name for name in vars(Encoder) if not name.startswith("_")]
    # Looked up statically: a digest is a property that may take seconds.
    lacking = [name for name in parts if getattr_static(what, name, None) is None]
    if lacking:
        raise DissectError(
            f"encoder must be an encoder's name or an Encoder: a {type(what).__name__} lacks "
            f"{', '.join(lacking)}"
        )
    encoder: Encoder = what
    return encoder


def text_notes(
    encoder: Encoder, texts: Sequence[str], digest: str = "", store: Store | None = None
) -> tuple[str, ...]:
    """Return warnings about texts, such as which are truncated.

    With a store they are cached for the encoder's text `digest`: counting needs the tokenizer.

    Raises:
        DissectError: texts are too long, and the encoder's `long_texts` is `error`.
    """
    if not isinstance(encoder, PromptEncoder):
        return ()
    if store is None or not encoder.unsure(texts):
        return encoder.text_notes(texts)
    policy = encoder.name, encoder.templates, encoder.long_texts
    key = hashing.hash_values("text notes", NOTES_VERSION, digest, policy, list(texts))

    def count() -> Entry:
        return Entry({}, {"what": "notes on texts", "notes": encoder.text_notes(texts)})

    return tuple(store.get_or_compute(key, count).about["notes"])
