"""Probes from lists of files, arrays, datasets that know their files, and DataLoaders."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torchvision import transforms
from torchvision.datasets import ImageFolder

from clipdissect import probe
from clipdissect.errors import DissectError, MissingResource

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 9, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images as `cat/0.png` to `dog/5.png`."""
    root = tmp_path_factory.mktemp("photos")
    for number, pixels in enumerate(PIXELS):
        folder = root / ("cat" if number < 3 else "dog")
        folder.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def pixels_of(found: probe.Probe, index: int) -> Any:
    return np.asarray(found.read(index)).tolist()


def test_a_list_of_files_keeps_its_order(photos: Path) -> None:
    found = probe.resolve([photos / "dog/4.png", str(photos / "cat/1.png")])
    assert found.images == ("dog/4.png", "cat/1.png")
    assert found.path(1) == photos / "cat/1.png"
    assert pixels_of(found, 0) == PIXELS[4].tolist()


def test_the_files_of_a_folder_share_its_cached_features(photos: Path) -> None:
    whole = probe.resolve(photos)
    assert probe.resolve(sorted(photos.rglob("*.png"))).digest == whole.digest
    assert probe.resolve(sorted(photos.rglob("*.png"))[::-1]).digest != whole.digest


def test_relative_files(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos / "cat")
    assert probe.resolve(["0.png", "../dog/3.png"]).images == ("cat/0.png", "dog/3.png")
    assert probe.resolve(["0.png"]).images == ("0.png",)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["cat/0.png", "cat/0.png"], "has two images named 0.png"),
        (["cat/0.png", "cat"], "cat is a folder: pass it alone"),
    ],
)
def test_wrong_lists_of_files(photos: Path, names: list[str], says: str) -> None:
    with pytest.raises(DissectError, match=says):
        probe.resolve([photos / name for name in names])


def test_lists_that_hold_no_or_missing_files(photos: Path) -> None:
    with pytest.raises(MissingResource, match=r"an image of the probe\n.*none\.png"):
        probe.resolve([photos / "none.png"])
    with pytest.raises(DissectError, match="must hold paths alone; got 3"):
        probe.resolve([photos / "cat/0.png", 3])
    with pytest.raises(DissectError, match="must hold paths alone; got ''"):
        probe.resolve([""])


@pytest.mark.parametrize(
    "array",
    [
        PIXELS,
        PIXELS.transpose(0, 3, 1, 2),
        torch.from_numpy(PIXELS),
        torch.from_numpy(PIXELS).permute(0, 3, 1, 2) / 255,
        (PIXELS / 255).astype(">f8"),
        PIXELS.astype(np.uint16),
        list(PIXELS),
        [Image.fromarray(pixels) for pixels in PIXELS],
    ],
)
def test_arrays_of_any_layout_and_type_are_the_same_images(array: Any) -> None:
    found = probe.resolve(array)
    assert found.digest == probe.dataset([Image.fromarray(pixels) for pixels in PIXELS]).digest
    assert pixels_of(found, 5) == PIXELS[5].tolist()


def test_names_and_turned_arrays() -> None:
    found = probe.resolve(PIXELS[:2, ::-1])
    assert found.images == ("array[0]", "array[1]")
    assert pixels_of(found, 1) == PIXELS[1, ::-1].tolist()
    grey = probe.resolve(np.full((1, 4, 5, 1), 7, dtype=np.uint8))
    assert pixels_of(grey, 0)[0][0] == [7, 7, 7]


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (PIXELS[0], "must be [images, h, w, 3] or [images, 3, h, w] (1 for grey); got [8, 9, 3]"),
        (np.zeros((2, 3, 4, 3)), "got [2, 3, 4, 3]"),  # either axis may be the channels
        (np.zeros((0, 4, 4, 3)), "got [0, 4, 4, 3]"),
        (np.array(["a"]), "must be of numbers, such as uint8; got <U1"),
        (PIXELS.astype(np.float32), "must lie in 0..1 (floats) or 0..255 (integers); got 0..255"),
        (PIXELS.astype(np.int16) - 128, "got -128..127. Leave normalisation out"),
        ([np.zeros((2, 2, 2, 2))], "must be [h, w, 3] or [3, h, w] (1 for grey)"),
    ],
)
def test_wrong_arrays(array: Any, says: str) -> None:
    with pytest.raises(DissectError, match=re.escape(says)):
        probe.resolve(array)


