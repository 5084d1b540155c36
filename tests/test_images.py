"""Image files of every odd kind come out as the RGB a person would see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipdissect.images import UnreadableImage, open_rgb


def pixel(path: Path) -> tuple[int, ...]:
    image = open_rgb(path)
    assert image.mode == "RGB"
    return image.getpixel((0, 0))


@pytest.mark.parametrize(
    ("name", "image", "expected"),
    [
        ("rgb.png", Image.new("RGB", (3, 2), (10, 20, 30)), (10, 20, 30)),
        ("grey.png", Image.new("L", (3, 2), 77), (77, 77, 77)),
        ("bits.png", Image.new("1", (3, 2), 1), (255, 255, 255)),
        ("clear.png", Image.new("RGBA", (3, 2), (9, 9, 9, 0)), (255, 255, 255)),
        ("half.png", Image.new("RGBA", (3, 2), (0, 0, 0, 51)), (204, 204, 204)),
        ("grey_clear.png", Image.new("LA", (3, 2), (0, 0)), (255, 255, 255)),
        ("cmyk.tif", Image.new("CMYK", (3, 2), (0, 255, 255, 0)), (255, 0, 0)),
        ("float.tif", Image.fromarray(np.full((2, 3), 0.5, np.float32)), (128, 128, 128)),
        ("deep.png", Image.fromarray(np.full((2, 3), 257 * 100, np.uint16)), (100, 100, 100)),
        ("deep.tif", Image.fromarray(np.full((2, 3), 65535, np.uint16)), (255, 255, 255)),
    ],
)
def test_kinds(tmp_path: Path, name: str, image: Image.Image, expected: tuple[int, ...]) -> None:
    image.save(tmp_path / name)
    assert pixel(tmp_path / name) == expected


def test_palette_with_transparency_is_put_on_white(tmp_path: Path) -> None:
    image = Image.new("P", (3, 2), 0)
    image.putpalette([200, 0, 0, 0, 200, 0])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "palette.png", transparency=0)
    assert pixel(tmp_path / "palette.png") == (255, 255, 255)
    assert open_rgb(tmp_path / "palette.png").getpixel((1, 0)) == (0, 200, 0)


def test_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), c) for c in ((255, 0, 0), (0, 0, 255))]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert pixel(tmp_path / "moving.gif") == (255, 0, 0)


def test_truncated_file_is_unreadable_for_good(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(UnreadableImage) as caught:
        open_rgb(tmp_path / "cut.jpg")
    assert "truncated" in caught.value.reason
    assert not caught.value.passing


def test_text_called_png_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "lie.png").write_text("not an image")
    with pytest.raises(UnreadableImage) as caught:
        open_rgb(tmp_path / "lie.png")
    assert str(tmp_path) not in caught.value.reason
    assert not caught.value.passing


def test_vanished_file_may_come_back(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage) as caught:
        open_rgb(tmp_path / "gone.png")
    assert caught.value.passing
