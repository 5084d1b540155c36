"""The images that scores are computed on, and what networks make of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clipdissect.capture.features import CapturedFeatures
from clipdissect.capture.settings import Settings
from clipdissect.capture.text_embeddings import text_embeddings
from clipdissect.encoder import Encoder
from clipdissect.errors import DissectError
from clipdissect.probe import Probe
from clipdissect.store import Store
from clipdissect.targets import Target

Rows = Int[Tensor, " rows"]


@dataclass(frozen=True)
class HeldOut:
    """A target's activations and an encoder's embeddings on the images of a split probe.

    Args:
        target: the network with the units.
        probe: all images.
        features: of all images or, of latents, of those of `validate` and `test`, in full.
        fit: rows of `features` that calibrate scores; none of them is in `test`.
        validate: rows, among those of `fit`, that labels weren't made from either.
        test: rows that scores are computed on.
        encoder: of the embeddings; None: they aren't captured.
        notes: on the encoder, such as what it shares with that of the labels; see
            `check_encoders`.
    """

    target: Target
    probe: Probe
    features: CapturedFeatures
    fit: Rows
    validate: Rows
    test: Rows
    settings: Settings
    store: Store | None
    encoder: Encoder | None = None
    notes: tuple[str, ...] = ()
    _texts: dict[str, Float[Tensor, " dims"]] = field(default_factory=dict, repr=False)

    def activations(self, layer: str, rows: Rows) -> Float[Tensor, "rows units"]:
        """Return a layer's activations on the rows, where scores are computed."""
        activations = self.features.activations[layer]
        if not isinstance(activations, Tensor):
            raise DissectError(f"layer {layer} has no activations of all images: capture.keep=full")
        return activations[rows].to(self.settings.scoring_device)

    def embeds(self, rows: Rows) -> Float[Tensor, "rows dims"]:
        return self.features.image_embeds[rows].to(self.settings.scoring_device)

    def images(self, rows: Rows) -> list[str]:
        return [self.features.images[row] for row in rows.tolist()]

    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "texts dims"]:
        """Return the scoring encoder's embeddings of texts, each computed once."""
        new = [text for text in dict.fromkeys(texts) if text not in self._texts]
        if new:
            self._texts.update(zip(new, self._embed(new), strict=True))
        return torch.stack([self._texts[text] for text in texts])

    def _embed(self, texts: list[str]) -> Float[Tensor, "texts dims"]:
        assert self.encoder is not None
        settings = self.settings
        embeddings = text_embeddings(
            self.encoder.embed_texts,
            self.encoder.text_digest,
            texts,
            self.store,
            settings.torch_device,
            settings.text_precision,
        )
        return embeddings.to(settings.scoring_device)


def rows_of(features: CapturedFeatures, images: list[str]) -> Rows:
    """Return the rows of images; unreadable ones are left out."""
    rows = {image: row for row, image in enumerate(features.images)}
    return torch.tensor([rows[image] for image in images if image in rows], dtype=torch.int64)
