"""Latents as units: encoded per token, reduced at once, never described by silent images."""

from __future__ import annotations

import logging
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from tiny import ColourEncoder, ColourNet, preprocess, write_colours
from tiny_saes import Linear, random_sae, sae
from torch import Tensor, nn
from torchvision.models import SwinTransformer, resnet18

from clipdissect import probe
from clipdissect.capture import latents
from clipdissect.capture.activations import Firing, TopKActivations, without_silent
from clipdissect.capture.capture import capture
from clipdissect.capture.features import CapturedFeatures
from clipdissect.capture.latents import images_a_shard
from clipdissect.capture.pooling import Summary
from clipdissect.capture.settings import Settings
from clipdissect.capture.writers import _TopK
from clipdissect.errors import DissectError
from clipdissect.sae import Sae
from clipdissect.similarity.inputs import TopActivations
from clipdissect.store import Store
from clipdissect.targets import Target
from clipdissect.targets.preprocess import image_transform

CPU: dict[str, Any] = {"device": "cpu", "workers": 0}
SIZE = 96


def vit(name: str) -> nn.Module:
    network: nn.Module = timm.create_model(name, img_size=SIZE, depth=2)
    return network


def swin() -> nn.Module:
    heads = [1, 2, 4, 8]
    return SwinTransformer([4, 4], 24, depths=[1, 1, 1, 1], num_heads=heads, window_size=[7, 7])


# Image network, layer, its units, and how its output [images, ...] becomes [images, tokens, units].
NETWORKS: dict[str, tuple[Any, str, int, Any]] = {
    "vit": (lambda: vit("vit_tiny_patch16_224"), "blocks.1", 192, lambda x: x[:, 1:]),
    "dinov3 with registers": (
        lambda: vit("vit_small_patch16_dinov3"),
        "blocks.1",
        384,
        lambda x: x[:, 5:],
    ),
    "cnn": (resnet18, "layer4", 512, lambda x: x.flatten(2).mT),
    "swin": (swin, "features.7", 192, lambda x: x.flatten(1, 2)),
    "vector": (resnet18, "fc", 1000, lambda x: x[:, None]),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    drawn = torch.Generator().manual_seed(1)
    for n in range(6):
        pixels = torch.randint(0, 256, (7, 9, 3), generator=drawn, dtype=torch.uint8).numpy()
        picture = Image.fromarray(pixels).resize((260, 240), Image.Resampling.BICUBIC)
        picture.save(folder / f"{n}.png")
    return folder


def run(
    target: Target, images: Path, store: Store | None = None, top_k: int = 0, **settings: Any
) -> CapturedFeatures:
    options = Settings(**{**CPU, **settings})
    found = probe.build("folder", root=str(images))
    return capture(target, target.layers, None, found, store, options, top_k=top_k)


def output_of(target: Target, layer: str, images: Path) -> Tensor:
    """Return a layer's output on all images, one after the other."""
    outputs: list[Tensor] = []
    handle = target.model.get_submodule(layer).register_forward_hook(
        lambda module, inputs, output: outputs.append(output.clone())
    )
    with torch.no_grad():
        for path in sorted(images.iterdir()):
            target.model(target.preprocess(Image.open(path).convert("RGB"))[None])
    handle.remove()
    return torch.cat(outputs)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("vit", "mean"), ("vit", "count"), ("cnn", "count"), *((name, "auto") for name in NETWORKS)],
)
def test_equals_tokens_encoded_one_by_one(name: str, kind: str, photos: Path) -> None:
    build, layer, units, as_tokens = NETWORKS[name]
    torch.manual_seed(0)
    network = build().eval()
    autoencoder = random_sae(units, 300, k=16)
    plain = Target(name, network, image_transform(SIZE), (layer,))
    target = plain.with_sae(autoencoder)
    captured = run(target, photos, keep="full", summary=Summary(kind))
    (label,) = target.layers
    assert label == f"{layer}{{sae}}"

    tokens = as_tokens(output_of(plain, layer, photos))
    expected = []
    for image in tokens:
        codes = torch.stack([autoencoder.encode(token) for token in image]).detach()
        fires = (codes > 0).float().mean(0)
        expected.append({"auto": codes.amax(0), "mean": codes.mean(0), "count": fires}[kind])
    values = torch.stack(expected)
    found = captured.activations[label]
    assert isinstance(found, Tensor)
    # Rounding may exchange two codes that are almost equal, where only the largest are kept.
    differing = ~torch.isclose(found, values, atol=1e-4, rtol=1e-3)
    assert differing.float().mean() < 2e-3
    assert captured.firing[label].total == len(values)


