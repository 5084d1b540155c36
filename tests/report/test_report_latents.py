"""Reports of latents of sparse autoencoders."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from one_outline import outline
from PIL import Image
from test_dissect import SETTINGS, dissect
from tiny import preprocess
from torch import Tensor, nn

from clipdissect import probe as probes
from clipdissect import report, similarity
from clipdissect.app import cli
from clipdissect.capture.pooling import Summary
from clipdissect.capture.settings import Settings
from clipdissect.masks import regions
from clipdissect.probe import Probe
from clipdissect.report.outlines import heat_maps, outlines
from clipdissect.report.overview import overview
from clipdissect.report.report_data import ReportData, read_report_data
from clipdissect.report.run import Neighbour, load, unit_of
from clipdissect.results.run_files import write_json, write_tables
from clipdissect.sae import Sae
from clipdissect.store import Store
from clipdissect.targets import Target

LAYER = "blocks.1{sae}"
NAMES = ("a.png", "b.png", "c.png")
# Rows and columns of the 14 x 14 patches on which each latent fires, by image; the last is dead.
FIRES: list[dict[str, list[tuple[int, int]]]] = [
    {"a.png": [(3, 5)]},
    {"b.png": [(6, 6), (6, 7), (6, 8), (7, 6), (7, 7), (7, 8)], "c.png": [(0, 0)]},
    {},
]


class Nearest(nn.Module):
    """A latent's code is above 0 on tokens that nearly equal one of its templates."""

    def __init__(self, templates: list[Tensor], radius: float) -> None:
        super().__init__()
        self.templates = nn.ParameterList([nn.Parameter(rows) for rows in templates])
        self.radius = radius

    def encode(self, x: Tensor) -> Tensor:
        far = [torch.cdist(x, rows.expand(*x.shape[:-2], -1, -1)) for rows in self.templates]
        return torch.stack([(self.radius - each.amin(-1)).relu() for each in far], -1)


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Probe:
    folder, drawn = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name in NAMES:
        pixels = drawn.integers(0, 256, (224, 224, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return probes.build("folder", root=str(folder))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", pretrained=False, depth=2).eval()


@pytest.fixture(scope="module")
def target(probe: Probe, network: Any) -> Target:
    """The ViT, with a sparse autoencoder whose latents fire as `FIRES` says."""
    inputs = torch.stack([preprocess(224)(Image.open(probe.path(i))) for i in range(3)])
    with torch.no_grad():
        (tokens,) = network.get_intermediate_layers(inputs, n=[1])
    by_name = dict(zip(NAMES, tokens, strict=True))
    templates = [
        torch.stack([by_name[name][row * 14 + column] for name, row, column in places])
        for places in ([(n, *p) for n in f for p in f[n]] for f in FIRES[:2])
    ]
    templates.append(torch.full((1, 192), 100.0))  # nowhere near
    flat = tokens.flatten(0, 1)
    apart = torch.cdist(flat, flat).fill_diagonal_(torch.inf).min()
    decoder = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 0.0]])
    module = Nearest(templates, float(apart) / 2)
    plain = Target("vit", network, preprocess(224), ("blocks.1",), weights="random")
    return plain.with_sae(Sae("hand", module, latents=3, decoder=decoder))


def run_of(folder: Path, target: Target, probe: Probe, store: Store | None = None) -> Path:
    scorer = similarity.build("soft_wpmi", top_k=3)
    given: dict[str, Any] = {"model": target, "layers": None, "preprocess": None}
    result = dissect(probe, **given, similarity=scorer, store=store)
    result.save(folder)
    report.collect(folder, result, target, probe, SETTINGS, store)
    return folder


