"""Linear probes for known concepts on a layer of any network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from clipdissect.capture.hooks import find_layers
from clipdissect.capture.maps import activation_maps
from clipdissect.capture.settings import Settings
from clipdissect.datasets.segmentation import SegmentationLabels
from clipdissect.errors import DissectError
from clipdissect.masks.crop import without_crop
from clipdissect.probe import Probe
from clipdissect.targets import Target
from clipdissect.testing.synthetic_units import Planted

LAYER = "probes"


class Probed(nn.Module):
    """A network with probes on the maps `[images, units, h, w]` of one of its layers."""

    def __init__(
        self,
        network: nn.Module,
        layer: str,
        weights: Float[Tensor, "probes units"],
        bias: Float[Tensor, " probes"],
    ) -> None:
        super().__init__()
        self.network, self.layer = network, layer
        self.probes = nn.Conv2d(weights.shape[1], weights.shape[0], 1)
        self.probes.weight = nn.Parameter(weights[:, :, None, None].clone())
        self.probes.bias = nn.Parameter(bias.clone())

    def forward(self, images: Tensor) -> Float[Tensor, "images probes"]:
        """Return each probe's maximum; the layer `probes` has the maps."""
        outputs: list[Tensor] = []

        def record(module: nn.Module, inputs: Any, output: Tensor) -> None:
            outputs.append(output)

        handle = find_layers(self.network, [self.layer])[self.layer].register_forward_hook(record)
        try:
            self.network(images)
        finally:
            handle.remove()
        maps: Float[Tensor, "images probes h w"] = self.probes(outputs[0])
        return maps.amax((2, 3))


def planted_probes(
    target: Target,
    layer: str,
    probe: Probe,
    texts: Sequence[str],
    settings: Settings,
    ridge: float = 1e-3,
) -> Planted:
    """Build a network with one unit per concept: a linear probe on a layer's units.

    Closed-form ridge regression of a concept's area share per cell on the standardised units;
    `ridge` is the penalty's weight per position. Fit on a densely labelled, held-out `probe`.
    """
    masks = probe.masks
    if masks is None:
        raise DissectError(f"probe {probe.name} has no masks to fit probes to")
    missing = [text for text in texts if text not in masks.texts]
    if missing:
        raise DissectError(f"probe {probe.name} has no concept {', '.join(missing)}")
    viewed = replace(target.with_preprocess(without_crop(target.preprocess)[0]), layers=())
    moments = _Moments()
    for maps in activation_maps(viewed, [layer], probe, settings):
        if maps.layers:
            values = maps.layers[layer].cpu()
            size = (values.shape[2], values.shape[3])
            shares = [_shares(masks, int(i), texts, size) for i in maps.images]
            moments.add(values.permute(0, 2, 3, 1).flatten(0, 2), torch.cat(shares))
    weights, bias = moments.solve(ridge)
    network = Probed(target.model, layer, weights, bias).eval().requires_grad_(False)
    name = f"planted_probes({target.name}.{layer})"
    planted = replace(
        viewed, name=name, model=network, layers=(LAYER,), class_layer=None, class_names=()
    )
    return Planted(planted, {LAYER: tuple(texts)})


def _shares(
    masks: SegmentationLabels, image: int, texts: Sequence[str], size: tuple[int, int]
) -> Float[Tensor, "positions probes"]:
    """Return each concept's area share in each cell."""
    annotation = masks.read(image)
    shown = torch.zeros(len(texts), *annotation.size, dtype=torch.float32)
    for number, mask in annotation.concepts().items():
        text = masks.concepts[number].text
        if text in texts:
            index = texts.index(text)
            shown[index] = torch.maximum(shown[index], torch.from_numpy(mask).float())
    return F.adaptive_avg_pool2d(shown, size).flatten(1).T


class _Moments:
    def __init__(self) -> None:
        self.count = 0
        self.sums: list[Tensor] = []

    def add(self, x: Float[Tensor, "n units"], y: Float[Tensor, "n probes"]) -> None:
        x, y = x.double(), y.double()
        sums = [x.sum(0), y.sum(0), x.T @ x, x.T @ y]
        self.sums = [a + b for a, b in zip(self.sums, sums, strict=True)] if self.sums else sums
        self.count += len(x)

    def solve(self, ridge: float) -> tuple[Float[Tensor, "probes units"], Float[Tensor, " probes"]]:
        x, y, xx, xy = (total / self.count for total in self.sums)
        spread = (xx.diagonal() - x.square()).clamp(min=1e-12).sqrt()
        covariance = (xx - x.outer(x)) / spread.outer(spread)
        cross = (xy - x.outer(y)) / spread[:, None]
        covariance.diagonal().add_(ridge)
        weights = torch.linalg.solve(covariance, cross) / spread[:, None]
        return weights.T.float(), (y - weights.T @ x).float()
