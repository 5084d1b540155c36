"""Prompt templates, and texts that are too long, for every encoder alike."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from clipdissect.encoder.base import CountingEncoder
from clipdissect.errors import DissectError, unknown
from clipdissect.utils import hashing
from clipdissect.utils.hashing import Transform
from clipdissect.utils.short_repr import count, short_repr

log = logging.getLogger(__name__)

SETS = ("none", "openai", "imagenet_short")
LONG_TEXTS = ("report", "error")
NAMED = 3  # long texts that a report shows
# No tokenizer makes more tokens of ASCII than it has characters, but for these.
SPECIAL = 4


@dataclass(frozen=True)
class PromptEncoder:
    """An encoder with prompt templates (texts with one `{}` each) and a policy for long texts."""

    encoder: CountingEncoder
    templates: tuple[str, ...] = ()
    long_texts: str = "report"

    def __repr__(self) -> str:
        return short_repr(self, count(len(self.templates), "template") if self.templates else "")

    @property
    def name(self) -> str:
        return self.encoder.name

    @property
    def notes(self) -> tuple[str, ...]:
        if not self.templates:
            return self.encoder.notes
        note = f"a concept's embedding is the mean over {len(self.templates)} prompt templates, "
        return (*self.encoder.notes, f"{note}such as '{self.templates[0]}'")

    @property
    def preprocess(self) -> Transform:
        return self.encoder.preprocess

    @property
    def image_network(self) -> nn.Module | None:
        return getattr(self.encoder, "image_network", None)

    @property
    def image_digest(self) -> str:
        return self.encoder.image_digest

    @property
    def text_digest(self) -> str:
        plain = self.encoder.text_digest
        return (
            hashing.hash_values("templates 1", plain, self.templates) if self.templates else plain
        )

    @property
    def context_length(self) -> int:
        return self.encoder.context_length

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return self.encoder.count_tokens(texts)

    def embed_images(
        self, images: Float[Tensor, "images channels h w"]
    ) -> Float[Tensor, "images d"]:
        return self.encoder.embed_images(images)

    def embed_texts(self, texts: Sequence[str], device: str = "cpu") -> Float[Tensor, "texts d"]:
        for note in self.text_notes(texts):
            log.warning(note)
        if not self.templates:
            return self.encoder.embed_texts(texts, device)
        each = (self.encoder.embed_texts(_fill(t, texts), device) for t in self.templates)
        return F.normalize(reduce(add, each), dim=-1)

    def text_notes(self, texts: Sequence[str]) -> tuple[str, ...]:
        """Return warnings to record with the result: which texts are truncated.

        Raises:
            DissectError: texts are too long, and `long_texts` is `error`.
        """
        limit, cut = self.encoder.context_length, self._cut(texts)
        if not cut:
            return ()
        named = ", ".join(f"'{_short(text)}' ({n} tokens)" for text, n in cut[:NAMED])
        what = (
            f"{len(cut)} of {len(texts)} texts are longer than the {limit} tokens that "
            f"{self.name} takes: {named}{', ...' if len(cut) > NAMED else ''}"
        )
        if self.long_texts == "error":
            raise DissectError(f"{what}. Shorten them, or encoder.long_texts=report cuts them")
        return (f"{what}; what is beyond was cut off (encoder.long_texts=error stops instead)",)

    def unsure(self, texts: Sequence[str]) -> list[str]:
        """Return the texts whose tokens must be counted to know whether they are truncated."""
        room = self.encoder.context_length - SPECIAL - max(map(len, self.templates), default=0)
        if not all(_is_plain(template) for template in self.templates):
            room = -1
        # Counting is slow, and nearly all concepts are words.
        return [text for text in texts if len(text) > room or not _is_plain(text)]

    def _cut(self, texts: Sequence[str]) -> list[tuple[str, int]]:
        """Return truncated texts with their largest token count over the templates."""
        limit, unsure = self.encoder.context_length, self.unsure(texts)
        if not unsure:
            return []
        templates = self.templates or ("{}",)
        counts = [self.encoder.count_tokens(_fill(template, unsure)) for template in templates]
        most = [max(of_text) for of_text in zip(*counts, strict=True)]
        return [(text, n) for text, n in zip(unsure, most, strict=True) if n > limit]


def checked(templates: Any, long_texts: str) -> tuple[tuple[str, ...], str]:
    """Return the checked templates and `long_texts`, before time is spent on loading an encoder.

    Args:
        templates: `none` (the paper's), `openai` (CLIP's 80 for ImageNet), `imagenet_short`
            (CLIP's best 7), or a list of texts with one `{}` each.
        long_texts: `report` (truncate, with a note and a warning) or `error`.

    Raises:
        DissectError: an unknown name, or a template without exactly one `{}`.
    """
    if long_texts not in LONG_TEXTS:
        raise unknown("value of encoder.long_texts", long_texts, LONG_TEXTS)
    return _templates(templates), long_texts


def _templates(chosen: Any) -> tuple[str, ...]:
    if chosen is None or chosen == "none":
        return ()
    if isinstance(chosen, str) and "{}" not in chosen:
        return _packaged(chosen)
    found = (chosen,) if isinstance(chosen, str) else tuple(chosen)
    wrong = [t for t in found if not isinstance(t, str) or t.count("{}") != 1]
    if wrong or not found:
        raise DissectError(
            f"encoder.templates must be {', '.join(SETS)}, or a list of texts with one {{}} each, "
            f"such as ['a photo of a {{}}.']; got {wrong[0] if wrong else list(found)!r}"
        )
    return found


def _packaged(name: str) -> tuple[str, ...]:
    if name not in SETS:
        raise unknown("set of encoder.templates", name, SETS)
    from open_clip import zero_shot_metadata as sets

    functions = {
        "openai": sets.OPENAI_IMAGENET_TEMPLATES,
        "imagenet_short": sets.SIMPLE_IMAGENET_TEMPLATES,
    }
    return tuple(function("{}") for function in functions[name])


def _is_plain(text: str) -> bool:
    return text.isascii() and "&" not in text  # which may begin an entity of HTML


def _fill(template: str, texts: Sequence[str]) -> list[str]:
    return [template.replace("{}", text) for text in texts]


def _short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[:most]}..."
