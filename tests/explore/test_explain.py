"""Explanations of predictions: exact activations, unusual units, contributions to logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import e
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from score_runs import CLASSES, tiny_target
from timm.models.convnext import ConvNeXt
from timm.models.vision_transformer import VisionTransformer as TimmViT
from tiny import preprocess, write_colours
from torch import Tensor, nn
from torchvision.models import resnet as resnets
from torchvision.models.vision_transformer import VisionTransformer

import clipdissect
from clipdissect import Settings, probe
from clipdissect.capture.activations import TopKActivations
from clipdissect.capture.capture import capture
from clipdissect.errors import DissectError
from clipdissect.explore.explain import explain
from clipdissect.explore.explanation_page import as_html, share_in_words
from clipdissect.explore.unusual import unusual
from clipdissect.method import Job
from clipdissect.targets import Target

SIZE = 32


def resnet() -> nn.Module:
    made: nn.Module = resnets.ResNet(resnets.BasicBlock, [1, 1, 1, 1], num_classes=7)
    return made


def vit() -> nn.Module:
    made = VisionTransformer(SIZE, 16, 1, 2, 16, 32, num_classes=7)
    nn.init.normal_(made.heads.head.weight)  # zeros at first
    return made  # type: ignore[no-any-return]


def timm_vit() -> nn.Module:
    size: dict[str, Any] = {"img_size": SIZE, "patch_size": 16, "embed_dim": 16, "depth": 1}
    made = TimmViT(**size, num_heads=2, num_classes=7, drop_rate=0.5)
    nn.init.normal_(made.head.weight)
    return made  # type: ignore[no-any-return]


def convnext() -> nn.Module:
    made = ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 8, 16, 16), num_classes=7, drop_rate=0.5)
    nn.init.normal_(made.head.fc.weight)
    return made  # type: ignore[no-any-return]


def lite0() -> nn.Module:
    made: nn.Module = timm.create_model("tf_efficientnet_lite0", num_classes=7, drop_rate=0.2)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    made.train()(torch.rand(8, 3, SIZE, SIZE))  # statistics without which units are dead
    return made


NETWORKS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "resnet": (resnet, "layer4"),
    "vit": (vit, "encoder.ln"),
    "timm vit": (timm_vit, "norm"),
    "convnext": (convnext, "head.flatten"),
    "lite0": (lite0, "bn2"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    write_colours(root / "probe")
    photo = Image.new("RGB", (40, 30), (200, 30, 60))
    photo.paste((20, 200, 90), (5, 5, 20, 25))
    photo.save(root / "photo.png")
    return root


def result_of(target: Target, folder: Path, **settings: Any) -> clipdissect.Result:
    """A result with a description for each unit of the target's layers."""
    images = probe.build("folder", root=str(folder / "probe"))
    job = Job(target, images, settings=Settings(device="cpu", workers=0, **settings))
    features = capture(target, target.layers, None, images, None, job.settings)
    descriptions = pd.concat(
        pd.DataFrame({"layer": layer, "unit": range(_units(features.activations[layer]))})
        for layer in target.layers
    )
    descriptions["description"] = [f"text {unit}" for unit in descriptions["unit"]]
    images_of_units = pd.DataFrame(columns=["layer", "unit", "rank", "image", "activation"])
    run = {"digests": dict(features.digests), "target": target.facts}
    return clipdissect.Result(descriptions, images_of_units, run, job=job)


def _units(q: Tensor | TopKActivations) -> int:
    return int((q.top.values if isinstance(q, TopKActivations) else q).shape[1])


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_activations_and_contributions_of_real_networks(name: str, folder: Path) -> None:
    torch.manual_seed(0)
    make, layer = NETWORKS[name]
    target = Target(name, make().eval(), preprocess(SIZE), (layer,))
    result = result_of(target, folder)
    found = result.explain(folder / "photo.png", top=10_000)
    both = probe.build("folder", root=str(folder))  # the photo's activations as of any image
    alone = Settings(device="cpu", workers=0, batch_size=1)  # rounding depends on the batch
    features = capture(target, [layer], None, both, None, alone)
    expected = features.activations[layer][list(features.images).index("photo.png")]
    units = found.units["unit"].tolist()
    assert len(units) > 10
    assert found.units["activation"].tolist() == expected[units].tolist()
    # The network's own logits, without any of its layers.
    inputs = [target.preprocess(Image.open(path)) for path in sorted((folder / "probe").iterdir())]
    mean = target.model(torch.stack(inputs)).mean(0)
    logits = target.model(target.preprocess(Image.open(folder / "photo.png"))[None])[0]
    logit = found.logits[layer]
    assert logit.number == int(logits.argmax()) and logit.is_predicted
    assert (logit.logit, logit.mean) == pytest.approx(
        (float(logits.max()), float(mean[logit.number])), abs=1e-4
    )
    total = found.contributions["contribution"].sum()
    assert total == pytest.approx(float(logits.max() - mean[logit.number]), abs=1e-3)
    other = explain(result, folder / "photo.png", top=10_000, class_name=(logit.number + 1) % 7)
    assert not other.logits[layer].is_predicted
    assert other.contributions["contribution"].sum() == pytest.approx(
        float((logits - mean)[(logit.number + 1) % 7]), abs=1e-3
    )


