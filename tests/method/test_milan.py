"""MILAN on real networks: exemplars, masks and features against slow computations."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from milan_files import write
from PIL import Image
from tiny_saes import random_sae
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models, transforms

from clipdissect import method, probe
from clipdissect.capture.settings import Settings
from clipdissect.errors import DissectError, MissingResource
from clipdissect.images.decode import to_pil
from clipdissect.method import Job
from clipdissect.method.milan import checkpoint, exemplars, features
from clipdissect.method.milan.captions import Decoding, captions
from clipdissect.method.milan.encoder import PyramidEncoder, masked_means
from clipdissect.store import Store
from clipdissect.targets import Target

SIDE, IMAGES = 64, 6


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write(tmp_path_factory.mktemp("milan") / "milan.pth"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Blurred noise: no two images alike, and of other proportions than the input's."""
    root, drawn = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for n in range(IMAGES):
        noise = drawn.integers(0, 256, (5, 7, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((90, 70)).save(root / f"{n:02}.png")
    return root


def network() -> nn.Module:
    torch.manual_seed(0)
    model = models.resnet18(num_classes=20)
    with torch.no_grad():
        model.layer1[1].bn2.weight[5] = model.layer1[1].bn2.bias[5] = 0.0
        model.layer1[0].bn2.weight[5] = model.layer1[0].bn2.bias[5] = 0.0
        model.bn1.weight[5], model.bn1.bias[5] = 0.0, -1.0  # so unit 5 of layer1 is dead
    return model.eval()


@pytest.fixture(scope="module")
def target() -> Target:
    crop = [transforms.Resize(80), transforms.CenterCrop(SIDE), transforms.ToTensor()]
    return Target("resnet18", network(), transforms.Compose(crop), ("layer1", "layer2", "fc"))


@pytest.fixture
def job(tmp_path: Path, folder: Path, target: Target) -> Job:
    images = probe.build("folder", root=str(folder))
    settings = Settings(device="cpu", workers=0, batch_size=5)
    return Job(target, images, settings=settings, store=Store(tmp_path / "store"), top=2)


OPTIONS: dict[str, Any] = {"beam": 3, "length": 6, "images": 3}


def build(path: str, **changes: Any) -> Any:
    return method.build("milan", path=path, **{**OPTIONS, **changes})


def grid_sampled(maps: Tensor, side: int = 224) -> Tensor:
    """The released interpolation: a half-pixel grid in `grid_sample` with zeros outside."""
    height, width = maps.shape[2:]
    pixels = torch.arange(side, dtype=torch.float64)
    places = [
        (pixels - (0.5 * side / cells - 0.5)) / (side / cells) / (cells - 1) * 2 - 1
        for cells in (height, width)
    ]
    rows, columns = torch.meshgrid(*places, indexing="ij")
    grid = torch.stack([columns, rows], -1).expand(len(maps), -1, -1, -1)
    return F.grid_sample(maps.double(), grid, padding_mode="zeros", align_corners=True)


@pytest.mark.parametrize("size", [(7, 7), (5, 8), (28, 28)])
def test_masks_are_those_of_a_zero_padded_grid(size: tuple[int, int]) -> None:
    maps = torch.randn(6, *size)
    for level in (-0.3, 0.0, 0.4):
        expected = grid_sampled(maps[:, None])[:, 0] > level
        found = exemplars.active_pixels(maps, torch.full((6,), level))
        assert (found.bool() != expected).float().mean() < 1e-5
    # Towards the border maps fade to 0: a constant map of 1 is at 0.516 in the outermost row.
    ones = exemplars.active_pixels(torch.ones(1, 7, 7), torch.tensor([0.6]))
    assert ones[0, 0].sum() == 0
    assert ones[0, 16, 16] == 1


def test_masked_means_in_loops() -> None:
    maps = [torch.randn(3, 8, 8), torch.randn(2, 4, 4)]
    masks = (torch.rand(5, 16, 16) > 0.8).float()
    masks[1] = 0
    found = masked_means(maps, masks)
    assert found.shape == (5, 5)
    for n, mask in enumerate(masks):
        expected: list[Tensor] = []
        for values in maps:
            step = 16 // values.shape[1]
            small = torch.zeros(values.shape[1:])
            for y, x in itertools.product(range(len(small)), repeat=2):
                top, left = y * step + step // 2 - 1, x * step + step // 2 - 1
                small[y, x] = mask[top : top + 2, left : left + 2].mean()  # no antialiasing
            total = small.sum() or torch.tensor(1.0)
            expected.append((values * small / total).sum((1, 2)))
        torch.testing.assert_close(found[n], torch.cat(expected))
    assert (found[1] == 0).all()


def slow_captions(job: Job, path: str, layer: str, unit: int) -> tuple[str, float]:
    """One unit, image by image and with the released order of steps."""
    assert job.target is not None
    assert job.probe is not None
    squeeze = transforms.Compose([transforms.Resize([SIDE, SIDE]), transforms.ToTensor()])
    inputs = [squeeze(to_pil(job.probe.read(i))) for i in range(IMAGES)]
    outputs: list[Tensor] = []
    hook = job.target.model.get_submodule(layer).register_forward_hook(
        lambda *arguments: outputs.append(arguments[2][0].clone())
    )
    with torch.no_grad():
        for image in inputs:
            job.target.model(image[None])
    hook.remove()
    maps = [output[unit] for output in outputs]
    peaks = torch.stack([values.max() for values in maps])
    positions = torch.stack(maps).flatten().sort(descending=True).values
    level = positions[max(1, int(0.01 * len(positions)))]
    model = checkpoint.load(Path(path))
    rows = []
    for image in peaks.argsort(descending=True)[:3].tolist():
        mask = torch.ones(1, 224, 224)
        if maps[image].ndim:
            mask = (grid_sampled(maps[image][None, None])[0] > level).float()
        picture = (F.interpolate(inputs[image][None], (224, 224)) * 255).round().to(torch.uint8)
        with torch.no_grad():
            rows.append(masked_means([m[0] for m in model.encoder(picture)], mask)[0])
    decoding = Decoding(beam=3, length=6)
    present = torch.ones(1, len(rows), dtype=torch.bool)
    ((texts, scores),) = captions(model, torch.stack(rows)[None], present, decoding)
    return texts[0], scores[0]


def test_descriptions_against_a_slow_computation(job: Job, path: str) -> None:
    result = build(path).describe(job)
    table = result.descriptions.set_index(["layer", "unit"])
    assert len(table) == 64 + 128 + 20
    for layer, unit in (("layer1", 7), ("layer2", 3), ("fc", 11)):
        text, score = slow_captions(job, path, layer, unit)
        assert table.loc[(layer, unit), "description"] == text
        assert table.loc[(layer, unit), "similarity"] == pytest.approx(score, abs=1e-3)
    dead = table.loc[("layer1", 5)]
    assert (dead["description"], dead["unit_flags"]) == ("", ("dead",))
    assert np.isnan(dead["similarity"])
    assert (table["margin"].dropna() >= 0).all()
    assert set(result.top_images["layer"]) == {"layer1", "layer2", "fc"}
    assert result.run["method"]["checkpoint"]["encoder"] == "resnet18"
    assert result.run["digests"]["milan"] == checkpoint.load(Path(path)).digest
    assert set(result.run["seconds"]) == {"load", "levels", "maps", "encoder", "decoder"}
    json.dumps(result.run)


def test_each_picture_is_encoded_once(job: Job, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    forward = PyramidEncoder.forward

    def counted(self: PyramidEncoder, images: Tensor) -> list[Tensor]:
        seen.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(PyramidEncoder, "forward", counted)
    assert job.target is not None
    job = replace(job, target=replace(job.target, layers=("layer1", "fc")))
    whole = build(path).describe(job).descriptions
    assert sum(seen) <= IMAGES
    # Little memory: a few units after the other, with the same descriptions.
    parts = build(path, memory=50 * 3 * 1024 * 4 / 1e9).describe(job).descriptions  # 50 units
    assert sum(seen) > 2 * IMAGES
    assert list(parts["description"]) == list(whole["description"])
    np.testing.assert_allclose(parts["similarity"], whole["similarity"], atol=1e-4)


def test_tokens_of_a_transformer(job: Job, path: str) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    size = {"img_size": SIDE, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 3}
    vit = timm.create_model("vit_tiny_patch16_224", pretrained=False, **size).eval()
    assert job.target is not None
    target = Target("vit", vit, job.target.preprocess, ("blocks.1", "head"))
    table = build(path, beam=12).describe(replace(job, target=target)).descriptions
    assert len(table) == 27
    assert (table["description"] != "").all()
    assert table["threshold"].nunique() == 27


def test_latents_are_described_where_they_fire(job: Job, path: str) -> None:
    assert job.target is not None
    latents = replace(job.target, layers=("layer2",)).with_sae(random_sae(128, 30, bias=-1.2))
    result = build(path).describe(replace(job, target=latents))
    table = result.descriptions
    dead = [tuple(flags) == ("dead",) for flags in table["unit_flags"]]
    assert 0 < sum(dead) < 30
    assert [text == "" for text in table["description"]] == dead


def write_exemplars(root: Path, layer: str, images: Any, masks: Any, units: Any = None) -> Path:
    (root / layer).mkdir(parents=True, exist_ok=True)
    np.save(root / layer / "images.npy", images)
    np.save(root / layer / "masks.npy", masks)
    if units is not None:
        np.save(root / layer / "units.npy", units)
    return root


def test_exemplars_in_milans_files(path: str, tmp_path: Path) -> None:
    drawn = np.random.default_rng(0)
    images = drawn.integers(0, 256, (3, 4, 3, 224, 224), dtype=np.uint8)
    images[1] = images[0]  # units that share pictures
    masks = drawn.random((3, 4, 1, 224, 224)) > 0.5
    root = write_exemplars(tmp_path / "exemplars", "layer3", images, masks, np.array([4, 2, 9]))
    result = build(path, exemplars=str(root)).describe(Job())
    table = result.descriptions
    assert list(table["unit"]) == [4, 2, 9]
    assert set(table["layer"]) == {"layer3"}
    model, rows = checkpoint.load(Path(path)), []
    with torch.no_grad():
        for picture, mask in zip(images[1], masks[1], strict=True):
            maps = model.encoder(torch.from_numpy(picture)[None])
            rows.append(masked_means([m[0] for m in maps], torch.from_numpy(mask).float())[0])
    present = torch.ones(1, len(rows), dtype=torch.bool)
    decoding = Decoding(beam=3, length=6)
    ((texts, scores),) = captions(model, torch.stack(rows)[None], present, decoding)
    assert table["description"][1] == texts[0]
    assert table["similarity"][1] == pytest.approx(scores[0], abs=1e-3)
    assert method.build("milan", path=path, exemplars=str(root)).needs == ()


def test_strategies_and_a_checkpoint_without_a_language_model(path: str, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (1, 2, 3, 32, 32), dtype=np.uint8)
    root = write_exemplars(tmp_path / "exemplars", "fc", images, np.ones((1, 2, 1, 32, 32)))
    results = {
        strategy: build(path, strategy=strategy, exemplars=str(root)).describe(Job())
        for strategy in ("rerank", "mi", "beam")
    }
    scores = {name: float(result.descriptions["similarity"][0]) for name, result in results.items()}
    assert scores["rerank"] > scores["beam"]  # the language model's log p is below 0
    assert scores["mi"] > scores["beam"]
    other = str(write(tmp_path / "no_lm.pth", lm=False))
    result = build(other, exemplars=str(root)).describe(Job())
    assert float(result.descriptions["similarity"][0]) == pytest.approx(scores["beam"], abs=1e-5)
    assert any("no language model" in note for note in result.run["notes"])
    assert results["beam"].run["notes"] == []


def test_files_that_will_not_do(path: str, tmp_path: Path) -> None:
    describe = lambda root: build(path, exemplars=str(root)).describe(Job())  # noqa: E731
    with pytest.raises(MissingResource, match=r"method\.exemplars"):
        describe(tmp_path / "none")
    image, mask = np.zeros((1, 2, 3, 8, 8), dtype=np.uint8), np.zeros((1, 2, 1, 8, 8))
    for name, arrays, says in (
        ("type", (image.astype(float), mask), "must be uint8"),
        ("counts", (image, mask[:, :1]), "must be uint8"),
        ("shape", (image[0], mask), "not .units, exemplars, 3"),
        ("units", (image, mask, np.zeros(2, dtype=int)), "not 1 whole numbers"),
        ("objects", (np.array([None]), mask), "can't be read as an array"),
    ):
        with pytest.raises(DissectError, match=says):
            describe(write_exemplars(tmp_path / name, "layer", *arrays))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"strategy": "greedy"}, "it can be rerank or mi or beam"),
        ({"beam": 0}, r"method\.beam is 0"),
        ({"images": 0}, r"method\.images is 0"),
        ({"lam": -0.1}, r"method\.lam is -0\.1"),
        ({"temperature": 0.0}, r"method\.temperature is 0\.0"),
        ({"memory": 0.0}, r"method\.memory is 0\.0"),
    ],
)
def test_wrong_values(path: str, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(DissectError, match=says):
        build(path, **changes)


def test_missing_inputs(path: str) -> None:
    with pytest.raises(DissectError, match="method milan needs: target, probe"):
        build(path).describe(Job())
    assert build(path).requires == ("milan",)


def test_features_of_absent_exemplars_are_zero(path: str) -> None:
    encoder = checkpoint.load(Path(path)).encoder
    layer = exemplars.MapExemplars(torch.tensor([[0, -1], [1, 0]]), torch.zeros(2))
    for number in (0, 1):
        layer.put(number, torch.ones(2, 4, 4))
    images = torch.randint(256, (2, 3, 224, 224), dtype=torch.uint8)
    pictures = iter([(torch.tensor([0, 1]), images)])
    (found,) = features.exemplar_features(encoder, [layer], pictures)
    assert (found[0, 1] == 0).all()
    torch.testing.assert_close(found[0, 0], found[1, 1])
    assert not torch.allclose(found[1, 0], found[1, 1])
