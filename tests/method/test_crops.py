"""Crops of top images: on a network that answers to small squares, and random architectures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from tiny import COLOURS, ColourEncoder, ColourNet, preprocess
from tiny_saes import random_sae
from torch import Tensor, nn
from torchvision import transforms

from clipdissect import concepts, method, probe, similarity, testing
from clipdissect.capture.activations import TopKActivations
from clipdissect.capture.capture import capture
from clipdissect.capture.settings import Settings
from clipdissect.errors import DissectError
from clipdissect.method import Job
from clipdissect.method.crops import Crop, _with_crops, embed_crops, find_crops
from clipdissect.results.describe import shuffled
from clipdissect.similarity import ConceptActivations, top_images
from clipdissect.store import Store
from clipdissect.targets import Target

SETTINGS = Settings(device="cpu", workers=0)
SIZE, SIDE = 64, 8
# Of the three colours a square and its background have, whole images show the background's only.
BACKGROUNDS = {"red": "cyan", "green": "magenta", "blue": "yellow"}
SQUARES = tuple(BACKGROUNDS)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for square, background in BACKGROUNDS.items():
        for copy in range(6):
            picture = Image.new("RGB", (SIZE, SIZE), COLOURS[background])
            row, column = (SIDE * int(i) for i in generator.integers(0, SIZE // SIDE, 2))
            picture.paste(COLOURS[square], (column, row, column + SIDE, row + SIDE))
            picture.save(folder / f"{square}{copy}_{row}_{column}.png")
    return folder


class SquareNet(nn.Module):
    """Maps of 8 x 8 positions that answer to red, green and blue; `fc` has no maps."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(SIDE)
        self.conv = ColourNet().conv
        self.relu = nn.ReLU()
        self.fc = nn.Linear(4, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.relu(self.conv(self.pool(images))).amax((2, 3)))


@dataclass
class CountingEncoder(ColourEncoder):
    """Colours by the mean; counts the images it embeds."""

    version: str = "counting"


def job_of(images: Path, **changes: object) -> Job:
    job = Job(
        target=Target("squares", SquareNet(), preprocess(SIZE), ("relu",)),
        probe=probe.resolve(str(images)),
        concepts=concepts.resolve([*SQUARES, *BACKGROUNDS.values()]),
        encoder=CountingEncoder(),
        similarity=similarity.build("soft_wpmi", top_k=6),
        settings=replace(SETTINGS),
        images=6,
    )
    return replace(job, **changes)  # type: ignore[arg-type]


def test_crops_name_what_whole_images_hide(images: Path) -> None:
    job = job_of(images)
    whole = method.build("clip_dissect").describe(job).descriptions
    assert list(whole["description"][:3]) == list(BACKGROUNDS.values())
    found = method.build("clip_dissect", crops=True).describe(job)
    assert list(found.descriptions["description"][:3]) == list(SQUARES)
    assert (found.descriptions["similarity"] > found.descriptions["null_similarity"])[:3].all()
    assert found.run["method"] == {"name": "clip_dissect", "crops": True}
    counts = found.run["crops"]["layers"]["relu"]
    assert counts["images"] >= 18
    assert found.run["crops"]["distinct"] == counts["distinct"]


