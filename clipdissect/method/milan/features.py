"""Features of exemplars; each picture goes through the encoder once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from clipdissect.method.milan.encoder import PyramidEncoder, masked_means
from clipdissect.method.milan.exemplars import Exemplars, Pictures

MASKS_AT_ONCE = 64  # 13 MB of pixels


@torch.no_grad()
def exemplar_features(
    encoder: PyramidEncoder, layers: Sequence[Exemplars], pictures: Pictures
) -> list[Float[Tensor, "units exemplars features"]]:
    """Return the layers' features, 0 for absent exemplars.

    Units that share a picture share its maps.
    """
    features = [
        torch.zeros(*exemplars.images.shape, encoder.features, dtype=torch.float32)
        for exemplars in layers
    ]
    device = encoder.mean.device
    for numbers, images in pictures:
        maps = encoder(images.to(device))
        for row, number in enumerate(numbers.tolist()):
            of_image = [values[row] for values in maps]
            for exemplars, values in zip(layers, features, strict=True):
                _put(values, exemplars, number, of_image)
    return features


def _put(
    features: Float[Tensor, "units exemplars features"],
    exemplars: Exemplars,
    image: int,
    maps: Sequence[Float[Tensor, "_ _ _"]],
) -> None:
    pairs = torch.stack(exemplars.pairs(image))
    for units, ranks in torch.split(pairs, MASKS_AT_ONCE, 1):
        masks = exemplars.masks(units, ranks).to(maps[0].device)
        features[units, ranks] = masked_means(maps, masks).cpu()
