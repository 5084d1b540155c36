"""EXIF orientation: the same pixels from both decoders, whatever is asked for."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from sets import write_tar
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from clipdissect import probe
from clipdissect.errors import DissectError
from clipdissect.images.decode import decode_picture, open_picture, orientation_of, to_pil
from clipdissect.images.transforms import split
from clipdissect.probe.thumbnails import Thumbnails

TAGS = range(1, 9)
IGNORED = (
    "images with an EXIF orientation that isn't applied: {} (set probe.orientation=apply to "
    "turn them upright)"
)
TURNED = "images turned upright by their EXIF orientation: {}"


def corners() -> Image.Image:
    """24 x 16 pixels whose four quarters differ, so that no two turns look alike."""
    image = Image.new("RGB", (24, 16))
    for box, colour in (
        ((0, 0), (250, 0, 0)),
        ((12, 0), (0, 250, 0)),
        ((0, 8), (0, 0, 250)),
        ((12, 8), (250, 250, 250)),
    ):
        image.paste(colour, (*box, box[0] + 12, box[1] + 8))
    return image


def tagged(tag: int | None, kind: str = "jpeg", jfif: bool = False) -> bytes:
    exif = Image.Exif()
    if tag is not None:
        exif[274] = tag
    out = io.BytesIO()
    more: dict[str, Any] = {"quality": 95, "subsampling": 0} if kind == "jpeg" else {}
    if jfif:
        more["icc_profile"] = b"x" * 70_000  # pushes nothing before the EXIF, but the pixels far
    corners().save(out, kind, exif=exif, **more)
    return out.getvalue()


def levels(picture: Image.Image | Tensor) -> Any:
    return np.asarray(to_pil(picture), int)


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("decode", ["pil", "fast"])
def test_applied_orientation_is_what_viewers_show(decode: str, tag: int, kind: str) -> None:
    data = tagged(tag, kind)
    with Image.open(io.BytesIO(data)) as opened:
        expected = ImageOps.exif_transpose(opened).convert("RGB")
    found = decode_picture(data, decode, "apply")
    assert to_pil(found).size == expected.size
    assert np.abs(levels(found) - levels(expected)).max() <= 6
    assert orientation_of(io.BytesIO(data)) == tag


@pytest.mark.parametrize("decode", ["pil", "fast"])
@pytest.mark.parametrize("orientation", ["ignore", "apply"])
def test_no_tag_is_left_for_a_networks_own_transform(decode: str, orientation: str) -> None:
    def turning(image: Image.Image) -> Tensor:
        return pil_to_tensor(ImageOps.exif_transpose(image))

    picture = decode_picture(tagged(6), decode, orientation)
    expected = (3, 24, 16) if orientation == "apply" else (3, 16, 24)
    assert tuple(split(turning).pixels(picture).shape) == expected


def test_odd_tags_leave_the_image_as_it_is(tmp_path: Path) -> None:
    whole = tagged(6)
    place = whole.index(b"Exif\0\0") + 6
    damaged = whole[:place] + b"\xff" * 8 + whole[place + 8 :]
    for data in (tagged(None), tagged(0), tagged(9), damaged):
        assert orientation_of(io.BytesIO(data)) == 1
        for decode in ("pil", "fast"):
            assert levels(decode_picture(data, decode, "apply")).shape == (16, 24, 3)
    for data in (b"", b"\xff\xd8\xff", b"no image"):
        assert orientation_of(io.BytesIO(data)) == 1
    assert orientation_of(tmp_path / "gone.jpg") == 1


def test_header_is_read_past_other_segments() -> None:
    """EXIF that stands behind 60 kB of another segment, as some programs write it."""
    plain, turned = tagged(None), tagged(6)
    start = turned.index(b"\xff\xe1")
    segment = turned[start : start + 2 + int.from_bytes(turned[start + 2 : start + 4], "big")]
    filler = b"\xff\xe2" + (60_000).to_bytes(2, "big") + b"x" * 59_998
    assert orientation_of(io.BytesIO(plain[:2] + filler + segment + plain[2:])) == 6


def test_tiffs_are_turned_by_pillow_and_count_as_upright(tmp_path: Path) -> None:
    (tmp_path / "x.tif").write_bytes(tagged(6, "tiff"))
    assert orientation_of(tmp_path / "x.tif") == 1
    for orientation in ("ignore", "apply"):
        assert to_pil(open_picture(tmp_path / "x.tif", "pil", orientation)).size == (16, 24)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two images that carry a turn, one that is upright and one without a tag."""
    for name, tag in (("a", 6), ("b", None), ("c", 1), ("d", 3)):
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / "set" / f"{name}.jpg").write_bytes(tagged(tag))
    return tmp_path / "set"