def box(path: str) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a path."""
    numbers = [int(n) for n in re.findall(r"\d+", path)]
    x, y = numbers[::2], numbers[1::2]
    return min(x), min(y), max(x), max(y)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, target: Target, probe: Probe) -> Path:
    return run_of(tmp_path_factory.mktemp("job") / "run", target, probe)


def test_regions_are_the_patches_on_which_latents_fire(run: Path) -> None:
    values = read_report_data(run).layers[LAYER]
    first, second = values["outlines"]  # none of the dead one
    assert second[2:] == [] and first[1:] == [None]
    # In hundredths of the picture's side, 14 patches wide: half-way to the neighbours.
    assert box(first[0]) == (36, 21, 43, 29)
    top = pd.read_csv(run / "top_images.csv").query("unit == 1")["image"].tolist()
    boxes = dict(zip(top, map(box, second), strict=True))
    assert boxes == {"b.png": (43, 43, 64, 57), "c.png": (0, 0, 7, 7)}
    corner = second[top.index("c.png")]
    assert sorted(corner.strip("MZ").split("L")) == ["0 0", "0 7", "4 7", "7 0", "7 4"]
    # All codes are the radius; letters are runs of silent patches: 26 of them, `z`.
    assert values["heat"][0] == ["zu9zzzzzr", ""] and values["width"] == 14
    block = values["heat"][1][top.index("b.png")]
    assert block == "zzzl999k999zzzk" and values["heat"][1][top.index("c.png")] == "9zzzzzzzm"
    assert values["threshold_images"] is None and values["thresholds"] == [0, 0]


def test_neighbours_and_numbers_of_latents(run: Path) -> None:
    table = pd.read_csv(run / "descriptions.csv", keep_default_na=False)
    assert table["fires"].tolist() == [1, 2, 0]
    assert table["unit_flags"].tolist() == ["rare", "rare", "dead"]
    assert table["density"].tolist() == pytest.approx([1 / 588, 7 / 588, 0])
    values = read_report_data(run).layers[LAYER]
    assert values["neighbours"] == [[[1, 0.6]], [[0, 0.6]], []]
    first = unit_of(load(run), f"{LAYER}/0")
    text = str(table["description"][1])
    assert first.neighbours == [Neighbour(1, 0.6, text)]
    assert (first.fires, first.run_images) == (1, 3)
    assert [image.name for image in first.images] == ["a.png"]


def test_the_page_says_what_regions_are(run: Path) -> None:
    page = report.build(run).read_text()
    assert "where the latent fires" in page and "99.5 % quantile" not in page
    assert "have no region" not in page
    assert "1 latents never fire on these images (dead)" in page
    (layer,) = overview(load(run))
    assert layer.latents is not None
    assert (layer.latents.alive, layer.latents.rare) == (2, 2)
    assert layer.latents.density == pytest.approx(4 / 588)
    assert layer.latents.explained_variance is None  # it can't decode
    assert layer.null_95 is None  # all are rare


def test_maps_are_encoded_in_full_and_max_pooled() -> None:
    torch.manual_seed(0)
    sae = Sae("s", Nearest([torch.randn(2, 6) for _ in range(5)], 3.0))
    top_images = torch.tensor([[0, 2], [1, -1], [2, 3], [-1, -1]])
    gathered = regions.LatentRegionAccumulator(top_images, sae)
    maps = torch.randn(3, 6, 56, 28)
    gathered.add(torch.tensor([0, 1, 2]), maps, torch.zeros(3, dtype=torch.bool))
    found = gathered.regions(0)
    assert found is not None and found.maps.shape == (4, 2, 28, 28)
    assert found.has_map.tolist() == [[True, True], [True, False], [True, False], [False, False]]
    codes = sae.encode(maps.movedim(1, -1))  # of all images at once
    for unit, slot, image in ((0, 0, 0), (0, 1, 2), (1, 0, 1), (2, 0, 2)):
        pooled = codes[image, :, :, unit].reshape(28, 2, 28).amax(1)
        assert torch.allclose(found.maps[unit, slot].float(), pooled, rtol=2**-8)
        assert torch.equal(found.maps[unit, slot] > 0, pooled > 0)
    assert found.highest[0] == codes[[0, 2], :, :, 0].amax()
    assert found.lowest[1] == codes[1, :, :, 1].amin()


def test_small_codes_stay_above_0() -> None:
    class Tiny(nn.Module):
        def encode(self, x: Tensor) -> Tensor:
            return 1e-30 * (x > 0.5)

    gathered = regions.LatentRegionAccumulator(torch.tensor([[0]]), Sae("tiny", Tiny()))
    maps = torch.tensor([[[[0.0, 1.0], [0.0, 0.0]]]])
    gathered.add(torch.tensor([0]), maps, torch.tensor([False]))
    found = gathered.regions(0)
    assert found is not None
    firing, thresholds = found.as_firing()
    assert firing.tolist() == [[[[False, True], [False, False]]]] and thresholds.tolist() == [0.5]


def test_a_layer_of_latents_needs_no_random_images(target: Target, probe: Probe) -> None:
    table = pd.DataFrame({"layer": LAYER, "unit": [0], "rank": [1], "image": ["a.png"]})
    found = regions.find_regions(target, probe, SETTINGS, table, 2, None)
    assert found[LAYER].images is None and found[LAYER].maps.shape == (1, 1, 14, 14)
    names = [str(i) for i in range(1000)]
    ranked = pd.DataFrame({"rank": [1, 1, 2], "image": ["900", "901", "902"]})
    assert regions.choose_images(ranked, names, 400, 0) == ([900, 901, 902], [])


def test_autoencoders_of_class_tokens_have_no_regions(target: Target, probe: Probe) -> None:
    table = pd.DataFrame({"layer": LAYER, "unit": [0], "rank": [1], "image": ["a.png"]})
    settings = Settings(device="cpu", workers=0, summary=Summary("cls"))
    assert regions.find_regions(target, probe, settings, table, 9, None) == {}
    of_class_tokens = with_sae(target, replace(target.saes[LAYER], summary="cls"))
    assert regions.find_regions(of_class_tokens, probe, SETTINGS, table, 9, None) == {}


def with_sae(target: Target, sae: Sae) -> Target:
    plain = Target(target.name, target.model, target.preprocess, ("blocks.1",), weights="random")
    return plain.with_sae(sae)


def test_other_autoencoders_have_other_regions(
    target: Target, probe: Probe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    table = pd.DataFrame({"layer": LAYER, "unit": [0, 1], "rank": 1, "image": ["a.png", "b.png"]})
    first = regions.find_regions(target, probe, SETTINGS, table, 3, store)[LAYER]
    with monkeypatch.context() as patch:
        patch.setattr(regions, "_compute", None)
        again = regions.find_regions(target, probe, SETTINGS, table, 3, store)[LAYER]
    assert torch.equal(first.maps, again.maps) and again.images is None
    module = target.saes[LAYER].module
    assert isinstance(module, Nearest)
    swapped = Nearest([rows.detach() for rows in module.templates][::-1], module.radius)
    other = with_sae(target, Sae("hand", swapped, latents=3))
    changed = regions.find_regions(other, probe, SETTINGS, table, 3, store)[LAYER]
    assert (first.maps[0] > 0).sum() == 1 and (changed.maps[0] > 0).sum() == 0


@pytest.mark.parametrize("shape", [(14, 14), (5, 9), (28, 28), (1, 3)])
def test_outlines_of_many_maps_are_those_of_each(shape: tuple[int, int]) -> None:
    drawn = np.random.default_rng(0)
    maps = drawn.normal(size=(300, *shape))
    maps[0], maps[1], maps[2] = 3, -3, 0.7
    found = outlines(maps, 0.7)
    assert found == [outline(each, 0.7) for each in maps]
    assert found[0] == outline(np.ones((2, 2)), 0.0) and found[1] == found[2] == ""
    assert all(0 <= int(n) <= 100 for path in found for n in re.findall(r"-?\d+", path))


def test_heat_maps_are_ninths_of_the_highest() -> None:
    maps = np.zeros((3, 2, 15))
    maps[0, 0, 1], maps[0, 0, 2], maps[0, 1, 14] = 9.0, 1e-6, 4.1
    maps[1, 0, 0], maps[1, 0, 1] = -1.0, 0.5  # a code below 0 doesn't fire
    assert heat_maps(maps, np.array([9.0, 1.0, 0.0])) == ["a91z5", "a5zb", "zd"]


def test_outlines_separate_firing_from_silent_patches() -> None:
    """Slowly: a patch's centre is inside as many subpaths as an odd number says."""
    drawn = np.random.default_rng(1)
    masks = drawn.random((30, 6, 6)) < 0.4
    for mask, path in zip(masks, outlines(masks, 0.5), strict=True):
        loops = [
            np.array([[int(n) for n in point.split()] for point in loop.strip("Z").split("L")])
            for loop in path.split("M")[1:]
        ]
        for row, column in np.ndindex(6, 6):
            x, y = 100 * (column + 0.5) / 6 + 0.01, 100 * (row + 0.5) / 6 + 0.02
            crossings = 0
            for loop in loops:
                for (x0, y0), (x1, y1) in zip(loop, np.roll(loop, -1, axis=0), strict=True):
                    if (y0 > y) != (y1 > y) and x < x0 + (y - y0) / (y1 - y0) * (x1 - x0):
                        crossings += 1
            assert crossings % 2 == mask[row, column], (row, column)


