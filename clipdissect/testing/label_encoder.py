"""An ideal image-text encoder that reads the probe's labels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from clipdissect.errors import DissectError
from clipdissect.images.decode import to_pil
from clipdissect.probe import Probe
from clipdissect.utils import hashing
from clipdissect.utils.hashing import Transform

NOTE = (
    "the encoder knows the labels of the probe's images (clipdissect.testing): its results are "
    "an upper bound for CLIP-Dissect, not its accuracy with a real encoder"
)


class LabelEncoder:
    """Embeds images as square roots of concept area shares, texts as one-hot vectors.

    The probe must be densely labelled, with images of one size, recognised by their pixels.
    """

    name = "labels"
    notes: tuple[str, ...] = (NOTE,)

    def __init__(self, probe: Probe) -> None:
        if probe.masks is None:
            raise DissectError(f"probe {probe.name} has no masks that an encoder could know")
        self.probe, self.masks = probe, probe.masks

    @property
    def preprocess(self) -> Transform:
        from torchvision import transforms

        composed: Transform = transforms.ToTensor()
        return composed

    @cached_property
    def image_digest(self) -> str:
        return hashing.hash_values("labels 1", self.masks.digest())

    @cached_property
    def text_digest(self) -> str:
        return hashing.hash_values("labels 1", self.masks.texts)

    def embed_images(self, images: Float[Tensor, "images 3 h w"]) -> Float[Tensor, "images d"]:
        """Return unit-length embeddings; raise a DissectError for another probe's image."""
        numbers = self.numbers_of(images)
        if None in numbers:
            raise DissectError(f"the encoder knows only the images of {self.probe.name}")
        embeddings = [self.shares(number).sqrt() for number in numbers if number is not None]
        return F.normalize(torch.stack(embeddings), dim=-1).to(images.device)

    def embed_regions(
        self, images: Sequence[str], boxes: Float[Tensor, "images 4"]
    ) -> Float[Tensor, "images d"]:
        """Return unit-length embeddings of parts of images by name.

        Boxes are top, left, bottom and right, from 0 to 1. They can't be told from pixels alone.
        """
        numbers = self.probe.numbers(images)
        parts = zip(numbers, boxes.tolist(), strict=True)
        return F.normalize(torch.stack([self.shares(*part).sqrt() for part in parts]), dim=-1)

    def embed_texts(self, texts: Sequence[str], device: str = "cpu") -> Float[Tensor, "texts d"]:
        """Return one-hot vectors; unknown texts share the last dimension."""
        known = {text: i for i, text in enumerate(self.masks.texts)}
        indices = torch.tensor([known.get(text, len(known)) for text in texts])
        return F.one_hot(indices, len(known) + 1).float().to(device)

    def numbers_of(self, images: Float[Tensor, "images 3 h w"]) -> list[int | None]:
        """Return the images' numbers in the probe; None for images of another one."""
        pixels = (images * 255).round().byte().cpu()
        return [self._numbers.get(_fingerprint(image)) for image in pixels]

    def shares(
        self, image: int, box: Sequence[float] = (0.0, 0.0, 1.0, 1.0)
    ) -> Float[Tensor, " d"]:
        """Return the area shares of the masks' texts in an image of the probe, or a part of it."""
        texts = self.masks.texts
        shares = torch.zeros(len(texts) + 1, dtype=torch.float32)
        for number, mask in self.masks.read(image).concepts().items():
            edges = [round(edge * side) for edge, side in zip(box, mask.shape * 2, strict=True)]
            part = mask[edges[0] : edges[2], edges[1] : edges[3]]
            shares[texts.index(self.masks.concepts[number].text)] += float(part.mean())
        return shares

    @cached_property
    def _numbers(self) -> dict[bytes, int]:
        to_tensor = self.preprocess
        pictures = (to_tensor(to_pil(self.probe.read(i))) for i in range(len(self.probe)))
        return {
            _fingerprint((picture * 255).round().byte()): i for i, picture in enumerate(pictures)
        }


def _fingerprint(image: Tensor) -> bytes:
    return hashlib.blake2b(image.contiguous().numpy().tobytes(), digest_size=16).digest()