def test_class_tokens(photos: Path) -> None:
    network = vit("vit_tiny_patch16_224").eval()
    plain = Target("vit", network, image_transform(SIZE), ("blocks.1",))
    autoencoder = random_sae(192, 50)
    expected = autoencoder.encode(output_of(plain, "blocks.1", photos)[:, 0]).detach()
    for trained_on, kind in (("max", "cls"), ("cls", "auto")):
        target = plain.with_sae(replace(autoencoder, summary=trained_on))
        captured = run(target, photos, keep="full", summary=Summary(kind))
        assert torch.allclose(captured.activations["blocks.1{sae}"], expected, atol=1e-4)


def colours(tmp_path: Path) -> Path:
    write_colours(tmp_path / "images")
    return tmp_path / "images"


def colour_target(autoencoder: Sae, *layers: str) -> Target:
    return Target("net", ColourNet(), preprocess(), layers or ("conv",)).with_sae(autoencoder)


def red_detectors() -> Sae:
    """Return latents that fire on red of some brightness: on 4, 3, 1 and 0 images; and always."""
    weight = torch.zeros(4, 5)
    weight[0, :4] = 1.0  # conv unit 0 is the shade of red: 1, 0.9, 0.8, 0.7
    return sae(weight, torch.tensor([-0.5, -0.75, -0.95, -2.0, 0.25]))


@pytest.mark.parametrize("keep", ["auto", "full"])
def test_firing_is_counted(keep: str, tmp_path: Path) -> None:
    target = colour_target(red_detectors())
    captured = run(target, colours(tmp_path), keep=keep, shard=5)
    firing = captured.firing["conv{sae}"]
    assert firing.images.tolist() == [4, 3, 1, 0, 24]
    assert firing.density.tolist() == pytest.approx([4 / 24, 3 / 24, 1 / 24, 0, 1])
    assert firing.total == 24


def test_density_is_of_tokens(tmp_path: Path) -> None:
    """Half of an image is red, so its latent fires on half of the tokens of one image in two."""
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (8, 8), "blue").save(images / "a.png")
    half = Image.new("RGB", (8, 8), "blue")
    half.paste((255, 0, 0), (0, 0, 4, 8))
    half.save(images / "b.png")
    captured = run(colour_target(red_detectors()), images)
    firing = captured.firing["conv{sae}"]
    assert firing.images[:1].tolist() == [1]
    assert firing.density[:1].tolist() == [0.25]


def test_latents_keep_top_images_and_other_layers_all(tmp_path: Path) -> None:
    target = colour_target(red_detectors().at("conv"), "conv", "head")
    plain = Target("net", ColourNet(), preprocess(), ("conv", "head"))
    with pytest.raises(DissectError, match=r"sae\.layer isn't set: the layers conv, head"):
        plain.with_sae(red_detectors())
    captured = run(target, colours(tmp_path))
    assert target.layers == ("conv{sae}", "head")
    assert isinstance(captured.activations["conv{sae}"], TopKActivations)
    assert isinstance(captured.activations["head"], Tensor)
    assert list(captured.firing) == ["conv{sae}"]


