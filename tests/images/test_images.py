"""Image files of every odd kind come out as the RGB a person would see."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipdissect.images.decode import UnreadableImage, open_rgb


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
        ("dark.png", Image.fromarray(np.full((2, 3), 200, np.uint16)), (1, 1, 1)),
        ("dark.tif", Image.fromarray(np.full((2, 3), 200, np.uint16)), (1, 1, 1)),
        # 32-bit files don't say their full scale: the first of 255, 65,535 and the largest integer.
        ("int.tif", Image.fromarray(np.full((2, 3), 200, np.int32)), (200, 200, 200)),
        ("int16.tif", Image.fromarray(np.full((2, 3), 257 * 90, np.int32)), (90, 90, 90)),
        ("int32.tif", Image.fromarray(np.full((2, 3), 2**30, np.int32)), (128, 128, 128)),
        ("minus.tif", Image.fromarray(np.full((2, 3), -5, np.int32)), (0, 0, 0)),
        ("float8.tif", Image.fromarray(np.full((2, 3), 200, np.float32)), (200, 200, 200)),
        ("float16.tif", Image.fromarray(np.full((2, 3), 257 * 90, np.float32)), (90, 90, 90)),
        ("minus_float.tif", Image.fromarray(np.full((2, 3), -0.5, np.float32)), (0, 0, 0)),
        ("grey_pal.gif", Image.new("P", (3, 2), 0), (0, 0, 0)),
    ],
)
def test_kinds(tmp_path: Path, name: str, image: Image.Image, expected: tuple[int, ...]) -> None:
    image.save(tmp_path / name)
    assert pixel(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("sample_format", "levels"), [(1, [[255, 0], [127, 128]]), (2, [[0, 0], [255, 0]])]
)
def test_32_bit_integers_with_and_without_sign(
    tmp_path: Path, sample_format: int, levels: list[list[int]]
) -> None:
    """Pillow reads unsigned ones as signed; values of the upper half are bright all the same."""
    values = struct.pack("<4I", 2**32 - 1, 0, 2**31 - 1, 2**31)
    tags = [
        (256, 2),
        (257, 2),
        (258, 32),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, 2),
        (279, 16),
        (339, sample_format),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    listed = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    (tmp_path / "x.tif").write_bytes(b"II*\0" + struct.pack("<I", 24) + values + listed)
    assert np.asarray(open_rgb(tmp_path / "x.tif"))[..., 0].tolist() == levels


def test_floats_that_are_no_numbers(tmp_path: Path) -> None:
    values = np.array([[np.nan, np.inf], [-np.inf, 0.5]], np.float32)
    Image.fromarray(values).save(tmp_path / "x.tif")
    assert np.asarray(open_rgb(tmp_path / "x.tif"))[..., 0].tolist() == [[0, 255], [0, 128]]


@pytest.mark.parametrize("value", [200, 200 * 257])
def test_16_bit_greys_of_other_formats(tmp_path: Path, value: int) -> None:
    """PGMs say their full scale in the header, and Pillow stretches them to 65,535."""
    rows = np.full((2, 3), value, ">u2").tobytes()
    (tmp_path / "x.pgm").write_bytes(b"P5 3 2 65535\n" + rows)
    assert pixel(tmp_path / "x.pgm") == (round(value / 257),) * 3
    (tmp_path / "y.pgm").write_bytes(b"P5 3 2 4095\n" + np.full((2, 3), 2048, ">u2").tobytes())
    assert pixel(tmp_path / "y.pgm") == (128, 128, 128)


def test_16_bit_colours(tmp_path: Path) -> None:
    rows = b"".join(
        b"\0" + np.array([257 * 200, 257 * 100, 255] * 3, ">u2").tobytes() for _ in range(2)
    )
    (tmp_path / "x.png").write_bytes(png(3, 2, 16, 2, rows))
    assert pixel(tmp_path / "x.png") == (200, 100, 0)


@pytest.mark.parametrize(
    ("bits", "rows", "level"), [(1, b"\xe0", 255), (2, b"\x54", 85), (4, b"\x66\x60", 102)]
)
def test_greys_of_few_bits(tmp_path: Path, bits: int, rows: bytes, level: int) -> None:
    (tmp_path / "x.png").write_bytes(png(3, 2, bits, 0, (b"\0" + rows) * 2))
    assert pixel(tmp_path / "x.png") == (level,) * 3


def png(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    """A PNG of the given filtered rows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


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
    assert not caught.value.transient


def test_text_called_png_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "lie.png").write_text("not an image")
    with pytest.raises(UnreadableImage) as caught:
        open_rgb(tmp_path / "lie.png")
    assert str(tmp_path) not in caught.value.reason
    assert not caught.value.transient


def test_vanished_file_may_come_back(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage) as caught:
        open_rgb(tmp_path / "gone.png")
    assert caught.value.transient
