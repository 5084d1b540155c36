"""Exemplars of units: the images that a unit is most active on, with masks of where it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F
from torchvision import transforms

from clipdissect.capture.capture import check_still_readable
from clipdissect.capture.dataloader import batches
from clipdissect.capture.decoding import DecodeError, batch_requests
from clipdissect.capture.maps import activation_maps
from clipdissect.capture.settings import Settings
from clipdissect.images.transforms import split
from clipdissect.masks.layers import LayerThresholds
from clipdissect.masks.thresholds import Thresholds, interpolation_inputs, sparse_inputs
from clipdissect.method.milan.encoder import SIDE
from clipdissect.probe import Probe
from clipdissect.similarity.ranking import top_images
from clipdissect.targets import Target
from clipdissect.utils.hashing import Transform

NONE = -1  # in place of an image, for a unit with fewer exemplars

Pictures = Iterator[tuple[Tensor, Tensor]]  # numbers `[batch]` and uint8 `[batch, 3, SIDE, SIDE]`


class Exemplars(ABC):
    """The exemplars of a layer's units."""

    images: Int[Tensor, "units exemplars"]  # numbers of pictures; `NONE`

    @abstractmethod
    def masks(self, units: Int[Tensor, " n"], ranks: Int[Tensor, " n"]) -> Float[Tensor, "n h w"]:
        """Return masks, 0 to 1, of some units' exemplars of some ranks, from 0."""

    @abstractmethod
    def part(self, first: int, stop: int) -> Exemplars:
        """Return the exemplars of the units from `first` to before `stop`."""

    @property
    def present(self) -> Bool[Tensor, "units exemplars"]:
        return self.images != NONE

    def pairs(self, image: int) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """Return the units and ranks of which a picture is the exemplar."""
        units, ranks = (self.images == image).nonzero(as_tuple=True)
        return units, ranks


@dataclass
class MapExemplars(Exemplars):
    """Exemplars whose masks are where the interpolated maps exceed a threshold."""

    images: Int[Tensor, "units exemplars"]
    thresholds: Float[Tensor, " units"]
    maps: Float[Tensor, "units exemplars h w"] | None = field(default=None, repr=False)

    def put(self, image: int, maps: Float[Tensor, "units h w"]) -> None:
        """Take what is needed of a picture's maps."""
        if self.maps is None:
            self.maps = maps.new_zeros(*self.images.shape, *maps.shape[1:])
        units, ranks = self.pairs(image)
        self.maps[units, ranks] = maps[units]

    def masks(self, units: Int[Tensor, " n"], ranks: Int[Tensor, " n"]) -> Float[Tensor, "n h w"]:
        assert self.maps is not None  # every exemplar was put
        if self.maps.shape[2:] == (1, 1):  # a vector has no map: the whole image
            return torch.ones(len(units), SIDE, SIDE, dtype=torch.float32)
        return active_pixels(self.maps[units, ranks], self.thresholds[units])

    def part(self, first: int, stop: int) -> MapExemplars:
        maps = None if self.maps is None else self.maps[first:stop]
        return MapExemplars(self.images[first:stop], self.thresholds[first:stop], maps)


def active_pixels(
    maps: Float[Tensor, "n rows columns"], thresholds: Float[Tensor, " n"]
) -> Float[Tensor, "n h w"]:
    """Return 1 where bilinearly interpolated maps exceed their thresholds, else 0.

    Cells have half-pixel centres. Outside of the outermost centres maps fade to 0, as in the
    released code, instead of repeating the edge.
    """
    rows, columns = (_weights(cells).to(maps) for cells in maps.shape[1:])
    return (rows @ maps @ columns.T > thresholds[:, None, None]).float()


def _weights(cells: int) -> Float[Tensor, "side cells"]:
    """Return the share of each cell in each pixel of a side."""
    places = (torch.arange(SIDE, dtype=torch.float64) + 0.5) * cells / SIDE - 0.5
    distances = (places[:, None] - torch.arange(cells)).abs()
    return (1 - distances).clamp_min(0)