def tables_of(folder: Path) -> Path:
    """Write the files of a run with a plain layer and four latents: fine, fine, rare, dead."""
    rows = pd.DataFrame(
        {
            "layer": ["fc", *["fc{sae}"] * 4],
            "unit": [0, 0, 1, 2, 3],
            "description": ["cat", "dog", "dogs", "moon", ""],
            "similarity": [1.0, 0.5, 0.75, 9.0, np.nan],
            "margin": [0.5, 0.25, 0.5, 4.0, np.nan],
            "unit_flags": [(), (), (), ("rare",), ("dead",)],
            "fires": [np.nan, 12345, 100, 1, 0],
            "density": [np.nan, 0.25, 0.0031, 1e-6, 0],
            "null_similarity": [0.5, 0.6, 0.6, 8.0, np.nan],
        }
    )
    shown = [("fc", 0, 1), ("fc", 0, 2), ("fc{sae}", 0, 1), ("fc{sae}", 0, 2)]
    shown += [("fc{sae}", 1, 1), ("fc{sae}", 1, 2), ("fc{sae}", 2, 1)]
    images = pd.DataFrame(shown, columns=["layer", "unit", "rank"])
    write_tables(folder, rows, images.assign(image="x.png", activation=1.5))
    fit = {"explained_variance": 0.75, "l0": 40.5, "latents": 4, "tokens": 100}
    saes = {"fc{sae}": {"name": "small", "format": "module", "fit": fit}}
    write_json(folder / "run.json", {"probe": {"name": "p", "used": 50000}, "saes": saes})
    neighbours = [[[1, 0.75], [3, 0.5]], [[0, 0.75]], [], []]
    paths = [["M0 0L9 0L9 9Z", None], ["", ""], ["", None]]
    values = {"neighbours": neighbours, "outlines": paths, "thresholds": [0] * 3}
    values |= {"heat": [["19b", ""], ["", ""], ["", ""]], "width": 2}
    values |= {"threshold_images": None, "whole": False, "images": 100}
    thumbnail = folder / "report" / "thumbnails" / "x.webp"
    thumbnail.parent.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(thumbnail)
    ReportData(
        {"images": 5}, {"x.png": ["x.webp", None]}, {"fc": {"whole": True}, "fc{sae}": values}
    ).write(folder)
    return folder


