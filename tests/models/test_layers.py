"""Layer patterns, and what `summarise_model` sees of real architectures with random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import COLOURS, ColourEncoder, ColourNet, preprocess, write_colours
from torch import Tensor, nn

import clipdissect
from clipdissect import similarity
from clipdissect import targets as target
from clipdissect.capture.capture import Settings
from clipdissect.capture.model_summary import summarise_model
from clipdissect.errors import DissectError
from clipdissect.models.layer_patterns import expand
from clipdissect.targets import Target


class Nest(nn.Module):
    """stem, layer1.{0,1}.{conv,act}, layer2.{conv,act}, head; returns a tuple from `pair`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.layer1 = nn.Sequential(self._block(), self._block())
        self.layer2 = self._block()
        self.unused = nn.ConvTranspose2d(4, 4, 1)
        self.pair = _Pair()
        self.head = nn.Linear(4, 2)

    def _block(self) -> nn.Sequential:
        block = nn.Sequential()
        block.add_module("conv", nn.Conv2d(4, 4, 1))
        block.add_module("act", nn.ReLU())
        return block

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.pair(self.layer2(self.layer1(self.conv(x))))
        return self.head(x.mean((2, 3)))


class _Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x + 1


@pytest.mark.parametrize(
    ("layers", "found"),
    [
        (["layer*"], ["layer1", "layer2"]),
        (["layer?.*"], ["layer1.0", "layer1.1", "layer2.conv", "layer2.act"]),
        (["layer1.*.conv"], ["layer1.0.conv", "layer1.1.conv"]),
        (
            ["layer1.**"],
            [
                "layer1.0",
                "layer1.0.conv",
                "layer1.0.act",
                "layer1.1",
                "layer1.1.conv",
                "layer1.1.act",
            ],
        ),
        (["**.conv"], ["conv", "layer1.0.conv", "layer1.1.conv", "layer2.conv"]),
        (["all_convs"], ["conv", "layer1.0.conv", "layer1.1.conv", "layer2.conv", "unused"]),
        (["layer2", "*"], ["layer2", "conv", "layer1", "unused", "pair", "head"]),
        (["pai*[0]"], ["pair[0]"]),
        (["head", "conv", "nothing"], ["head", "conv", "nothing"]),
        (["head", "head"], ["head", "head"]),
    ],
)
def test_patterns(layers: list[str], found: list[str]) -> None:
    assert expand(Nest(), layers) == tuple(found)


@pytest.mark.parametrize("pattern", ["laier*", "*.*.*.*", "all_convs"])
def test_pattern_without_a_match_is_an_error(pattern: str) -> None:
    model = nn.Sequential(nn.Linear(2, 2)) if pattern == "all_convs" else Nest()
    with pytest.raises(DissectError, match="unknown layer pattern"):
        expand(model, [pattern])
    if pattern == "laier*":
        with pytest.raises(DissectError, match=r"Did you mean .*layer1"):
            expand(model, [pattern])


def test_a_module_named_like_a_pattern_is_itself() -> None:
    model = nn.Module()
    model.add_module("all_convs", nn.Conv2d(1, 1, 1))
    assert expand(model, ["all_convs"]) == ("all_convs",)


def test_targets_and_dissections_expand_patterns(tmp_path: Path) -> None:
    write_colours(tmp_path / "images")
    assert Target("n", Nest(), preprocess(), ("layer*",)).layers == ("layer1", "layer2")
    found = clipdissect.dissect(
        ColourNet(),
        layers=["hea?", "all_convs"],
        probe=str(tmp_path / "images"),
        concepts=list(COLOURS),
        preprocess=preprocess(),
        encoder=ColourEncoder(),
        similarity=similarity.build("soft_wpmi", top_k=4),
        store=None,
        settings=Settings(device="cpu", workers=0),
    )
    assert list(found.descriptions["layer"].unique()) == ["head", "conv"]
    assert found.run["target"]["layers"] == ["head", "conv"]