def test_shards_batches_and_unions_change_no_number(tmp_path: Path) -> None:
    images, target = colours(tmp_path), colour_target(random_sae(4, 20))
    whole = run(target, images, batch_size=24)
    other = tmp_path / "other"
    write_colours(other, 2)
    parts = [probe.build("folder", root=str(folder)) for folder in (images, other)]
    union = probe.build("union", parts=parts)
    for settings in ({"shard": 5}, {"shard": 5, "batch_size": 2}):
        found = run(target, images, **settings)
        assert found.firing["conv{sae}"].shares.equal(whole.firing["conv{sae}"].shares)
        top, expected = (f.activations["conv{sae}"].top for f in (found, whole))
        assert torch.allclose(top.values, expected.values, atol=1e-6)
    options = Settings(**CPU)
    both = capture(target, target.layers, None, union, None, options)
    alone = [capture(target, target.layers, None, part, None, options) for part in parts]
    firing = [features.firing["conv{sae}"] for features in alone]
    merged = both.firing["conv{sae}"]
    assert merged.images.equal(firing[0].images + firing[1].images)
    assert merged.density.equal((firing[0].shares + firing[1].shares) / 36)


def test_parts_merge_in_any_order() -> None:
    drawn = torch.Generator().manual_seed(0)
    values = torch.rand(60, 2, 30, generator=drawn)
    values[values < 0.7] = 0
    rows = [(0, 20), (20, 40), (40, 60)]
    parts = [_TopK.of(values[a:b], torch.arange(a, b), 7, (a, b), ()) for a, b in rows]
    merged = []
    for order in permutations(parts):
        state = _TopK()
        for part in order:
            state = state.merged(part, 7)
        merged.append(state.arrays())
    for arrays in merged[1:]:
        assert all(arrays[name].equal(merged[0][name]) for name in merged[0])
    assert merged[0]["fires"].equal((values[:, 1] > 0).sum(0))
    assert merged[0]["shares"].equal(values[:, 1].double().sum(0))