def test_data_of_the_page(tmp_path: Path) -> None:
    page = report.build(tables_of(tmp_path / "run"))
    start = json.loads((page.parent / "data/units.js").read_text()[len("dissect.start(") : -3])
    plain, latents = (layer["sides"][0] for layer in start["layers"])
    assert "x" not in plain and "y" not in plain
    assert (latents["x"], latents["images"]) == ([12345, 100, 1, 0], 50000)
    assert latents["y"] == [0.25, 0.0031, 1e-6, 0]
    assert [flags & ~8 for flags in latents["f"]] == [0, 0, 32, 1]
    text = (page.parent / "data/0-1-0.js").read_text()
    units = json.loads(text[text.index("{") : -3])["units"]
    assert [unit["nb"] for unit in units] == [[[1, 0.75], [3, 0.5]], [[0, 0.75]], [], []]
    assert [len(unit["i"]) for unit in units] == [2, 2, 1, 0] and start["slots"] == [2]
    html = re.sub(r"<[^>]*>", " ", page.read_text())
    for part in (
        "4 latents",
        "0.31 %",
        "75.0 %",
        "40.5",
        "small of fc",
        "1 pictures have no region",
    ):
        assert part in html, part
    assert "stored top images of each latent" in html


def test_overview_of_latents(tmp_path: Path) -> None:
    plain, latents = overview(load(tables_of(tmp_path / "run")))
    assert plain.latents is None and latents.latents is not None
    assert (latents.latents.alive, latents.latents.rare, latents.dead) == (3, 1, 1)
    assert latents.latents.density == 0.0031
    assert latents.null_95 == 0.6 and latents.above_null == 0.5


def test_show_prints_how_often_a_latent_fires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tables_of(tmp_path / "run")

    def said_of(unit: str) -> str:
        monkeypatch.setattr(sys, "argv", ["clipdissect", "show", str(folder), unit])
        cli.main()
        return " ".join(capsys.readouterr().out.split())

    said = said_of("fc{sae}/0")
    assert "fires on 12,345 of 50,000 images, 25 % of tokens" in said
    assert "decoder neighbours 1 0.75 dogs 3 0.50 no description" in said
    assert "fires on 100 of 50,000 images, 0.31 % of tokens" in said_of("fc{sae}/1")
    assert "fires" not in said_of("fc/0") and "neighbours" not in said_of("fc/0")


def test_layers_of_latents_are_compared(tmp_path: Path) -> None:
    first, second = tables_of(tmp_path / "one"), tables_of(tmp_path / "two")
    page = report.compare([first, second], tmp_path / "out")
    start = json.loads((page.parent / "data/units.js").read_text()[len("dissect.start(") : -3])
    plain, latents = start["layers"]
    assert (plain["units"], latents["units"]) == ([0], [0, 1, 2])  # the dead one has no description
    assert latents["sides"][1]["x"] == [12345, 100, 1] and latents["same"] == [1, 1, 1]
    assert "neighbours" in page.read_text()


def test_latents_of_two_autoencoders_are_not_compared(tmp_path: Path) -> None:
    folders = [tables_of(tmp_path / name) for name in ("one", "two")]
    for number, folder in enumerate(folders):
        file = folder / "run.json"
        run = json.loads(file.read_text()) if file.is_file() else {}
        run["digests"] = {"latents of fc{sae}": str(number)}
        file.write_text(json.dumps(run))
    page = report.compare(folders, tmp_path / "out")
    start = json.loads((page.parent / "data/units.js").read_text()[len("dissect.start(") : -3])
    assert [layer["name"] for layer in start["layers"]] == ["fc"]
    said = "Not compared, as the runs have different sparse autoencoders: fc{sae}."
    assert said in page.read_text()