def test_survey_tells_what_can_be_dissected() -> None:
    model = Nest()
    model.layer2.act = model.layer1[0].act  # type: ignore[assignment]
    rows = {row.name: row for row in summarise_model(Target("n", model.train(), preprocess(8)))}
    assert (rows["conv"].kind, rows["conv"].output, rows["conv"].units) == (
        "Conv2d",
        "(images, 4, 8, 8)",
        4,
    )
    assert (rows["head"].output, rows["head"].units, rows["head"].problem) == ("(images, 2)", 2, "")
    assert rows["unused"].problem == "not run"
    assert rows["pair"].problem == "no tensor: select a part, such as [0]"
    assert rows["layer1.0.act"].runs == rows["layer2.act"].runs == 2
    assert rows["layer2.act"].problem == "runs 2 times"
    assert all(row.units is None for row in rows.values() if row.problem)
    assert model.training
    assert not any(m._forward_hooks for m in model.modules())


def test_survey_of_a_network_that_wants_another_input() -> None:
    with pytest.raises(DissectError, match=r"failed on a batch \(2, 3, 8, 8\)"):
        summarise_model(Target("n", nn.Conv2d(1, 1, 1), preprocess(8)))


def test_network_that_fails_while_it_is_dissected(tmp_path: Path) -> None:
    write_colours(tmp_path / "images")
    with pytest.raises(DissectError, match="Does the preprocessing give the size and channels"):
        clipdissect.dissect(
            nn.Sequential(nn.Conv2d(1, 1, 1)),
            layers=["0"],
            probe=str(tmp_path / "images"),
            concepts=list(COLOURS),
            preprocess=preprocess(),
            encoder=ColourEncoder(),
            store=None,
            similarity="cosine",
            settings=Settings(device="cpu", workers=0),
        )


# Option, its parameters, and layers with the outputs and units that they must have.
VIT = "encoder.layers.encoder_layer_3"


@pytest.mark.parametrize(
    ("option", "model", "expected"),
    [
        (
            "vit_b_32",
            None,
            [
                (VIT, "(images, 50, 768)", 768),
                (f"{VIT}.mlp.0", "(images, 50, 3072)", 3072),
                ("conv_proj", "(images, 768, 7, 7)", 768),
            ],
        ),
        (
            "swin_t",
            None,
            [
                ("features.0.0", "(images, 96, 56, 56)", 96),
                ("features.1", "(images, 56, 56, 96)", 96),
                ("features.7", "(images, 7, 7, 768)", 768),
                ("features.7.0.mlp.0", "(images, 7, 7, 3072)", 3072),
            ],
        ),
        (
            "convnext_tiny",
            None,
            [
                ("features.1", "(images, 96, 56, 56)", 96),
                ("features.1.0.block.1", "(images, 56, 56, 96)", 96),
                ("features.1.0.block.6", "(images, 96, 56, 56)", 96),
                ("features.7.0.block.3", "(images, 7, 7, 3072)", 3072),
            ],
        ),
        (
            "timm",
            "convnext_atto",
            [
                ("stages.0", "(images, 40, 56, 56)", 40),
                ("stages.3.blocks.0.mlp.fc1", "(images, 1280, 7, 7)", 1280),
            ],
        ),
        (
            "timm",
            "vit_tiny_patch16_224",
            [
                ("blocks.11", "(images, 197, 192)", 192),
                ("blocks.0.mlp.fc1", "(images, 197, 768)", 768),
            ],
        ),
        ("timm", "swin_tiny_patch4_window7_224", [("layers.2", "(images, 14, 14, 384)", 384)]),
        (
            "torchvision",
            "mobilenet_v3_small",
            [
                ("features.4", "(images, 40, 14, 14)", 40),
                ("features.12", "(images, 576, 7, 7)", 576),
            ],
        ),
    ],
)
def test_units_of_real_architectures(
    option: str, model: str | None, expected: list[tuple[str, str, int]]
) -> None:
    # Shapes alone take no time; timm's transforms need more.
    with torch.device("cpu" if option == "timm" else "meta"):
        found = target.build(option, weights="random", **({"model": model} if model else {}))
    rows = {row.name: row for row in summarise_model(found)}
    assert [(n, rows[n].output, rows[n].units) for n, *_ in expected] == expected
    assert found.layers and all(rows[layer].units for layer in found.layers)
    assert rows[str(found.class_layer)].units == len(found.class_names) == 1000
    assert "random" in found.notes[0]