def test_silent_images_are_replaced_by_repeating_the_others() -> None:
    values = torch.tensor([[3.0, 5.0, 0.0], [2.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    indices = torch.arange(12).view(4, 3)
    top = without_silent(TopActivations(values, indices, 20))
    assert top.values.T.tolist() == [[3, 2, 1, 3], [5, 5, 5, 5], [0, 0, 0, 0]]
    assert top.indices.T.tolist() == [[0, 3, 6, 0], [1, 1, 1, 1], [2, 2, 2, 2]]


def test_codes_of_few_images_are_held_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    class Spy(Linear):
        def encode(self, x: Tensor) -> Tensor:
            codes = super().encode(x)
            sizes.append(codes.numel())
            return codes

    monkeypatch.setattr(latents, "_CODES_AT_ONCE", 3 * 64 * 1000)
    spy = Spy(torch.randn(4, 1000))
    for known in (1000, None):
        sizes.clear()
        target = colour_target(Sae("spy", spy, inputs=4, latents=known))
        captured = run(target, colours(tmp_path / str(known)), batch_size=24)
        assert captured.activations["conv{sae}"].top.values.shape == (24, 1000)
        assert max(sizes[1:]) == 3 * 64 * 1000  # three images of 8 x 8 tokens; the first is a check


def test_shards_of_many_latents_are_small() -> None:
    wide = Sae("wide", nn.Identity(), latents=65_536)
    assert images_a_shard([wide], Settings(device="cpu")) == 256
    assert images_a_shard([], Settings(device="cpu")) == 1024
    assert images_a_shard([wide], Settings(device="cpu", shard=100)) == 100


def test_keys_contain_the_autoencoder(tmp_path: Path) -> None:
    images, store = colours(tmp_path), Store(tmp_path / "store")
    plain = Target("net", ColourNet(), preprocess(), ("conv", "head"))
    names = ["conv{sae}", "head"]
    assert run(plain, images, store).computed == ("conv", "head")
    assert run(plain.with_sae(red_detectors().at("conv")), images, store).computed == (names[0],)
    again = run(plain.with_sae(red_detectors().at("conv")), images, store)
    assert again.computed == ()
    changed = red_detectors()
    with torch.no_grad():
        changed.module.b_enc[0] = -0.6
    assert run(plain.with_sae(changed.at("conv")), images, store).computed == (names[0],)
    kept = red_detectors()
    kept.module.k = 1
    assert run(plain.with_sae(kept.at("conv")), images, store).computed == (names[0],)
    # Its reading, its fit and its latents: no network runs.
    assert again.fits["conv{sae}"].latents == 5


@pytest.mark.parametrize("settings", [{"precision": "bf16"}, {"precision": "bf16_weights"}])
def test_codes_are_computed_in_float32(settings: Any, tmp_path: Path) -> None:
    types: set[torch.dtype] = set()

    class Spy(Linear):
        def encode(self, x: Tensor) -> Tensor:
            codes = super().encode(x)
            types.update({x.dtype, codes.dtype})
            return codes

    target = colour_target(Sae("spy", Spy(torch.randn(4, 6))))
    captured = run(target, colours(tmp_path), **settings)
    assert types == {torch.float32}
    assert captured.activations["conv{sae}"].top.values.dtype == torch.float32


def test_an_autoencoder_of_another_type_gets_its_type(tmp_path: Path) -> None:
    module = Linear(torch.randn(4, 6)).double()
    captured = run(colour_target(Sae("double", module)), colours(tmp_path))
    assert captured.activations["conv{sae}"].top.values.dtype == torch.float32


def test_compiled_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, target = colours(tmp_path), colour_target(red_detectors())
    exact = run(target, images)
    monkeypatch.setattr(torch, "compile", lambda what: torch._dynamo.optimize("eager")(what))
    found = run(target, images, compile=True)
    assert found.firing["conv{sae}"].images.equal(exact.firing["conv{sae}"].images)


@pytest.mark.parametrize(
    ("autoencoder", "said"),
    [
        (lambda: random_sae(6, 9), r"of 6 units, but layer conv\{sae\} has 4"),
        (
            lambda: Sae("x", Linear(torch.randn(6, 9))),
            "encode failed on .* RuntimeError: mat1",
        ),
        (lambda: random_sae(4, 9).at("blocks.9"), r"sae.layer is blocks.9, .* the layers conv"),
        (lambda: Sae("x", Tuple()), "must return codes .* it returned a tuple"),
        (lambda: sae(torch.full((4, 3), torch.nan)), "unit 0: the activation on image .* nan"),
    ],
)
def test_what_does_not_fit_is_refused(autoencoder: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(DissectError, match=said):
        run(colour_target(autoencoder()), colours(tmp_path))


class Tuple(nn.Module):
    def encode(self, x: Tensor) -> Any:
        return x, x


def test_count_needs_latents(tmp_path: Path) -> None:
    plain = Target("net", ColourNet(), preprocess(), ("conv",))
    with pytest.raises(DissectError, match=r"summary count is the share .* layer conv has none"):
        run(plain, colours(tmp_path), summary=Summary("count"))


def test_parts_and_patterns_keep_their_names() -> None:
    target = Target("net", ColourNet(), preprocess(), ("conv[0]", "he*"))
    assert target.layers == ("conv[0]", "head")
    assert target.with_sae(random_sae(4, 5).at("conv[0]")).layers == ("conv[0]{sae}", "head")
    wrapped = Target("net", nn.DataParallel(ColourNet()), preprocess(), ("module.head",))
    assert wrapped.with_sae(random_sae(4, 5).at("module.head")).layers == ("head{sae}",)
    assert wrapped.with_sae(random_sae(4, 5)).without_saes.layers == ("head{sae}",)


def test_a_perfect_fit_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    signs = torch.cat([torch.eye(4), -torch.eye(4)], 1)  # relu(x) - relu(-x) is x
    idle = torch.zeros(4, 80)
    with caplog.at_level(logging.WARNING):
        captured = run(colour_target(sae(torch.cat([signs, idle], 1))), colours(tmp_path))
    fit = captured.fits["conv{sae}"]
    assert fit.explained_variance == pytest.approx(1)
    assert (fit.latents, fit.tokens) == (88, 8 * 64)
    assert fit.l0 == pytest.approx(3)  # of cyan images, two activations are 0
    assert captured.notes == ()
    assert not caplog.records


def test_a_wrong_layer_is_noticed_before_any_work(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = sae(10 * torch.eye(4), hook="blocks.9.hook_resid_post", facts={"k": 4})
    with caplog.at_level(logging.WARNING):
        captured = run(colour_target(wrong), colours(tmp_path))
    (note,) = captured.notes
    assert "of conv (its files name blocks.9.hook_resid_post)" in note
    assert "of 4 latents above 0 on a token, not 4" in note
    assert caplog.messages == [note]
    assert captured.fits["conv{sae}"].explained_variance < 0


def test_without_decode_there_is_no_explained_variance(tmp_path: Path) -> None:
    class Encoder(nn.Module):
        def encode(self, x: Tensor) -> Tensor:
            return x.relu()

    fit = run(colour_target(Sae("encoder", Encoder())), colours(tmp_path)).fits["conv{sae}"]
    assert fit.explained_variance is None
    assert fit.l0 > 0


def test_firing_of_no_images() -> None:
    empty = Firing.of(torch.zeros(0, 3))
    assert empty.merged(Firing.of(torch.ones(2, 3))).density.tolist() == [1, 1, 1]


def test_timm_preprocessing_is_the_networks_own(photos: Path) -> None:
    """The call of the README: a network of timm with its transform."""
    network = timm.create_model("vit_tiny_patch16_224", depth=4).eval()
    transform = create_transform(**resolve_model_data_config(network), is_training=False)
    target = Target("vit", network, transform, ("blocks.3",)).with_sae(random_sae(192, 64, k=4))
    captured = run(target, photos)
    assert captured.readings["blocks.3{sae}"].describe() == (
        "max over 14 x 14 patches, without 1 prefix token"
    )
    assert captured.fits["blocks.3{sae}"].l0 == pytest.approx(4, abs=0.2)
    encoder = ColourEncoder()
    assert encoder.images_seen == 0


def test_negative_codes_are_silent(tmp_path: Path) -> None:
    """Of an autoencoder that keeps them: a mean above 0 is where a token fires."""

    class Signed(nn.Module):
        def encode(self, x: Tensor) -> Tensor:
            return x

    target = colour_target(Sae("signed", Signed()))
    for kind in ("max", "mean"):
        captured = run(target, colours(tmp_path), keep="full", summary=Summary(kind))
        values = captured.activations["conv{sae}"]
        assert (values > 0).sum(0).equal(captured.firing["conv{sae}"].images)
        assert captured.firing["conv{sae}"].images.tolist() == [4, 4, 4, 24]


def test_k_may_be_a_large_share_of_the_latents(tmp_path: Path) -> None:
    signs = torch.cat([torch.eye(4), -torch.eye(4)], 1)
    captured = run(colour_target(sae(signs, k=4, facts={"k": 4})), colours(tmp_path))
    assert captured.fits["conv{sae}"].explained_variance == pytest.approx(1)
    assert captured.notes == ()


def test_code_that_writes_in_place_changes_no_other_layer(tmp_path: Path) -> None:
    class InPlace(nn.Module):
        def encode(self, x: Tensor) -> Tensor:
            x -= 1.0
            return x.relu_()

    images = colours(tmp_path)
    plain = Target("net", ColourNet(), preprocess(), ("conv", "head"))
    expected = run(plain, images)
    found = run(plain.with_sae(Sae("own", InPlace(), layer="conv")), images)
    assert found.activations["head"].equal(expected.activations["head"])


def test_latents_need_their_autoencoder(tmp_path: Path) -> None:
    named = Target("net", ColourNet(), preprocess(), ("conv{sae}",))
    with pytest.raises(DissectError, match=r"layer conv\{sae\} names latents, .* write conv"):
        run(named, colours(tmp_path))


def test_the_fit_is_of_network_and_autoencoder_alone(tmp_path: Path) -> None:
    images, store, target = (
        colours(tmp_path),
        Store(tmp_path / "store"),
        colour_target(red_detectors()),
    )
    run(target, images, store)
    options, found = Settings(**CPU), probe.build("folder", root=str(images))
    entries = len(list(store.root.rglob("manifest.json")))
    capture(target, target.layers, ColourEncoder(), found, store, options)
    assert len(list(store.root.rglob("manifest.json"))) == entries + 1  # the embeddings


def test_one_token_has_no_variance_to_explain(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (8, 8), "red").save(images / "a.png")
    target = colour_target(sae(torch.eye(4)), "head")
    captured = run(target, images)
    assert captured.fits["head{sae}"].explained_variance is None
