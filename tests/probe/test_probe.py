"""Probes: what they hold, how they are told apart, and what users get wrong."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import write_colours

from clipdissect import probe
from clipdissect.errors import DissectError, MissingResource
from clipdissect.images.decode import UnreadableImage
from clipdissect.probe import stamps as stamps_function
from clipdissect.probe.photos import boxes


def test_folder_is_searched_at_any_depth_in_order(tmp_path: Path) -> None:
    write_colours(tmp_path / "b", shades=1)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.JPG", format="jpeg")
    (tmp_path / "notes.txt").write_text("no image")
    found = probe.build("folder", root=str(tmp_path))
    assert found.images[0] == "a.JPG"
    assert found.images[1:] == tuple(sorted(found.images[1:]))
    assert len(found) == 7
    assert found.read(0).size == (4, 4)


def test_identity_follows_files_not_the_folders_name(tmp_path: Path) -> None:
    write_colours(tmp_path / "one")
    before = probe.build("folder", root=str(tmp_path / "one")).digest
    (tmp_path / "one").rename(tmp_path / "two")
    assert probe.build("folder", root=str(tmp_path / "two")).digest == before
    os.utime(tmp_path / "two" / "red0.png", ns=(1, 1))
    assert probe.build("folder", root=str(tmp_path / "two")).digest != before


def test_replaced_image_of_other_size_changes_the_identity(tmp_path: Path) -> None:
    write_colours(tmp_path)
    before = probe.build("folder", root=str(tmp_path)).digest
    Image.new("RGB", (90, 90), (1, 2, 3)).save(tmp_path / "red0.png")
    assert probe.build("folder", root=str(tmp_path)).digest != before


def test_missing_folder_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(MissingResource, match=r"probe\.root") as caught:
        probe.build("folder", root=str(tmp_path / "nowhere"))
    assert str(tmp_path / "nowhere") in caught.value.looked


def test_folder_without_images_and_file_as_folder(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DissectError, match="no image files"):
        probe.build("folder", root=str(tmp_path))
    with pytest.raises(DissectError, match="is a file"):
        probe.build("folder", root=str(tmp_path / "notes.txt"))


def test_unknown_names_and_parameters_list_the_valid_ones() -> None:
    with pytest.raises(DissectError, match=r"Did you mean stamps\?.*photos"):
        probe.build("stamp")
    with pytest.raises(DissectError, match=r"parameter of probe folder 'rooot'.*root"):
        probe.build("folder", rooot="x")
    with pytest.raises(DissectError, match="skip or raise"):
        probe.build("photos", on_error="ignore")


def test_dataset_of_pairs_and_of_tensors() -> None:
    images = [(Image.new("L", (5, 5), 40), 3), (Image.new("L", (5, 5), 90), 4)]
    found = probe.resolve(images)
    assert found.images == ("dataset[0]", "dataset[1]")
    assert found.read(1).getpixel((0, 0)) == (90, 90, 90)
    tensors = [torch.full((3, 5, 5), 0.5)]
    assert probe.resolve(tensors).read(0).getpixel((0, 0)) == (128, 128, 128)
    bits = [torch.ones(1, 5, 5, dtype=torch.bool)]
    assert probe.resolve(bits).read(0).getpixel((0, 0)) == (255, 255, 255)


def test_dataset_identity_is_its_pixels() -> None:
    first = [Image.new("RGB", (5, 5), (1, 2, 3))]
    same = [Image.new("RGB", (5, 5), (1, 2, 3))]
    other = [Image.new("RGB", (5, 5), (1, 2, 4))]
    assert probe.dataset(first).digest == probe.dataset(same).digest
    assert probe.dataset(first).digest != probe.dataset(other).digest


@pytest.mark.parametrize(
    ("item", "says"),
    [
        (torch.randn(3, 5, 5) * 3, "normalisation"),
        (torch.zeros(5, 5), r"\[3, height, width\]"),
        ("cat.png", "PIL images"),
        (torch.full((3, 5, 5), 300), r"0\.\.255 \(integers\); got 300"),
        (torch.full((3, 5, 5), -1, dtype=torch.int8), "got -1"),
        (torch.full((3, 5, 5), torch.nan), "got nan"),
    ],
)
def test_dataset_of_something_else(item: object, says: str) -> None:
    with pytest.raises(DissectError, match=says):
        probe.dataset([item])


def test_dataset_item_that_cannot_be_read_is_named() -> None:
    class Broken(list):  # type: ignore[type-arg]
        def __getitem__(self, index: int) -> object:
            raise OSError("gone")

    found = probe.dataset(Broken([1]))
    with pytest.raises(UnreadableImage, match="OSError: gone"):
        found.read(0)


def test_missing_parameter_is_named() -> None:
    with pytest.raises(DissectError, match="probe folder needs its parameter root"):
        probe.build("folder")


def test_a_generator_is_no_probe() -> None:
    with pytest.raises(DissectError, match="generator"):
        probe.resolve(image for image in ())


def test_photos_are_crops_of_packaged_photographs() -> None:
    pytest.importorskip("skimage")
    found = probe.resolve("photos")
    assert len(found) > 300
    assert len(set(found.images)) == len(found)
    assert min(found.read(0).size) >= 96


def test_boxes_lie_inside() -> None:
    for left, top, right, bottom in boxes(300, 200):
        assert 0 <= left < right <= 300
        assert 0 <= top < bottom <= 200
        assert right - left == bottom - top


def test_stamps_fall_back_to_photos_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("skimage")
    module = sys.modules[stamps_function.__module__]
    monkeypatch.setattr(module, "INSIDE", Path("no/such/folder"))
    monkeypatch.setenv("PATH", "")
    found = stamps_function()
    assert found.name == "photos"
    assert "weaker" in found.notes[0]
    with pytest.raises(MissingResource, match="tuxpaint"):
        stamps_function(fallback=False)


def test_broden_reads_the_release_layout(tmp_path: Path) -> None:
    write_colours(tmp_path / "images" / "ade", shades=1)
    Image.new("L", (4, 4)).save(tmp_path / "images" / "ade" / "mask.png")
    (tmp_path / "index.csv").write_text("image,split\nade/red0.png,train\nade/blue0.png,val\n")
    found = probe.build("broden", root=str(tmp_path))
    assert found.images == ("ade/blue0.png", "ade/red0.png")


@pytest.mark.parametrize("name", ["gone.png", "../../outside.png"])
def test_broden_index_must_stay_inside(tmp_path: Path, name: str) -> None:
    write_colours(tmp_path / "b" / "images", shades=1)
    Image.new("L", (4, 4)).save(tmp_path / "outside.png")
    (tmp_path / "b" / "index.csv").write_text(f"image\n{name}\n")
    with pytest.raises(DissectError, match="aren't below"):
        probe.build("broden", root=str(tmp_path / "b"))


def test_broden_without_root_says_what_to_set() -> None:
    with pytest.raises(MissingResource, match=r"set probe\.root"):
        probe.build("broden")