def test_the_boxes_are_the_squares(images: Path) -> None:
    job = job_of(images)
    captured = capture(job.target, ("relu",), None, job.probe, None, SETTINGS)
    units = find_crops(job, captured, count=6).layers["relu"]
    for unit, colour in enumerate(SQUARES):
        for slot in units[unit]:
            (crop,) = slot
            name = captured.images[crop.image].removesuffix(".png")
            row, column = (int(part) // SIDE for part in name.split("_")[-2:])
            assert name.startswith(colour)
            assert crop == Crop(crop.image, (row, column, row + 1, column + 1), (8, 8))
            part = crop.of(Image.open(images / f"{name}.png"))
            assert part.size == (SIDE, SIDE)
            assert part.getcolors() == [(SIDE * SIDE, COLOURS[colour])]


def test_boxes_at_the_edges_of_odd_pictures() -> None:
    picture = Image.new("RGB", (10, 3))
    assert Crop(0, (0, 0, 1, 1), (7, 7)).of(picture).size == (1, 1)
    assert Crop(0, (6, 6, 7, 7), (7, 7)).of(picture).size == (2, 1)
    assert Crop(0, (0, 0, 7, 4), (7, 7)).of(picture).size == (6, 3)


def test_layers_without_maps_are_described_by_whole_images(images: Path) -> None:
    job = job_of(images)
    both = replace(job, target=replace(job.target, layers=("fc", "relu")))
    found = method.build("clip_dissect", crops=True).describe(both)
    of_fc = replace(job, target=replace(job.target, layers=("fc",)))
    whole = method.build("clip_dissect").describe(of_fc).descriptions
    assert any("no maps of fc: described by whole images" in note for note in found.run["notes"])
    table = found.descriptions
    assert list(table["description"][:4]) == list(whole["description"])
    np.testing.assert_allclose(table["similarity"][:4], whole["similarity"], rtol=1e-4)
    assert list(table["description"][4:7]) == list(SQUARES)
    # Only whole images: no crops at all.
    alone = method.build("clip_dissect", crops=True).describe(of_fc)
    assert alone.run["crops"]["distinct"] == 0
    assert list(alone.descriptions["description"]) == list(whole["description"])


def test_entries_of_crops_stand_in_place_of_their_image() -> None:
    a, b, c = (Crop(image, (0, 0, 1, 1), (7, 7)) for image in (3, 3, 5))
    b = b._replace(box=(1, 1, 2, 2))
    q = torch.tensor([[1.0], [0], [0], [9], [4], [7], [5]])
    rows = {a: 7, b: 8, c: 9}
    found = _with_crops(q, [[[a, b], [], [c]]], rows, 4, 10)
    assert found.top.indices[:, 0].tolist() == [7, 8, 5, 9]
    assert found.top.values[:, 0].tolist() == [9.0, 9.0, 7.0, 5.0]
    assert found.top.images == 10
    untouched = _with_crops(q, [[[], []]], rows, 4, 10)
    assert torch.equal(untouched.top.indices, top_images(q, 4).indices)
    kept = TopKActivations.of(q, torch.arange(7), 5)
    assert torch.equal(
        _with_crops(kept, [[[a, b]]], rows, 4, 10).top.indices[:2, 0], torch.tensor([7, 8])
    )


def test_the_null_keeps_images_and_crops_apart() -> None:
    embeds = torch.arange(10.0)[:, None]
    found = shuffled(ConceptActivations(embeds, embeds, groups=(6, 4))).image_embeds[:, 0]
    assert sorted(found[:6].tolist()) == [0, 1, 2, 3, 4, 5]
    assert sorted(found[6:].tolist()) == [6, 7, 8, 9]
    assert found.tolist() != list(range(10))


def test_embeddings_of_crops_are_computed_once(images: Path, tmp_path: Path) -> None:
    encoder = CountingEncoder()
    job = job_of(images, encoder=encoder, store=Store(tmp_path / "store"))
    first = method.build("clip_dissect", crops=True).describe(job)
    seen = encoder.images_seen
    again = method.build("clip_dissect", crops=True).describe(job)
    assert encoder.images_seen == seen
    assert list(again.descriptions["description"]) == list(first.descriptions["description"])
    crops = [Crop(0, (0, 0, 4, 4), (8, 8)), Crop(1, (2, 2, 3, 8), (8, 8))]
    pictures = [Image.open(images / job.probe.images[crop.image]) for crop in crops]
    inputs = [encoder.preprocess(crop.of(p)) for crop, p in zip(crops, pictures, strict=True)]
    found, is_new = embed_crops(job, crops)
    torch.testing.assert_close(found, encoder.embed_images(torch.stack(inputs)))
    assert is_new


def test_an_encoder_that_knows_the_labels_knows_those_of_parts() -> None:
    scenes = probe.build("synthetic_broden", images=3, seed=0)
    encoder = testing.LabelEncoder(scenes)
    whole = encoder.embed_regions(list(scenes.images), torch.tensor([[0.0, 0, 1, 1]] * 3))
    pixels = [transforms.ToTensor()(scenes.read(i)) for i in range(3)]
    torch.testing.assert_close(whole, encoder.embed_images(torch.stack(pixels)))
    assert scenes.masks
    shape = next(
        (number, mask)
        for number, mask in scenes.masks.read(0).concepts().items()
        if scenes.masks.concepts[number].category == "shape"
    )
    rows, columns = np.nonzero(shape[1])
    sides = [*shape[1].shape] * 2
    edges = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
    box = torch.tensor([[edge / side for edge, side in zip(edges, sides, strict=True)]])
    part = encoder.embed_regions(scenes.images[:1], box.float())
    column = scenes.masks.texts.index(scenes.masks.concepts[shape[0]].text)
    assert part[0, column] > whole[0, column]


def test_a_real_architecture_and_functions_of_all_images(images: Path) -> None:
    torch.manual_seed(0)
    network = torchvision.models.resnet18()
    target = Target("resnet18", network, preprocess(SIZE), ("layer2", "fc"))
    job = job_of(images, target=target)
    found = method.build("clip_dissect", crops=True).describe(job)
    assert len(found.descriptions) == 128 + 1000
    assert (found.descriptions["description"] != "").mean() > 0.9
    counts = found.run["crops"]["layers"]["layer2"]
    assert counts["whole"] < counts["images"]
    with pytest.raises(DissectError, match="cosine compares all images"):
        method.build("clip_dissect", crops=True).describe(
            replace(job, similarity=similarity.build("cosine"))
        )
    with pytest.raises(DissectError, match="can't be combined"):
        method.build("clip_dissect", crops=True, rerank="encoder")


class Palette:
    """Captions an image by its most frequent colour."""

    name = "palette"

    def captions(self, images: Sequence[Image.Image], count: int) -> list[list[str]]:
        names = {colour: name for name, colour in COLOURS.items()}
        found = (max(image.getcolors())[1] for image in images)
        return [[names[colour]] for colour in found]


def test_captions_of_crops(images: Path) -> None:
    job = job_of(images)
    whole = method.build("captioner", model=Palette()).describe(job)
    assert list(whole.descriptions["description"][:3]) == list(BACKGROUNDS.values())
    assert whole.run["crops"] is None
    found = method.build("captioner", model=Palette(), crops=True).describe(job)
    assert list(found.descriptions["description"][:3]) == list(SQUARES)
    assert found.descriptions["similarity"][:3].tolist() == [1.0, 1.0, 1.0]
    assert found.run["crops"]["layers"]["relu"]["distinct"] >= 18
    of_fc = replace(job, target=replace(job.target, layers=("fc",)))
    table = method.build("captioner", model=Palette(), crops=True).describe(of_fc)
    assert any("no maps of fc" in note for note in table.run["notes"])


def test_crops_of_latents(images: Path) -> None:
    job = job_of(images)
    latents = replace(job, target=job.target.with_sae(random_sae(4, 6)))
    found = method.build("clip_dissect", crops=True).describe(latents)
    counts = found.run["crops"]["layers"]["relu{sae}"]
    assert 0 < counts["crops"] <= 4 * counts["images"]
    assert len(found.descriptions) == 6
    assert {"fires", "density"} <= set(found.descriptions)
    second = CountingEncoder(version="2")
    reranked = method.build("clip_dissect", rerank="encoder", reranker=second)
    assert len(reranked.describe(latents).descriptions) == 6
    simulation = method.build("clip_dissect", rerank="simulation", reranker=second)
    with pytest.raises(DissectError, match="only the top images are used"):
        simulation.describe(latents)


def test_crops_of_a_transformers_patches(images: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    size = {"img_size": SIZE, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
    network = timm.create_model("vit_tiny_patch16_224", pretrained=False, **size)
    target = Target("vit", network, preprocess(SIZE), ("blocks.0",))
    found = method.build("clip_dissect", crops=True).describe(job_of(images, target=target))
    counts = found.run["crops"]["layers"]["blocks.0"]
    assert counts["images"] == 16 * 10 and counts["crops"] > 16
    assert (found.descriptions["description"] != "").all()
