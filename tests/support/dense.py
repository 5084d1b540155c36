"""A small densely labelled set on disk, and Network Dissection of it done slowly and plainly."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from clipdissect.targets import Target

SIDE = 8  # of images
SIZES = ((8, 8), (16, 8))  # of masks
LABELS = {
    "color": ("red-c", "blue-c"),
    "object": ("door", "cat", "sky"),
    "part": ("door", "leg"),
    "scene": ("coast-s", "street-s"),
}
Shown = dict[tuple[str, str], list[np.ndarray]]  # category and label to each image's mask


def write_dense(root: Path, images: int = 12, seed: int = 0, one_size: bool = False) -> None:
    """Random images and labels: some images lack categories, objects have two layers."""
    random = np.random.default_rng(seed)
    (root / "images" / "a").mkdir(parents=True)
    numbers = {}
    names = [(c, n) for c, labels in LABELS.items() for n in labels]
    for category, name in names:  # `door` has one number in both categories
        numbers.setdefault(name, 1 + 300 * len(numbers))
        assert category
    rows = []
    for image in range(images):
        name = f"a/{image:02d}"
        pixels = random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{name}.png")
        size = SIZES[0] if one_size else SIZES[image % 2]
        row: dict[str, object] = {
            "image": f"{name}.png",
            "split": "train",
            "ih": SIDE,
            "iw": SIDE,
            "sh": size[0],
            "sw": size[1],
        }
        for category, labels in LABELS.items():
            row[category] = ""
            if random.random() < 0.25:
                continue
            if category == "scene":
                row[category] = numbers[labels[int(random.integers(len(labels)))]]
                continue
            files = []
            for layer in range(2 if category == "object" else 1):
                own = np.array([0, *(numbers[n] for n in labels)])
                # Labels come in blocks, as those of real images do.
                coarse = own[random.integers(0, len(own), (size[0] // 4, size[1] // 4))]
                mask = np.kron(coarse, np.ones((4, 4), dtype=np.int64))
                coded = np.stack([mask % 256, mask // 256, mask * 0], -1).astype(np.uint8)
                files.append(f"{name}_{category}{layer}.png")
                Image.fromarray(coded).save(root / "images" / files[-1])
            row[category] = ";".join(files)
        rows.append(row)
    _table(root / "index.csv", rows)
    _table(root / "category.csv", [{"name": category} for category in LABELS])
    _table(
        root / "label.csv",
        [
            {
                "number": number,
                "name": name,
                "category": ";".join(f"{c}(1)" for c, labels in LABELS.items() if name in labels),
            }
            for name, number in numbers.items()
        ],
    )
    for category in ("color", "object", "scene"):  # those of `part` come from label.csv
        _table(
            root / f"c_{category}.csv",
            [
                {"code": code, "number": numbers[name], "name": name}
                for code, name in enumerate(LABELS[category], 1)
            ],
        )


def _table(path: Path, rows: Sequence[dict[str, object]]) -> None:
    with path.open("w", newline="") as target:
        writer = csv.DictWriter(target, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def read_plainly(root: Path) -> tuple[list[str], Shown, dict[str, list[bool]]]:
    """Images, masks by concept, and which images are annotated in which category."""
    with (root / "index.csv").open() as source:
        rows = sorted(csv.DictReader(source), key=lambda row: row["image"])
    with (root / "label.csv").open() as source:
        names = {int(row["number"]): row["name"] for row in csv.DictReader(source)}
    shown: Shown = defaultdict(list)
    annotated = {category: [row[category] != "" for row in rows] for category in LABELS}
    for row in rows:
        size = int(row["sh"]), int(row["sw"])
        for category, labels in LABELS.items():
            layers = []
            for cell in row[category].split(";"):
                if cell.isdecimal():
                    layers.append(np.full(size, int(cell)))
                elif cell:
                    coded = np.asarray(Image.open(root / "images" / cell)).astype(int)
                    layers.append(coded[..., 0] + 256 * coded[..., 1])
            for name in labels:
                here = np.zeros(size, dtype=bool)
                for layer in layers:
                    here |= np.vectorize(lambda n: names.get(n))(layer) == name
                shown[category, name].append(here)
    return [row["image"] for row in rows], shown, annotated


class WholeNumbers(nn.Module):
    """Units are sums of the channels with small whole weights, pooled to a quarter of the pixels.

    Every activation is a multiple of a quarter, which float32 holds exactly.
    """

    def __init__(self, units: int = 6, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.conv = nn.Conv2d(3, units, 1, bias=False)
        weights = torch.randint(-2, 3, (units, 3, 1, 1), generator=generator).float()
        self.conv.weight = nn.Parameter(weights)
        self.pool = nn.AvgPool2d(2)
        self.head = nn.Flatten()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.pool(self.conv(images)))


def levels_of_grey(image: Image.Image) -> Tensor:
    """The picture's numbers as they are."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float()


def target(*layers: str, units: int = 6, seed: int = 0) -> Target:
    """A network of `WholeNumbers`."""
    return Target("whole", WholeNumbers(units, seed), levels_of_grey, layers)


def maps_of(root: Path, images: Sequence[str], units: int = 6, seed: int = 0) -> list[np.ndarray]:
    """Each image's maps at the pooling, `[units, 4, 4]`."""
    network = WholeNumbers(units, seed)
    found = []
    for name in images:
        pixels = levels_of_grey(Image.open(root / "images" / name))
        with torch.no_grad():
            found.append(network.pool(network.conv(pixels[None]))[0].numpy())
    return found


def fired(maps: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]], share: str) -> list[Shown]:
    """Where each unit fires, image by image, in exact fractions."""
    units, height, width = maps[0].shape
    count = max(1, int(Fraction(share) * len(maps) * height * width))
    out = []
    for unit in range(units):
        values = sorted((Fraction(float(v)) for m in maps for v in m[unit].flat), reverse=True)
        level = values[count]
        out.append(
            [
                np.array(
                    [
                        [_between(m[unit], y, x, size) > level for x in range(size[1])]
                        for y in range(size[0])
                    ]
                )
                for m, size in zip(maps, sizes, strict=True)
            ]
        )
    return out  # type: ignore[return-value]


def _between(grid: np.ndarray, y: int, x: int, size: tuple[int, int]) -> Fraction:
    """Bilinear, half-pixel centres, the outermost values going on beyond their centres."""

    def place(at: int, old: int, new: int) -> tuple[int, int, Fraction]:
        exact = Fraction(2 * at + 1, 2) * old / new - Fraction(1, 2)
        exact = min(max(exact, Fraction(0)), Fraction(old - 1))
        low = int(exact)
        return low, min(low + 1, old - 1), exact - low

    top, bottom, down = place(y, grid.shape[0], size[0])
    left, right, across = place(x, grid.shape[1], size[1])
    value = lambda r, c: Fraction(float(grid[r, c]))  # noqa: E731
    upper = value(top, left) * (1 - across) + value(top, right) * across
    lower = value(bottom, left) * (1 - across) + value(bottom, right) * across
    return upper * (1 - down) + lower * down


def iou_of(
    mine: Sequence[np.ndarray], theirs: Sequence[np.ndarray], counted: Sequence[bool]
) -> Fraction:
    """Intersection over union over the counted images."""
    both = sum(int((a & b).sum()) for a, b, c in zip(mine, theirs, counted, strict=True) if c)
    either = sum(int((a | b).sum()) for a, b, c in zip(mine, theirs, counted, strict=True) if c)
    return Fraction(both, either) if either else Fraction(0)
