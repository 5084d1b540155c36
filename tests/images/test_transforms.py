"""Transforms on tensors against the same transforms on PIL images."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import models, transforms
from torchvision.transforms import InterpolationMode, v2

from clipdissect.encoder.conse import whole_image
from clipdissect.images.decode import Picture, decode_picture, fast_jpeg, open_picture, to_pil
from clipdissect.images.transforms import Normalize, ToFloat, _shorter_side, split

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BICUBIC = InterpolationMode.BICUBIC


def apply(transform: Any, picture: Picture) -> torch.Tensor:
    """Apply both parts of a transform to one picture."""
    found = split(transform)
    return found.finish(found.pixels(picture)[None])[0]


def plain(*resize: Any, crop: int = 160) -> transforms.Compose:
    """The usual steps; without normalising, so that differences are in grey levels."""
    return transforms.Compose([*resize, transforms.CenterCrop(crop), transforms.ToTensor()])


def timm_transform(**changes: Any) -> Any:
    from timm.data.transforms_factory import transforms_imagenet_eval

    settings = {"mean": (0, 0, 0), "std": (1, 1, 1), "interpolation": "bicubic", **changes}
    return transforms_imagenet_eval(160, **settings)


def open_clip_transform(**changes: Any) -> Any:
    from open_clip.transform import image_transform

    return image_transform(160, False, mean=(0, 0, 0), std=(1, 1, 1), **changes)


def preset() -> Any:
    return models.ResNet50_Weights.IMAGENET1K_V1.transforms(mean=(0, 0, 0), std=(1, 1, 1))


KNOWN = {
    "bilinear": lambda: plain(transforms.Resize(180)),
    "bicubic": lambda: plain(transforms.Resize(180, BICUBIC)),
    "stretched": lambda: plain(transforms.Resize((190, 170), BICUBIC)),
    "enlarged": lambda: plain(transforms.Resize(400, BICUBIC), crop=384),
    "padded": lambda: plain(transforms.Resize(100), crop=160),
    "max_size": lambda: plain(transforms.Resize(170, max_size=180)),
    "preset": preset,
    "preset, enlarged": lambda: models.ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1.transforms(
        mean=(0, 0, 0), std=(1, 1, 1)
    ),
    "conse": lambda: transforms.Compose(whole_image(200).transforms[:-1]),
    "timm": timm_transform,
    "timm squash": lambda: timm_transform(crop_mode="squash"),
    "timm border": lambda: timm_transform(crop_mode="border"),
    "timm wide": lambda: timm_transform(crop_mode="center", crop_pct=0.9),
    "open_clip": open_clip_transform,
    "open_clip squash": lambda: open_clip_transform(resize_mode="squash"),
    "open_clip longest": lambda: open_clip_transform(resize_mode="longest"),
    "v2 on PIL": lambda: v2.Compose(
        [
            v2.RGB(),
            v2.Resize(180, BICUBIC),
            v2.CenterCrop(160),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    ),
    "v2 on tensors": lambda: v2.Compose(
        [
            v2.ToImage(),
            v2.Resize((180, 300), BICUBIC),
            v2.CenterCrop(160),
            v2.ToDtype(torch.float32, scale=True),
        ]
    ),
    "nested": lambda: transforms.Compose(
        [
            transforms.Compose([transforms.Resize(180)]),
            transforms.PILToTensor(),
            transforms.ConvertImageDtype(torch.float32),
        ]
    ),
}

UNKNOWN = {
    "nearest": plain(transforms.Resize(170, InterpolationMode.NEAREST)),
    "lanczos": plain(transforms.Resize(180, InterpolationMode.LANCZOS)),
    "function": lambda image: transforms.functional.to_tensor(image),
    "grey": transforms.Compose([transforms.Grayscale(), transforms.ToTensor()]),
    "lambda": transforms.Compose([transforms.Lambda(lambda x: x), transforms.ToTensor()]),
    "random": transforms.Compose([transforms.RandomCrop(8), transforms.ToTensor()]),
    "empty": transforms.Compose([]),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The pictures are small, and other programs run beside the tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def files(shared: Path) -> list[Path]:
    """A few photographs, in both orientations."""
    return sorted((shared / "data" / "images" / "imagenet_sample").rglob("*.jpg"))[::125]


@pytest.mark.parametrize("name", KNOWN)
def test_real_photographs_come_out_alike(files: list[Path], name: str) -> None:
    transform = KNOWN[name]()
    assert split(transform).on_tensors
    means = []
    for file in files:
        fast = open_picture(file, "fast")
        assert isinstance(fast, torch.Tensor)
        before = fast.clone()
        expected, found = transform(open_picture(file)), apply(transform, fast)
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        difference = (found - expected).abs() * 255
        assert difference.max() <= 2.01, file.name
        means.append(float(difference.mean()))
        assert torch.equal(fast, before)
    assert np.mean(means) < 0.05


def test_normalising_is_the_same(files: list[Path]) -> None:
    steps = [transforms.CenterCrop(200), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    transform = transforms.Compose(steps)
    found = apply(transform, open_picture(files[0], "fast"))
    assert torch.allclose(found, transform(open_picture(files[0])), atol=2 / 255 / min(STD))
    noise = torch.randint(0, 256, (3, 210, 230), dtype=torch.uint8)
    assert torch.equal(apply(transform, noise), transform(to_pil(noise)))


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_transforms_go_through_pil_and_say_so_once(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    transform = UNKNOWN[name]
    assert not split(transform).on_tensors
    noise = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8)
    if name in ("function", "lambda", "grey"):
        with caplog.at_level(logging.INFO, "clipdissect"):
            for _ in range(3):
                assert torch.equal(apply(transform, noise), transform(to_pil(noise)))
        assert len(caplog.records) == 1


def test_a_transform_that_draws_on_its_image_leaves_the_picture_alone() -> None:
    def draw(image: Image.Image) -> torch.Tensor:
        image.putpixel((0, 0), (255, 0, 0))
        return transforms.functional.to_tensor(image)

    for picture in (Image.new("RGB", (4, 4)), torch.zeros(3, 4, 4, dtype=torch.uint8)):
        assert apply(draw, picture)[0, 0, 0] == 1
        assert np.asarray(to_pil(picture)).sum() == 0


@settings(deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 300), st.none() | st.integers(1, 9))
def test_shapes_are_torchvisions(height: int, width: int, size: int, more: int | None) -> None:
    image = torch.zeros(1, height, width, dtype=torch.uint8)
    max_size = None if more is None else size + more
    found = _shorter_side(height, width, size, max_size)
    assume(min(found) > 0)  # PIL has no images without pixels
    expected = v2.functional.resize(image, [size], max_size=max_size).shape[-2:]
    assert found == list(expected)


def test_odd_jpegs_are_decoded_by_pil(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    for mode, fast in (("RGB", True), ("L", True), ("CMYK", False)):
        image.convert(mode).save(tmp_path / "x.jpg", quality=90)
        data = (tmp_path / "x.jpg").read_bytes()
        assert (fast_jpeg(data) is not None) == fast
        picture = decode_picture(data, "fast")
        difference = np.asarray(to_pil(picture), int) - np.asarray(open_picture(tmp_path / "x.jpg"))
        assert abs(difference).max() <= 2
    image.save(tmp_path / "x.png")
    assert isinstance(open_picture(tmp_path / "x.png", "fast"), Image.Image)


def test_damaged_jpeg_gives_pils_reason(tmp_path: Path) -> None:
    from clipdissect.images.decode import UnreadableImage

    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.jpg")
    data = (tmp_path / "x.jpg").read_bytes()
    (tmp_path / "x.jpg").write_bytes(data[: len(data) // 2])
    reasons = []
    for decode in ("pil", "fast"):
        with pytest.raises(UnreadableImage) as caught:
            open_picture(tmp_path / "x.jpg", decode)
        assert not caught.value.transient
        reasons.append(caught.value.reason)
    assert reasons[0] == reasons[1]
    with pytest.raises(UnreadableImage) as caught:
        open_picture(tmp_path / "gone.jpg", "fast")
    assert caught.value.transient


def torchvision_transforms() -> dict[str, Any]:
    """The distinct evaluation transforms of all classification weights."""
    found = {}
    for name in models.list_models(module=models):
        for weights in models.get_model_weights(name):
            found.setdefault(repr(weights.transforms()), weights.transforms())
    return found


def timm_transforms() -> dict[str, Any]:
    """The distinct evaluation transforms of timm's pretrained networks, up to 400 pixels."""
    import timm
    from timm.data import create_transform, resolve_data_config

    found = {}
    for name in timm.list_pretrained():
        config = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
        if max(config["input_size"]) <= 400:
            kept = {k: config[k] for k in ("input_size", "interpolation", "crop_pct", "crop_mode")}
            found.setdefault(repr(kept), config)
    return {name: create_transform(**config) for name, config in found.items()}


