"""Capture: right numbers, one decode, never stale, and nothing half-written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import ColourEncoder, ColourNet, preprocess, write_colours
from torch import Tensor, nn

from clipdissect import probe
from clipdissect.capture.capture import capture
from clipdissect.capture.features import CapturedFeatures
from clipdissect.capture.pooling import Summary
from clipdissect.capture.settings import Settings
from clipdissect.errors import DissectError
from clipdissect.store import Store
from clipdissect.targets import Target

LAYERS = ("conv", "head")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_colours(tmp_path / "images")
    return tmp_path / "images"


def run(
    images: Path,
    where: Store | None = None,
    model: nn.Module | None = None,
    encoder: ColourEncoder | None = None,
    layers: tuple[str, ...] = LAYERS,
    size: int = 8,
    on_error: str = "skip",
    **settings: object,
) -> CapturedFeatures:
    target = Target("net", model or ColourNet(), preprocess(size), layers)
    found = probe.build("folder", root=str(images), on_error=on_error)
    chosen = Settings(**{"device": "cpu", "workers": 0, **settings})  # type: ignore[arg-type]
    return capture(target, layers, encoder or ColourEncoder(), found, where, chosen)


def test_equals_one_image_at_a_time(images: Path) -> None:
    captured = run(images, batch_size=5)
    model, transform, encoder = ColourNet().eval(), preprocess(8), ColourEncoder()
    for row, name in enumerate(captured.images):
        image = Image.open(images / name).convert("RGB")
        x = transform(image)[None]
        assert torch.allclose(captured.activations["head"][row], model(x)[0], atol=1e-6)
        maps = nn.functional.conv2d(x, model.conv.weight, model.conv.bias)
        assert torch.allclose(captured.activations["conv"][row], maps.mean((2, 3))[0], atol=1e-6)
        embed = encoder.embed_images(encoder.preprocess(image)[None])[0]
        assert torch.allclose(captured.image_embeds[row], embed, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_batches_and_workers_change_nothing(images: Path, batch_size: int) -> None:
    one, other = run(images), run(images, batch_size=batch_size, workers=2)
    assert one.images == other.images
    for layer in LAYERS:
        assert torch.allclose(one.activations[layer], other.activations[layer], atol=1e-6)


def test_second_time_runs_no_network(images: Path, tmp_path: Path) -> None:
    kept, model, encoder = Store(tmp_path / "store"), ColourNet(), ColourEncoder()
    first = run(images, kept, model, encoder)
    calls, seen = model.calls, encoder.images_seen
    second = run(images, kept, model, encoder)
    assert (model.calls, encoder.images_seen) == (calls, seen)
    assert second.computed == ()
    assert second.activations["head"].equal(first.activations["head"])


def test_added_layer_runs_the_target_alone(images: Path, tmp_path: Path) -> None:
    kept, model, encoder = Store(tmp_path / "store"), ColourNet(), ColourEncoder()
    run(images, kept, model, encoder, layers=("conv",))
    seen = encoder.images_seen
    assert run(images, kept, model, encoder).computed == ("head",)
    assert encoder.images_seen == seen


def test_other_encoder_leaves_the_target_alone(images: Path, tmp_path: Path) -> None:
    kept, model = Store(tmp_path / "store"), ColourNet()
    run(images, kept, model)
    calls = model.calls
    run(images, kept, model, ColourEncoder(version="2"))
    assert model.calls == calls


def test_changed_weights_image_preprocess_and_summary_are_computed_anew(
    images: Path, tmp_path: Path
) -> None:
    kept = Store(tmp_path / "store")
    run(images, kept)
    swapped = ColourNet()
    with torch.no_grad():
        swapped.head.weight *= 3
    fresh = run(images, kept, swapped)
    assert set(fresh.computed) == set(LAYERS)
    assert fresh.activations["head"].amax() == pytest.approx(6.0)
    assert set(run(images, kept, size=4).computed) == set(LAYERS)
    # A vector is the same by every summary.
    assert set(run(images, kept, summary=Summary("max")).computed) == {"conv"}
    assert not run(images, kept, summary=Summary("mean")).computed
    Image.new("RGB", (50, 50), (0, 0, 255)).save(images / "red0.png")
    changed = run(images, kept)
    assert len(changed.computed) == 3
    assert changed.activations["head"][changed.images.index("red0.png"), 2] == pytest.approx(2.0)


def test_unreadable_images_are_left_out_and_told(images: Path, tmp_path: Path) -> None:
    (images / "green9.png").write_bytes(b"no image")
    kept = Store(tmp_path / "store")
    for captured in (run(images, kept), run(images, kept)):
        assert list(captured.skipped) == ["green9.png"]
        assert len(captured.images) == len(captured.image_embeds) == 24
        assert len(captured.activations["head"]) == 24
    with pytest.raises(DissectError, match=r"can't read green9\.png"):
        run(images, kept, on_error="raise")
    with pytest.raises(DissectError, match=r"can't read green9\.png"):
        run(images, None, on_error="raise")


def test_passing_trouble_is_not_kept(images: Path, tmp_path: Path) -> None:
    kept = Store(tmp_path / "store")
    found = probe.build("folder", root=str(images))
    (images / "red0.png").rename(tmp_path / "away.png")
    target = Target("net", ColourNet(), preprocess(), LAYERS)
    settings = Settings(device="cpu", workers=0)
    assert capture(target, LAYERS, ColourEncoder(), found, kept, settings).skipped
    (tmp_path / "away.png").rename(images / "red0.png")
    again = capture(target, LAYERS, ColourEncoder(), found, kept, settings)
    assert not again.skipped
    assert len(again.computed) == 3


def test_dataset_with_an_unreadable_item(images: Path) -> None:
    class Data:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> Image.Image:
            if index == 1:
                raise ValueError("broken")
            return Image.new("RGB", (9, 9), (index, 0, 0))

    target = Target("net", ColourNet(), preprocess(), LAYERS)
    settings = Settings(device="cpu", workers=0)
    captured = capture(target, LAYERS, ColourEncoder(), probe.dataset(Data()), None, settings)
    assert captured.skipped == {"dataset[1]": "ValueError: broken"}


def test_transform_that_changes_its_image_spoils_nothing(images: Path) -> None:
    def shrinking(image: Image.Image) -> Tensor:
        image.thumbnail((2, 2))
        image.paste((0, 0, 0), (0, 0, 1, 1))
        return preprocess()(image)

    found = probe.build("folder", root=str(images))
    target = Target("net", ColourNet(), shrinking, LAYERS)
    settings = Settings(device="cpu", workers=0)
    spoiled = capture(target, LAYERS, ColourEncoder(), found, None, settings)
    assert spoiled.image_embeds.equal(run(images).image_embeds)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_networks_of_other_precision(images: Path, dtype: torch.dtype) -> None:
    exact, other = run(images), run(images, model=ColourNet().to(dtype))
    assert torch.allclose(exact.activations["head"], other.activations["head"], atol=0.02)


def test_no_readable_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(DissectError, match="none of the 1 images"):
        run(tmp_path)


def test_non_finite_activation_names_layer_unit_and_image(images: Path) -> None:
    class Broken(ColourNet):
        def forward(self, x: Tensor) -> Tensor:
            out = super().forward(x)
            return self.last(torch.where(out > 1.9, torch.inf, out))

        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Identity()

    with pytest.raises(DissectError, match=r"layer last, unit 2: .* image blue0\.png is inf"):
        run(images, model=Broken(), layers=("last",))


def test_network_is_given_back_as_it_was(images: Path) -> None:
    model = ColourNet().train()
    model.conv.eval()
    run(images, model=model)
    assert model.training
    assert not model.conv.training
    assert not any(module._forward_hooks for module in model.modules())


def test_no_layers_and_repeated_layers(images: Path) -> None:
    with pytest.raises(DissectError, match="for example to some of conv, relu, head"):
        run(images, layers=())
    with pytest.raises(DissectError, match="twice"):
        run(images, layers=("conv", "conv"))


@pytest.mark.parametrize("workers", [0, 2])
def test_images_of_different_shapes(images: Path, workers: int) -> None:
    from torchvision import transforms

    target = Target("net", ColourNet(), transforms.ToTensor(), LAYERS)
    found = probe.build("folder", root=str(images))
    settings = Settings(device="cpu", workers=workers)
    with pytest.raises(DissectError, match=r"^preprocess gave tensors of different shapes"):
        capture(target, LAYERS, ColourEncoder(), found, None, settings)


def test_network_can_be_trained_afterwards(images: Path) -> None:
    model = ColourNet()
    captured = run(images, model=model)
    assert not captured.activations["head"].is_inference()
    model(torch.rand(1, 3, 4, 4)).sum().backward()
    assert model.conv.weight.grad is not None


def test_non_finite_embedding_names_the_image(images: Path) -> None:
    class Broken(ColourEncoder):
        def embed_images(self, batch: Tensor) -> Tensor:
            return super().embed_images(batch) / 0

    with pytest.raises(DissectError, match=r"image embeddings, .*blue0\.png"):
        run(images, encoder=Broken())


@pytest.mark.parametrize(
    "wrong", [{"precision": "fp8"}, {"batch_size": 0}, {"workers": -1}, {"device": "warp"}]
)
def test_wrong_settings(wrong: dict[str, object]) -> None:
    with pytest.raises(DissectError):
        Settings(**wrong)  # type: ignore[arg-type]


def test_bf16_is_close_and_kept_apart(images: Path, tmp_path: Path) -> None:
    kept = Store(tmp_path / "store")
    exact = run(images, kept)
    rough = run(images, kept, precision="bf16")
    assert len(rough.computed) == 3
    assert torch.allclose(exact.activations["head"], rough.activations["head"], atol=0.02)


@pytest.mark.parametrize(
    ("cores", "kept", "expected"),
    [(1, False, 4), (6, False, 12), (64, False, 32), (None, False, 4), (1, True, 8), (2, True, 16)],
)
def test_batches_on_a_processor_grow_with_its_cores(monkeypatch, cores, kept, expected) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    monkeypatch.setattr("clipdissect.capture.settings.can_keep_memory", lambda: kept)
    assert Settings(device="cpu").images_a_batch == expected
    assert Settings(device="cpu", batch_size=7).images_a_batch == 7