def test_unusual_by_hand() -> None:
    # Of 20 images the two highest are the tail: above u = 18, only 19, with a mean excess of 1.
    # Unit 1 is above 0 on two images, 2 and 6: u is 2, and 6 exceeds it by 4. Unit 2 is dead.
    rare = torch.zeros(20)
    rare[[3, 7]] = torch.tensor([2.0, 6.0])
    q = torch.stack([torch.arange(20.0), rare, torch.ones(20)], 1)
    table = unusual(torch.tensor([20.5, 4.0, 3.0]), q, range(20))
    assert table["unit"].tolist() == [0, 1]
    assert table["share_below"].tolist() == [1.0, 0.95]
    assert table["excess"].tolist() == [2.5, 0.5]
    # An activation of 0 is as low as those of the 18 others.
    assert unusual(torch.tensor([9.0, 0.0, 1.0]), q, range(20))["share_below"].tolist() == [0.45, 0]


def test_top_k_lists_tell_the_same_where_they_reach() -> None:
    q = torch.rand(400, 30, generator=torch.Generator().manual_seed(0))
    a = torch.linspace(0, 1.1, 30)
    rows = [row for row in range(400) if row != 17]
    lists = TopKActivations.of(q, torch.arange(400), 100)
    full, top = unusual(a, q, rows), unusual(a, lists, rows)
    known = full[full["share_below"] > 0.76].reset_index(drop=True)
    assert 5 < len(known) < 12
    pd.testing.assert_frame_equal(top.head(len(known)), known)
    assert len(top) < 12  # below the lists, nothing is known


def test_an_image_of_the_run_is_compared_with_the_others(folder: Path) -> None:
    result = result_of(tiny_target(), folder)
    by_file = result.explain(folder / "probe" / "red0.png")
    by_name = result.explain("red0.png")
    assert by_file.images == by_name.images == 23
    pd.testing.assert_frame_equal(by_file.units, by_name.units)
    # The brightest red: unit 0 of conv is above all other images, which doesn't count itself.
    first = by_file.units.iloc[0]
    assert (first["layer"], first["unit"], first["share_below"]) == ("conv", 0, 1.0)
    picture = Image.open(folder / "probe" / "red0.png")
    of_picture = result.explain(picture)
    assert of_picture.images == 24
    assert of_picture.units["activation"].tolist() == by_file.units["activation"].tolist()


def test_layers_that_feed_no_linear_layer_say_so(folder: Path) -> None:
    result = result_of(tiny_target(), folder)
    found = result.explain("red0.png")
    # `relu` comes between conv and the head, which is that of the logits itself.
    assert found.logits == {} and found.contributions.empty
    assert found.notes[0].startswith("no contributions of layers conv, head, as the linear layer")
    of_conv = result.explain("red0.png", "conv")
    assert "no contributions of layer conv: head doesn't read the activations" in of_conv.notes[0]
    # Of activations (1, 0, 0, 1.5); the head doubles them.
    assert found.prediction == ("yellow", pytest.approx(e**3 / (e**3 + e**2 + 2)))
    relu = result_of(replace(tiny_target(), layers=("relu",)), folder)
    of_relu = relu.explain("red0.png", class_name="red")
    # The head's weights are 2, and red's activation is 1.
    assert of_relu.contributions.iloc[0][["unit", "activation", "weight"]].tolist() == [0, 1, 2]
    assert of_relu.logits["relu"].name == "red"