def open_clip_transforms() -> dict[str, Any]:
    """The distinct preprocessing of open_clip's pretrained encoders, up to 400 pixels."""
    from open_clip import get_pretrained_cfg, list_pretrained
    from open_clip.transform import PreprocessCfg, image_transform_v2

    found = {}
    for model, tag in list_pretrained():
        config = get_pretrained_cfg(model, tag)
        kept = {k: config[k] for k in ("mean", "std", "interpolation", "resize_mode") if config[k]}
        for size in (224, 336):
            found.setdefault(repr((size, kept)), PreprocessCfg(size=size, **kept))
    return {name: image_transform_v2(config, is_train=False) for name, config in found.items()}


def pictures() -> list[Image.Image]:
    """Noise of odd sizes, as RGB."""
    draw = np.random.default_rng(0)
    sizes = ((1, 1), (33, 71), (250, 333), (400, 90))
    return [Image.fromarray(draw.integers(0, 256, (*s, 3), dtype=np.uint8)) for s in sizes]


@pytest.mark.parametrize("source", [torchvision_transforms, timm_transforms, open_clip_transforms])
def test_both_parts_together_give_the_bytes_of_the_transform(source: Any) -> None:
    listed = source()
    assert len(listed) > 10
    for number, (name, transform) in enumerate(listed.items()):
        found = split(transform)
        assert found.batch_steps, name
        images = pictures()[number % 2 :: 2]
        pixels = torch.stack([found.pixels(image) for image in images])
        assert pixels.dtype == torch.uint8
        expected = torch.stack([transform(image) for image in images])
        assert torch.equal(found.finish(pixels), expected), name
        # As they come from shared memory: channels last.
        last = pixels.contiguous(memory_format=torch.channels_last)
        assert torch.equal(found.finish(last), expected), name


