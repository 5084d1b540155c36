"""Hand-set filters for the colours and shapes of `synthetic_broden`."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from clipdissect.probe.scenes import PALETTE, RADII, SHAPES, TURNS, points
from clipdissect.targets import Target
from clipdissect.testing.synthetic_units import Planted

RADIUS = 50.0  # RGB distance (0..255) from a colour at which its unit's activation reaches 0
POOLING = 2  # shapes are matched in maps of half the size
MIN_CONTRAST = 0.75  # by which a shape's colour share must exceed that of its surroundings
MIN_AREA = 0.003  # share of an image that the smallest shape covers
COLOURS, FIGURES = tuple(PALETTE), tuple(SHAPES)
# Units of the layer `formulas`.
EITHER = (("red", "blue"), ("green", "yellow"), ("black", "pink"))
BOTH = (("circle", "red"), ("square", "blue"), ("cross", "green"), ("ring", "orange"))


class Filters(nn.Module):
    """Units for colours, for shapes, and for formulas of them, on square images of `size` pixels.

    `colours` is a 1x1 convolution on the channels and their squares:
    `max(0, 1 - |x - c|^2 / radius^2)`. `shapes` matches each colour's map with templates of every
    shape, size and rotation, inside against surroundings, and paints the matches.
    """

    templates: Tensor
    inside: Tensor

    def __init__(self, size: int = 112) -> None:
        super().__init__()
        self.colour = nn.Conv2d(6, len(COLOURS), 1)
        self.colours, self.shapes, self.formulas = (nn.Identity() for _ in range(3))
        _set_colours(self.colour)
        inside, self.shape_of = _templates(size // POOLING)
        around = F.max_pool2d(inside, 3, 1, 1) - inside  # the pixels next to the shape
        around = F.max_pool2d(around, 3, 1, 1) * (1 - inside)
        weights = inside / _total(inside) - around / _total(around)
        self.register_buffer("templates", weights)
        self.register_buffer("inside", inside)

    def forward(self, images: Float[Tensor, "images 3 h w"]) -> Float[Tensor, "images units"]:
        """Return each unit's maximum; the layers have the maps."""
        squares = torch.cat([images, images.square()], 1)
        colours = self.colours(self.colour(squares).relu())
        coarse = F.avg_pool2d(colours, POOLING)
        painted = self._paint(coarse)
        shapes = self.shapes(painted.sum(1))
        formulas = self.formulas(_formulas(coarse, painted))
        return torch.cat([m.amax((2, 3)) for m in (colours, shapes, formulas)], 1)

    def _paint(
        self, colours: Float[Tensor, "images colours h w"]
    ) -> Float[Tensor, "images colours shapes h w"]:
        count, channels, height, width = colours.shape
        flat = (1.3 * colours).clamp(max=1).reshape(-1, 1, height, width)
        margin = self.inside.shape[-1] // 2
        painted = flat.new_zeros(len(flat), len(FIGURES), height, width)
        # A colour that covers less than the smallest shape has no shapes.
        for plane in (flat.mean((1, 2, 3)) > MIN_AREA).nonzero()[:, 0]:
            image = flat[plane : plane + 1]
            scores = (F.conv2d(image, self.templates, padding=margin) - MIN_CONTRAST).relu()
            for figure, templates in enumerate(self.shape_of):
                matches = scores[:, templates]
                if matches.any():
                    painted[plane, figure] = F.conv_transpose2d(
                        matches, self.inside[templates], padding=margin
                    )[0, 0]
        # Only pixels of the colour belong to the shape: other pixels occlude it.
        return (painted * flat).reshape(count, channels, len(FIGURES), height, width)


def planted_filters(size: int = 112) -> Planted:
    """Build `Filters` for square images of `size` pixels, and its ground truth."""
    from torchvision import transforms

    steps = [transforms.Resize((size, size)), transforms.ToTensor()]
    network = Filters(size).eval().requires_grad_(False)
    layers = ("colours", "shapes", "formulas")
    truth = {
        "colours": tuple(f"{name}-c" for name in COLOURS),
        "shapes": FIGURES,
        "formulas": (
            *(f"{a}-c OR {b}-c" for a, b in EITHER),
            *(f"{shape} AND {colour}-c" for shape, colour in BOTH),
        ),
    }
    return Planted(Target("planted_filters", network, transforms.Compose(steps), layers), truth)


def _set_colours(convolution: nn.Conv2d) -> None:
    """Set the weights to `1 - |x - c|^2 / radius^2`, for channels in 0..1."""
    centres = torch.tensor([PALETTE[name] for name in COLOURS], dtype=torch.float32) / 255
    squared_radius = (RADIUS / 255) ** 2
    weights = torch.cat([2 * centres, -torch.ones_like(centres)], 1) / squared_radius
    bias = 1 - centres.square().sum(1) / squared_radius
    convolution.weight = nn.Parameter(weights[:, :, None, None])
    convolution.bias = nn.Parameter(bias)


def _templates(size: int) -> tuple[Float[Tensor, "templates 1 h w"], list[slice]]:
    """Return masks of all shapes, sizes and rotations, and each shape's slice of them."""
    side = 2 * (round(max(RADII) * size) + 2) + 1
    masks: list[np.ndarray] = []
    slices = []
    for shape in SHAPES.values():
        distinct: dict[bytes, np.ndarray] = {}
        for radius in RADII:
            for turn in TURNS:
                grid = points(side, side / 2, side / 2, radius * size, float(turn))
                mask = shape(*grid)
                distinct.setdefault(mask.tobytes(), mask)  # symmetric shapes repeat
        slices.append(slice(len(masks), len(masks) + len(distinct)))
        masks += distinct.values()
    return torch.from_numpy(np.stack(masks)).float()[:, None], slices


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