def test_latents_and_top_lists(folder: Path) -> None:
    result = result_of(replace(tiny_target(), layers=("relu",)), folder, keep="top_k")
    found = result.explain(folder / "photo.png")
    assert (
        "no contributions of layer relu: only the activations of its units' top" in found.notes[0]
    )
    full = result_of(replace(tiny_target(), layers=("relu",)), folder).explain(folder / "photo.png")
    pd.testing.assert_frame_equal(found.units, full.units)


def test_the_page_escapes_texts_and_has_pictures(folder: Path) -> None:
    result = result_of(replace(tiny_target(), layers=("relu",)), folder)
    texts = result.descriptions.assign(description='<script>alert("x")</script>')
    top = pd.DataFrame(
        {"layer": "relu", "unit": 0, "rank": [1, 2], "image": ["red0.png", "gone.png"]}
    )
    result = replace(result, descriptions=texts, top_images=top.assign(activation=1.0))
    html = result.explain("red0.png")._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;" in html
    assert html.count("data:image/jpeg;base64,") == 3  # red0.png, and twice as a top image
    assert "above all 23 images" in html and "None" not in html
    explanation = result.explain("red0.png")
    for clear in (True, False):
        units, added = (
            t.assign(clear=clear) for t in (explanation.units, explanation.contributions)
        )
        html = as_html(replace(explanation, units=units, contributions=added))
        assert html.count("&lt;/script&gt; (?)</td>") == (0 if clear else len(units) + len(added))
    assert as_html(result.explain("red0.png"), is_page=True).lstrip().startswith("<!doctype html>")


def test_shares_in_words() -> None:
    assert share_in_words(1.0, 1000) == "above all 1,000 images"
    assert share_in_words(0.9996, 10_000) == "above 99.9 % of 10,000 images"
    assert share_in_words(0.5, 10) == "above 50 % of 10 images"


def test_mistakes(folder: Path, tmp_path: Path) -> None:
    result = result_of(tiny_target(), folder)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    for arguments, message in (
        ((tmp_path / "none.png",), "missing: the image to explain"),
        ((broken,), "can't read broken.png"),
        (("red0.png", "layer4"), "unknown layer 'layer4'"),
        (("red0.png", None, 0), "top must be at least 1"),
        (("red0.png", None, 3, "rad"), "unknown class 'rad'. Did you mean red"),
    ):
        with pytest.raises(DissectError, match=message):
            result.explain(*arguments)
    with pytest.raises(DissectError, match="knows neither its network nor its images"):
        replace(result, job=None).explain("red0.png")
    relu = result_of(replace(tiny_target(), layers=("relu",)), folder)
    with pytest.raises(DissectError, match="class 4 isn't one of the 4 outputs of head"):
        relu.explain("red0.png", class_name=4)
    assert result.job and result.job.target
    result.job.target.model.conv.bias.data += 1
    with pytest.raises(DissectError, match="is of another network"):
        result.explain("red0.png")


def test_classes_by_name(folder: Path) -> None:
    names = ("crane, bird", "crane, machine", "tench, Tinca tinca", CLASSES[3])
    target = replace(tiny_target(), layers=("relu",), class_names=names)
    result = result_of(target, folder)
    assert result.explain("red0.png", class_name="Tinca tinca").logits["relu"].number == 2
    assert result.explain("red0.png", class_name="1").logits["relu"].name == "crane, machine"
    with pytest.raises(DissectError, match=r"2 classes are named 'crane'.* 0 \(crane, bird\)"):
        result.explain("red0.png", class_name="crane")
    with pytest.raises(DissectError, match="unknown class '-1'"):
        result.explain("red0.png", class_name="-1")


def test_numerals_are_names_before_they_are_numbers(folder: Path) -> None:
    target = replace(tiny_target(), layers=("relu",), class_names=("3", "1", "0", "2"))
    result = result_of(target, folder)
    assert result.explain("red0.png", class_name="0").logits["relu"].number == 2
    assert result.explain("red0.png", class_name=0).logits["relu"].number == 0
    assert result.explain("red0.png", class_name="1").logits["relu"].number == 1


def test_the_layer_of_the_classes_has_no_contributions(folder: Path) -> None:
    target = replace(tiny_target(), layers=("head",))
    notes = result_of(target, folder).explain("red0.png").notes
    assert "no contributions of layer head: its units are the logits themselves" in notes