def probes(root: Path, **parameters: Any) -> dict[str, probe.Probe]:
    """Those images in each probe that decodes files."""
    (root / "data.tar").unlink(missing_ok=True)
    files = {f"n01440764_{f.name}": f.read_bytes() for f in sorted(root.glob("*.jpg"))}
    write_tar(root / "data.tar", files)
    (root.parent / "val" / "tench").mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (root.parent / "val" / "tench" / name).write_bytes(content)
    return {
        "folder": probe.build("folder", root=str(root), **parameters),
        "imagenet_val": probe.build("imagenet_val", root=str(root.parent), **parameters),
        "webdataset": probe.build("webdataset", shards=str(root / "data.tar"), **parameters),
    }


@pytest.mark.parametrize("decode", ["pil", "fast"])
def test_every_probe_turns_where_asked_and_counts_where_not(root: Path, decode: str) -> None:
    ignored, turned = probes(root, decode=decode), probes(root, decode=decode, orientation="apply")
    for name, found in ignored.items():
        assert to_pil(found.read(0)).size == (24, 16)
        assert to_pil(turned[name].read(0)).size == (16, 24)
        assert found.digest != turned[name].digest
        assert len(set(found.identities or ()) & set(turned[name].identities or ())) == 0
        said = [[note for note in one.notes if "EXIF" in note] for one in (found, turned[name])]
        assert said == [[IGNORED.format(2)], [TURNED.format(2)]]
    first = probe.build("folder", root=str(root), decode=decode, limit=1)
    assert first.notes == (IGNORED.format(1),)


def test_datasets_too_and_their_images_stay_as_they_are(root: Path) -> None:
    given = [Image.open(file) for file in sorted(root.glob("*.jpg"))]
    found = probe.dataset(given)
    assert found.read(0).size == (24, 16)
    assert found.notes == (IGNORED.format(2),)
    turned = probe.dataset(given, orientation="apply")
    assert (turned.read(0).size, turned.read(0).size) == ((16, 24), (16, 24))
    assert turned.notes == (TURNED.format(2),)
    assert turned.digest != found.digest
    assert given[0].getexif()[274] == 6
    with pytest.raises(DissectError, match="ignore or apply"):
        probe.dataset(given, orientation="up")


def test_hf_tables_look_at_headers_alone(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("datasets.features", reason="needs the extra `hf`")
    datasets = sys.modules["datasets"]
    files = sorted(root.glob("*.jpg"))
    features = datasets.Features({"image": datasets.Image()})
    rows = {"image": [{"bytes": f.read_bytes(), "path": None} for f in files]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "t")
    found = probe.build("hf_datasets", path=str(tmp_path / "t"))
    assert found.notes == (IGNORED.format(2),)
    turned = probe.build("hf_datasets", path=str(tmp_path / "t"), orientation="apply")
    assert (to_pil(turned.read(0)).size, turned.notes) == ((16, 24), (TURNED.format(2),))


def test_thumbnails_show_what_the_networks_see(root: Path) -> None:
    for orientation, colour in (("ignore", 0), ("apply", 2)):
        found = probe.build("folder", root=str(root), orientation=orientation)
        file = Thumbnails(found, 8).file("a.jpg")
        assert file is not None
        corner = levels(Image.open(file))[0, 0]
        assert corner.argmax() == colour  # turned by a quarter, the blue corner is at the top left


def test_a_value_that_is_none(root: Path) -> None:
    with pytest.raises(DissectError, match=r"probe\.orientation is 'up'.*ignore or apply"):
        probe.build("folder", root=str(root), orientation="up")