def of_probe(
    target: Target, found: LayerThresholds, settings: Settings, count: int
) -> dict[str, MapExemplars]:
    """Return the exemplars of each layer: each unit's top `count` images by largest activation.

    Dead units have none, latents none on which they are silent. Runs the target on these images.
    """
    layers = {
        layer: MapExemplars(
            _top_images(thresholds, found.images, count, layer in target.saes), thresholds.values
        )
        for layer, thresholds in found.thresholds.items()
    }
    _put_maps(layers, target, found, settings)
    for layer, exemplars in layers.items():
        if exemplars.maps is not None:
            _fit_to_thresholds(exemplars, found.thresholds[layer], layer in target.saes)
    return layers


def _top_images(
    thresholds: Thresholds, images: Sequence[int], count: int, latents: bool
) -> Int[Tensor, "units exemplars"]:
    top = top_images(thresholds.max_activation, min(count, len(images)))
    numbers = torch.tensor(images)[top.indices]
    absent = thresholds.dead | (top.values <= 0) if latents else thresholds.dead
    return numbers.masked_fill(absent, NONE).T.contiguous()


def _put_maps(
    layers: dict[str, MapExemplars], target: Target, found: LayerThresholds, settings: Settings
) -> None:
    chosen = distinct(list(layers.values()))
    if not len(chosen):
        return
    probe, readings = found.probe.subset(chosen.tolist()), found.readings(layers)
    for batch in activation_maps(target, list(layers), probe, settings, readings):
        _check_readable(probe, layers, batch.skipped)
        for layer, exemplars in layers.items():
            maps = batch.layers[layer].cpu()
            for row, number in enumerate(chosen[batch.images].tolist()):
                exemplars.put(number, maps[row])


def _fit_to_thresholds(exemplars: MapExemplars, thresholds: Thresholds, latents: bool) -> None:
    """Change maps and thresholds of saturated units and latents, as for other masks."""
    assert exemplars.maps is not None
    of_units = exemplars.maps.numpy(), thresholds.values.numpy()
    maps, above = interpolation_inputs(*of_units, thresholds.saturated.numpy())
    if latents:
        maps, above = sparse_inputs(maps, above)
    exemplars.maps, exemplars.thresholds = torch.from_numpy(maps), torch.from_numpy(above)


def distinct(layers: Sequence[Exemplars]) -> Int[Tensor, " images"]:
    """Return the numbers of all layers' exemplars, ascending."""
    numbers: Tensor = torch.cat([exemplars.images.flatten() for exemplars in layers])
    found: Tensor = torch.unique(numbers[numbers != NONE])
    return found


def pictures(
    probe: Probe,
    preprocess: Transform,
    numbers: Int[Tensor, " images"],
    layers: Sequence[str],
    settings: Settings,
) -> Pictures:
    """Yield the probe's images as the target sees them, resized by nearest neighbours.

    A preprocessing that can't be split shows nothing but the network's inputs; images are then
    squeezed to the size.
    """
    if not len(numbers):  # all units are dead
        return
    steps = split(preprocess)
    if not steps.batch_steps:
        squeeze = [transforms.Resize([SIDE, SIDE]), transforms.ToTensor()]
        steps = split(transforms.Compose(squeeze))
    chosen = probe.subset(numbers.tolist())
    requests = batch_requests(range(len(chosen)), settings.images_a_batch, (0,))
    with closing(batches(chosen, [steps], requests, settings)) as stream:
        for batch in stream:
            _check_readable(chosen, layers, batch.skipped)
            yield numbers[batch.indices.cpu()], squared(batch.inputs[0])


def _check_readable(probe: Probe, layers: Collection[str], skipped: Sequence[DecodeError]) -> None:
    unreadable = {error.image: error.reason for error in skipped}
    check_still_readable(probe.images, dict.fromkeys(layers, ()), unreadable)


def squared(images: UInt8[Tensor, "images channels h w"]) -> UInt8[Tensor, "images 3 side side"]:
    """Resize to the encoder's size by nearest neighbours; repeat a grey channel."""
    resized = F.interpolate(images.float(), (SIDE, SIDE)).to(torch.uint8)
    return resized.expand(-1, 3, -1, -1)
