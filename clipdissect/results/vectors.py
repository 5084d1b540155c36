"""Vectors of units and texts in an encoder's space, and their file `vectors.safetensors`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float, Int8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from clipdissect.capture.activations import Activations
from clipdissect.encoder import Encoder
from clipdissect.encoder.lazy import preprocess_digest
from clipdissect.errors import DissectError
from clipdissect.results.coherence import counted_images, sums_of
from clipdissect.similarity.inputs import TopActivations
from clipdissect.utils import hashing
from clipdissect.utils.files import atomic

FILE = "vectors.safetensors"
VERSION = "1"  # raise it when older files can no longer be read
SAMPLES = ("texts", "images")
SAMPLE = 1000  # random concepts, and images, in the file
SEED = 0  # of their choice
LARGEST = 127
IMAGE_PARTS = ("images", "preprocess")  # of an encoder, with digests in a run's manifest


@dataclass(frozen=True)
class Embedded:
    """Texts, or names of images, with their embeddings, a row each."""

    names: tuple[str, ...] = ()
    embeds: Float[Tensor, "names dims"] = field(default_factory=lambda: torch.zeros(0, 0))

    def sample(self, count: int = SAMPLE) -> Embedded:
        """Return a random choice, or all if there are fewer; the same one at each call."""
        generator = torch.Generator().manual_seed(SEED)
        rows = torch.randperm(len(self.names), generator=generator)[:count].sort().values
        return self.rows(rows.tolist())

    def rows(self, rows: Sequence[int]) -> Embedded:
        return Embedded(tuple(self.names[row] for row in rows), self.embeds[list(rows)])


@dataclass(frozen=True)
class UnitVectors:
    """Vectors of units in the space of the encoder whose digests they have.

    Args:
        layers: mean embeddings of the units' top images, at unit length; 0 for units without any.
        encoder: its name.
        text_digest: see `Encoder`.
        image_digest: of its image network and preprocessing, see `image_digest_of`.
        texts: the concepts, as `Encoder.embed_texts` returns them; a sample, of a file.
        images: a sample of the probe's.
        shown: the units' top images; none of a file.
    """

    layers: Mapping[str, Float[Tensor, "units dims"]]
    encoder: str
    text_digest: str
    image_digest: str
    texts: Embedded = field(default_factory=Embedded)
    images: Embedded = field(default_factory=Embedded)
    shown: Embedded = field(default_factory=Embedded)

    def write(self, path: Path, most: int = SAMPLE) -> None:
        """Write the units, and `most` texts and images: a byte per number, a scale per row."""
        samples = {"texts": self.texts.sample(most), "images": self.images.sample(most)}
        matrices = {f"units {n}": rows for n, rows in enumerate(self.layers.values())}
        matrices |= {name: sample.embeds for name, sample in samples.items()}
        arrays = {}
        for name, rows in matrices.items():
            arrays[name], arrays[f"{name} scales"] = quantised(rows)
        facts = {
            "version": VERSION,
            "encoder": self.encoder,
            "text_digest": self.text_digest,
            "image_digest": self.image_digest,
            "layers": list(self.layers),
            **{name: sample.names for name, sample in samples.items()},
        }
        with atomic(path) as temporary:
            # As one value: safetensors writes several in an order of chance.
            save_file(arrays, temporary, metadata={"facts": json.dumps(facts)})


def read_vectors(path: Path) -> UnitVectors | None:
    """Read a file of `UnitVectors.write`; None if there is none.

    Raises:
        DissectError: it is no such file, or of another version.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {})["facts"])
            if facts["version"] != VERSION:
                raise DissectError(f"{path} is of another version of clipdissect: run again")
            layers, *named = (facts[key] for key in ("layers", *SAMPLES))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        units = {layer: _restored(arrays, f"units {n}") for n, layer in enumerate(layers)}
        encoder = (facts[key] for key in ("encoder", "text_digest", "image_digest"))
        samples = [
            Embedded(tuple(n), _restored(arrays, k)) for n, k in zip(named, SAMPLES, strict=True)
        ]
        return UnitVectors(units, *encoder, *samples)
    except (SafetensorError, KeyError, ValueError) as error:
        raise DissectError(f"{path} can't be read ({error}): run again") from error


def image_digest_of(encoder: Encoder) -> str:
    """Return a digest of `IMAGE_PARTS`: all that image embeddings depend on."""
    return hashing.hash_values(encoder.image_digest, preprocess_digest(encoder))


def top_image_means(
    activations: Activations,
    top: TopActivations,
    embeds: Float[Tensor, "images dims"],
    count: int,
    latents: bool = False,
) -> Float[Tensor, "units dims"]:
    """Return the mean embedding of each unit's `count` top images, at unit length.

    0 for units without top images: dead ones. Of latents, only images on which they fire count.
    """
    counted = counted_images(activations, top, latents)[:count]
    sums, _ = sums_of(embeds, top.indices[:count], counted)
    return F.normalize(sums, dim=1).cpu()


def quantised(
    rows: Float[Tensor, "rows dims"],
) -> tuple[Int8[Tensor, "rows dims"], Float[Tensor, " rows"]]:
    """Return rows as whole numbers from -127 to 127, and what to multiply each row by."""
    scales = rows.abs().amax(1).clamp(min=1e-30) / LARGEST if rows.numel() else rows.new_zeros(0)
    return (rows / scales[:, None]).round().to(torch.int8), scales.float()


def _restored(arrays: Mapping[str, Tensor], name: str) -> Float[Tensor, "rows dims"]:
    return arrays[name].float() * arrays[f"{name} scales"][:, None]