def test_a_dataset_keeps_its_file_names(photos: Path) -> None:
    data = ImageFolder(photos)
    whole = probe.resolve(data)
    assert whole.images[2:4] == ("cat/2.png", "dog/3.png")
    assert whole.path(3) == photos / "dog/3.png"
    assert whole.labels == ("cat",) * 3 + ("dog",) * 3
    part = probe.resolve(Subset(Subset(data, [5, 0, 3]), [2, 0]))
    assert part.images == ("dog/3.png", "dog/5.png")
    assert part.labels == ("dog", "dog")
    assert pixels_of(part, 0) == PIXELS[3].tolist()
    joined = probe.resolve(ConcatDataset([Subset(data, [4]), Subset(data, [1])]))
    assert joined.images == ("dog/4.png", "cat/1.png")


def test_names_of_datasets_in_which_files_repeat_or_are_unknown(photos: Path) -> None:
    data = ImageFolder(photos)
    for repeated in (Subset(data, [1, 1]), ConcatDataset([data, data])):
        assert probe.resolve(repeated).images[:2] == ("dataset[0]", "dataset[1]")
    mixed = ConcatDataset([Subset(data, [0]), [Image.fromarray(PIXELS[1])]])  # type: ignore[list-item]
    assert probe.resolve(mixed).images == ("dataset[0]", "dataset[1]")


def test_a_datasets_own_transform(photos: Path) -> None:
    plain, to_tensor = ImageFolder(photos), transforms.ToTensor()
    found = probe.resolve(ImageFolder(photos, to_tensor))
    assert found.digest == probe.resolve(plain).digest
    assert found.images[0] == "cat/0.png"
    normalised = transforms.Compose([to_tensor, transforms.Normalize([0.5] * 3, [0.5] * 3)])
    with pytest.raises(DissectError, match="Leave normalisation out of the dataset"):
        probe.resolve(ImageFolder(photos, normalised))
    torch.manual_seed(0)
    with pytest.raises(DissectError, match="gives another image at each access"):
        probe.resolve(ImageFolder(photos, transforms.RandomResizedCrop(6)))


def test_a_loader_stands_for_its_dataset(photos: Path) -> None:
    data = ImageFolder(photos)
    whole = probe.resolve(data)
    for options in ({"shuffle": True}, {"batch_size": None}, {"batch_size": 4, "drop_last": True}):
        loader: DataLoader[Any] = DataLoader(data, **options)  # type: ignore[arg-type]
        assert probe.resolve(loader).images == whole.images
        assert probe.resolve(loader).digest == whole.digest
    some = SubsetRandomSampler([4, 1])
    for options in ({"sampler": some}, {"batch_sampler": BatchSampler(some, 2, True)}):
        loader = DataLoader(data, **options)  # type: ignore[arg-type]
        assert probe.resolve(loader).images == ("cat/1.png", "dog/4.png")


def test_loaders_that_choose_images(photos: Path) -> None:
    data = ImageFolder(photos)
    for sampler in (
        WeightedRandomSampler([1.0] * 6, 6),
        RandomSampler(data, replacement=True),
        RandomSampler(data, num_samples=2),
    ):
        with pytest.raises(DissectError, match=f"{type(sampler).__name__} chooses which images"):
            probe.resolve(DataLoader(data, sampler=sampler))
    with pytest.raises(DissectError, match="the DataLoader's list chooses"):
        probe.resolve(DataLoader(data, batch_sampler=[[0, 1], [0, 2]]))


class Stream(IterableDataset[Any]):
    """Images in a stream."""

    def __iter__(self) -> Iterator[Image.Image]:
        yield Image.new("RGB", (4, 4))

    def __len__(self) -> int:
        return 1


def test_streams_are_refused_with_the_reason() -> None:
    for source in (Stream(), DataLoader(Stream())):
        with pytest.raises(DissectError, match="Stream is an iterable-style dataset, of which"):
            probe.resolve(source)


def test_a_word_that_is_no_probe_names_the_closest() -> None:
    with pytest.raises(DissectError, match=r"probe or image folder 'stamp'\. Did you mean stamps"):
        probe.resolve("stamp")