@pytest.mark.parametrize("name", KNOWN)
def test_tensors_are_finished_as_images_are(files: list[Path], name: str) -> None:
    found = split(KNOWN[name]())
    assert found.batch_steps
    pixels = found.pixels(open_picture(files[0], "fast"))
    assert pixels.dtype == torch.uint8
    last = found.batch_steps[0]
    assert isinstance(last, ToFloat)
    expected = pixels.float().mul(1 / 255) if last.multiplies else pixels.float().div(255)
    for step in found.batch_steps[1:]:
        assert isinstance(step, Normalize)
        expected = transforms.functional.normalize(expected, list(step.mean), list(step.std))
    assert torch.equal(found.finish(pixels[None])[0], expected)
    assert found.finish(expected) is expected  # floats are inputs already


NOT_SPLIT = {
    "lambda": UNKNOWN["lambda"],
    "function": UNKNOWN["function"],
    "resized as floats": transforms.Compose(
        [transforms.ToTensor(), transforms.Resize((20, 30)), transforms.Normalize(MEAN, STD)]
    ),
    "half": v2.Compose([v2.ToImage(), v2.ToDtype(torch.float16, scale=True)]),
    "not scaled": v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32)]),
    "grey to colour": v2.Compose([v2.Grayscale(), v2.RGB(), transforms.ToTensor()]),
}


@pytest.mark.parametrize("name", NOT_SPLIT)
def test_other_transforms_give_their_own_output(name: str) -> None:
    found = split(NOT_SPLIT[name])
    assert not found.batch_steps
    for image in pictures():
        assert torch.equal(found.finish(found.pixels(image)[None])[0], NOT_SPLIT[name](image))


@pytest.mark.parametrize("name", ["nearest", "lanczos", "grey"])
def test_what_only_pil_can_do_is_split_too(name: str) -> None:
    found = split(UNKNOWN[name])
    assert found.batch_steps and not found.on_tensors
    for image in pictures():
        assert torch.equal(found.finish(found.pixels(image)[None])[0], UNKNOWN[name](image))


def test_equal_geometry_is_recognised_across_libraries() -> None:
    weights = models.ResNet50_Weights.IMAGENET1K_V1.transforms()
    spelt = [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()]
    newer = [v2.Resize(256), v2.CenterCrop(224), v2.PILToTensor(), v2.ToDtype(torch.float32, True)]
    same = [weights, transforms.Compose(spelt), v2.Compose([v2.RGB(), *newer])]
    assert len({split(transform).steps for transform in same}) == 1
    for image in pictures():
        first, *others = (split(transform).pixels(image) for transform in same)
        assert all(torch.equal(first, other) for other in others)
    bicubic = transforms.Compose([transforms.Resize(256, BICUBIC), *spelt[1:]])
    assert split(bicubic).steps != split(weights).steps


def test_a_version_that_computes_otherwise_is_not_split(monkeypatch: pytest.MonkeyPatch) -> None:
    transform = plain(transforms.Resize(180))
    assert split(transform).batch_steps
    monkeypatch.setattr(transforms.ToTensor, "__call__", lambda self, image: torch.ones(3, 2, 2))
    assert not split(transform).batch_steps
    assert torch.equal(apply(transform, pictures()[2]), torch.ones(3, 2, 2))


def test_changed_steps_are_seen() -> None:
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    before = apply(transform, pictures()[1])
    transform.transforms[1] = transforms.Normalize((0, 0, 0), (1, 1, 1))
    assert not torch.equal(apply(transform, pictures()[1]), before)
