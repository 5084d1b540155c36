"""Filters set by hand for the colours and shapes of `synthetic_broden`."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from clipdissect.probe.scenes.colours import PALETTE
from clipdissect.probe.scenes.patterns import SHAPES, points
from clipdissect.probe.scenes.scene import RADII, TURNS
from clipdissect.targets import Target
from clipdissect.testing.synthetic_units import Planted

REACH = 50.0  # grey levels from a colour at which its unit falls silent
HALVED = 2  # shapes are looked for in maps of half the size
SURE = 0.75  # how much more of a shape than of its surroundings must have one colour
FAINT = 0.003  # share of an image that the smallest shape has
COLOURS, FIGURES = tuple(PALETTE), tuple(SHAPES)
# Units of the layer `formulas`.
EITHER = (("red", "blue"), ("green", "yellow"), ("black", "pink"))
BOTH = (("circle", "red"), ("square", "blue"), ("cross", "green"), ("ring", "orange"))


class Filters(nn.Module):
    """Units for colours, for shapes, and for a colour or another, a shape and a colour.

    `colours` is a 1x1 convolution on the channels and their squares: `1 - |x - c|^2 / reach^2`,
    and nothing below 0. `shapes` compares each colour's map with templates of every shape, size and
    turn that scenes have, inside against around, and paints what is found back with the template.

    Args:
        size: of the square images, in pixels.
    """

    templates: Tensor
    inside: Tensor

    def __init__(self, size: int = 112) -> None:
        super().__init__()
        self.colour = nn.Conv2d(6, len(COLOURS), 1)
        self.colours, self.shapes, self.formulas = (nn.Identity() for _ in range(3))
        _set_colours(self.colour)
        inside, self.shape_of = _templates(size // HALVED)
        around = F.max_pool2d(inside, 3, 1, 1) - inside  # the pixels next to the shape
        around = F.max_pool2d(around, 3, 1, 1) * (1 - inside)
        weights = inside / _total(inside) - around / _total(around)
        self.register_buffer("templates", weights)
        self.register_buffer("inside", inside)

    def forward(self, images: Float[Tensor, "images 3 h w"]) -> Float[Tensor, "images units"]:
        """The largest value of every unit, `[images, units]`; the layers have the maps."""
        squares = torch.cat([images, images.square()], 1)
        colours = self.colours(self.colour(squares).relu())
        coarse = F.avg_pool2d(colours, HALVED)
        found = self._painted(coarse)
        shapes = self.shapes(found.sum(1))
        formulas = self.formulas(_formulas(coarse, found))
        return torch.cat([m.amax((2, 3)) for m in (colours, shapes, formulas)], 1)

    def _painted(
        self, colours: Float[Tensor, "images colours h w"]
    ) -> Float[Tensor, "images colours shapes h w"]:
        """Where each shape is in each colour."""
        count, channels, height, width = colours.shape
        flat = (1.3 * colours).clamp(max=1).reshape(-1, 1, height, width)
        margin = self.inside.shape[-1] // 2
        painted = flat.new_zeros(len(flat), len(FIGURES), height, width)
        # Where a colour is hardly found, none of its shapes is.
        for plane in (flat.mean((1, 2, 3)) > FAINT).nonzero()[:, 0]:
            own = flat[plane : plane + 1]
            scores = (F.conv2d(own, self.templates, padding=margin) - SURE).relu()
            for figure, place in enumerate(self.shape_of):
                found = scores[:, place]
                if found.any():
                    painted[plane, figure] = F.conv_transpose2d(
                        found, self.inside[place], padding=margin
                    )[0, 0]
        # Only pixels of the colour belong to it: others lie before it.
        return (painted * flat).reshape(count, channels, len(FIGURES), height, width)


def planted_filters(size: int = 112) -> Planted:
    """A network of `Filters` and its truth.

    Args:
        size: pixels of the square images that it sees.
    """
    from torchvision import transforms

    steps = [transforms.Resize((size, size)), transforms.ToTensor()]
    network = Filters(size).eval().requires_grad_(False)
    layers = ("colours", "shapes", "formulas")
    truth = {
        "colours": tuple(f"{name}-c" for name in COLOURS), "shapes": FIGURES,
        "formulas": (*(f"{a}-c OR {b}-c" for a, b in EITHER),
                     *(f"{shape} AND {colour}-c" for shape, colour in BOTH)),
    }  # fmt: skip
    return Planted(Target("planted_filters", network, transforms.Compose(steps), layers), truth)


def _set_colours(convolution: nn.Conv2d) -> None:
    """`1 - |x - c|^2 / reach^2` of channels in 0..1."""
    centres = torch.tensor([PALETTE[name] for name in COLOURS], dtype=torch.float32) / 255
    reach = (REACH / 255) ** 2
    weights = torch.cat([2 * centres, -torch.ones_like(centres)], 1) / reach
    bias = 1 - centres.square().sum(1) / reach
    convolution.weight = nn.Parameter(weights[:, :, None, None])
    convolution.bias = nn.Parameter(bias)


def _templates(size: int) -> tuple[Float[Tensor, "templates 1 h w"], list[slice]]:
    """Masks of all shapes, sizes and turns, and each shape's place among them."""
    side = 2 * (round(max(RADII) * size) + 2) + 1
    found: list[np.ndarray] = []
    places = []
    for shape in SHAPES.values():
        own: dict[bytes, np.ndarray] = {}
        for radius in RADII:
            for turn in TURNS:
                grid = points(side, side / 2, side / 2, radius * size, float(turn))
                mask = shape(*grid)
                own.setdefault(mask.tobytes(), mask)  # turned, many look the same
        places.append(slice(len(found), len(found) + len(own)))
        found += own.values()
    return torch.from_numpy(np.stack(found)).float()[:, None], places


def _total(masks: Float[Tensor, "templates 1 h w"]) -> Float[Tensor, "templates 1 1 1"]:
    return masks.sum((2, 3), keepdim=True)


def _formulas(
    colours: Float[Tensor, "images colours h w"],
    painted: Float[Tensor, "images colours shapes h w"],
) -> Float[Tensor, "images units h w"]:
    either = [
        torch.maximum(colours[:, COLOURS.index(a)], colours[:, COLOURS.index(b)]) for a, b in EITHER
    ]
    both = [painted[:, COLOURS.index(c), FIGURES.index(shape)] for shape, c in BOTH]
    return torch.stack([*either, *both], 1)
