"""Several meanings of a unit: clusters of its top images, each described on its own."""

from __future__ import annotations

import json
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from tiny import COLOURS, ColourEncoder, ColourNet, preprocess, write_colours
from tiny_saes import sae
from torch import nn
from torch.nn import functional as F
from torchvision import models

import clipdissect
from clipdissect import concepts, method, probe, report, similarity
from clipdissect.app import cli
from clipdissect.capture.activations import TopKActivations
from clipdissect.capture.settings import Settings
from clipdissect.errors import DissectError
from clipdissect.method import Job
from clipdissect.report import ReportSettings
from clipdissect.report.run import unit_of
from clipdissect.results import formulas, meanings
from clipdissect.results.describe import Describer
from clipdissect.results.meanings import Splitter, lowest_of
from clipdissect.similarity.inputs import ConceptActivations, TopActivations
from clipdissect.similarity.ranking import concat_layers, top_images
from clipdissect.targets import Target

FUNCTIONS: list[dict[str, Any]] = [
    {"name": "soft_wpmi", "top_k": 12},
    {"name": "wpmi", "top_k": 12},
    {"name": "wpmi", "top_k": 12, "eps": 0.0},
    {"name": "cosine"},
    {"name": "cosine_cubed"},
    {"name": "lp"},
    {"name": "rank_reorder", "top_fraction": 0.5},
]


class Sums(ColourNet):
    """Units of the layer `head`: red or green, red, green, blue, none, and the first, negative."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 6)
        with torch.no_grad():
            self.conv.bias.zero_()
            self.head.weight.zero_()
            self.head.bias.copy_(torch.tensor([0.0, 0, 0, 0, 0, -5]))
            for unit, parts in enumerate([(0, 1), (0,), (1,), (2,), (), (0, 1)]):
                self.head.weight[unit, list(parts)] = 1.0


@pytest.fixture(autouse=True)
def fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random sets of images, which take most of the time of such small runs."""
    monkeypatch.setattr(meanings, "DRAWS", 200)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_colours(tmp_path / "images", shades=8)
    return tmp_path / "images"


def dissect(images: Path, meanings: Any = 3, **changes: Any) -> clipdissect.Result:
    options: dict[str, Any] = {
        "layers": ["head"],
        "similarity": FUNCTIONS[0],
        "method": {"name": "clip_dissect", "meanings": meanings},
        "images": 14,
        "settings": Settings(device="cpu", workers=0),
    }
    return clipdissect.dissect(
        Sums(),
        probe=str(images),
        concepts=list(COLOURS),
        preprocess=preprocess(),
        encoder=ColourEncoder(),
        store=None,
        **options | changes,
    )


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: "-".join(map(str, f.values())))
def test_both_colours_are_found(images: Path, function: dict[str, Any]) -> None:
    result = dissect(images, similarity=function)
    table, whole = result.descriptions, dissect(images, similarity=function, meanings=1)
    assert table["meanings"].tolist() == [2, 1, 1, 1, 0, 2]
    for unit in (0, 5):
        formula = formulas.read(table["formula"][unit])
        assert formula and set(formulas.texts_of(formula)) == {"red", "green"}
        assert formula["op"] == "OR"
        of_unit = result.meanings[result.meanings["unit"] == unit]
        assert of_unit["description"].tolist() == [*formulas.texts_of(formula)]
        assert table["description"][unit] == of_unit["description"].iloc[0]
        assert table["similarity"][unit] == of_unit["similarity"].iloc[0]
        assert of_unit["share"].tolist() == pytest.approx([0.5, 0.5])
        assert (of_unit["similarity"] > of_unit["null_similarity"]).all()
    # Units with one meaning are described as before.
    single = [1, 2, 3, 4]
    columns = list(whole.descriptions)
    pd.testing.assert_frame_equal(
        table.loc[single, columns], whole.descriptions.loc[single], rtol=1e-6
    )
    assert (table["formula"][single] == "").all()


def test_top_images_say_their_meaning(images: Path) -> None:
    result = dissect(images)
    shown = result.top_images[result.top_images["unit"] == 0]
    texts = dict(zip([1, 2], result.meanings["description"][:2], strict=True))
    for name, meaning in zip(shown["image"][:12], shown["meaning"][:12], strict=True):
        assert name.startswith(texts[int(meaning)])
    assert shown["meaning"][12:].isna().all()  # beyond the 12 that are clustered
    dead = result.top_images[result.top_images["unit"] == 4]
    assert dead["meaning"].isna().all()
    red = result.top_images[result.top_images["unit"] == 1]
    assert red["meaning"].tolist() == [1.0] * 8 + [np.nan] * 6 or red["meaning"][8:].isna().all()


def test_one_meaning_is_the_default_and_changes_nothing(images: Path, tmp_path: Path) -> None:
    result = dissect(images, meanings=1)
    assert result.meanings.empty and "meanings" not in result.run
    assert not {"meanings", "formula"} & {*result.descriptions}
    assert "meaning" not in result.top_images
    result.save(tmp_path / "run")
    assert not (tmp_path / "run" / "meanings.csv").exists()
    dissect(images).save(tmp_path / "run")
    assert (tmp_path / "run" / "meanings.csv").exists()
    dissect(images, meanings=1).save(tmp_path / "run")
    assert not (tmp_path / "run" / "meanings.csv").exists()


def test_clusters_are_scored_as_units_with_only_their_images(images: Path) -> None:
    """The fast path against one function call per cluster, with the whole units' marginal."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(6, 8, generator=generator)
    embeds = centres.repeat(20, 1) + 0.2 * torch.randn(120, 8, generator=generator)
    inputs = ConceptActivations(F.normalize(embeds, dim=1), F.normalize(torch.eye(8), dim=1))
    kinds = torch.arange(120) % 6
    q = torch.stack([(kinds == a) + 0.8 * (kinds == b) for a, b in combinations(range(6), 2)], 1)
    q = q + 0.1 * torch.rand(q.shape, generator=generator)
    chosen = similarity.build("soft_wpmi", top_k=30)
    describer = Describer(inputs, [f"text{i}" for i in range(8)], chosen, 3, meanings=3)
    describer.add("a", q)
    describer.add("b", q[:, :4])
    describer.tables()
    for layer, units in (("a", q), ("b", q[:, :4])):
        table, top = describer.meanings[layer].meanings, top_images(units, 30)
        ranks = describer.meanings[layer].of_rank
        assert (table["meaning"] == 2).any()
        for _, row in table.iterrows():
            places = (torch.tensor(ranks[row["unit"]]) == row["meaning"]).nonzero()[:, 0]
            places = places.repeat(30)[:30]
            own = TopActivations(
                top.values[places, row["unit"], None], top.indices[places, row["unit"], None], 120
            )
            # Its L is that of a layer of one unit without a marginal; the marginal is the layer's.
            joint = similarity.build("soft_wpmi", top_k=30, lam=0.0)
            plans = [joint.streaming(inputs, x) for x in (own, top)]
            alone, all_units = (plan.scores(0, 8) for plan in plans)
            marginal = all_units.double().logsumexp(0) - np.log(units.shape[1])
            best = (alone[0] - marginal).max()
            assert row["similarity"] == pytest.approx(float(best), abs=2e-4)


def test_random_images_have_one_meaning() -> None:
    generator = torch.Generator().manual_seed(0)
    embeds = F.normalize(torch.randn(300, 12, generator=generator), dim=1)
    q = torch.rand(300, 400, generator=generator)
    splitter = Splitter(embeds, 3)
    candidates = splitter.split(top_images(q, 20), lowest_of(q, False))
    assert len(candidates.unit.unique()) <= 12  # 4 expected
    assert splitter.facts["silhouette_above"].keys() == {"20"}
    again = Splitter(embeds, 3).split(top_images(q, 20), lowest_of(q, False))
    assert torch.equal(candidates.members, again.members)


def test_shares_and_lowest_activations() -> None:
    q = torch.tensor([[-1.0, 0.0], [3.0, 2.0], [1.0, 2.0]])
    assert lowest_of(q, False).tolist() == [-1.0, 0.0]
    assert lowest_of(q, True).tolist() == [0.0, 0.0]
    stored = TopKActivations.of(q, torch.arange(3), 2)
    assert lowest_of(stored, False).tolist() == [0.0, 0.0]


def test_extra_rows_take_their_layers_marginal_and_dont_change_it() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = ConceptActivations(
        F.normalize(torch.randn(40, 5, generator=generator), dim=1),
        F.normalize(torch.randn(9, 5, generator=generator), dim=1),
    )
    tops = [top_images(torch.rand(40, n, generator=generator), 6) for n in (4, 3)]
    chosen = similarity.build("soft_wpmi", top_k=6)
    alone = [chosen.top(inputs, top, 3) for top in tops]
    both = chosen.top(inputs, concat_layers(tops, [tops[0].select(torch.tensor([1])), tops[1]]), 3)
    wanted = torch.cat([alone[0].scores, alone[1].scores])
    torch.testing.assert_close(both.scores[:7], wanted, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(both.scores[7], alone[0].scores[1], rtol=1e-6, atol=1e-4)
    torch.testing.assert_close(both.scores[8:], alone[1].scores, rtol=1e-6, atol=1e-4)


def mixed_latents() -> Any:
    """Latents for red or green, for red, for the brightest green, and one that never fires."""
    weight = torch.zeros(4, 4)
    weight[0, 0] = weight[1, 0] = weight[0, 1] = weight[1, 2] = 1.0
    return sae(weight, torch.tensor([-0.2, -0.2, -0.95, -9.0]))


@pytest.mark.parametrize("keep", ["top_k", "full"])
def test_latents(images: Path, keep: str) -> None:
    settings = Settings(device="cpu", workers=0, keep=keep)
    result = dissect(images, layers=["relu"], sae=mixed_latents(), settings=settings)
    table = result.descriptions
    assert table["meanings"].tolist() == [2, 1, 1, 0]
    assert table["description"][1:].tolist() == ["red", "green", ""]
    rare = result.meanings[result.meanings["unit"] == 2].iloc[0]
    assert rare["images"] == 1 and np.isnan(rare["silhouette"])
    assert set(result.meanings["description"][:2]) == {"red", "green"}
    if keep == "full":
        cosine = dissect(
            images, layers=["relu"], sae=mixed_latents(), settings=settings, similarity="cosine"
        )
        assert cosine.descriptions["meanings"].tolist() == [2, 1, 1, 0]


@pytest.mark.parametrize("name", ["resnet18", "vit"])
def test_real_architectures(images: Path, name: str) -> None:
    torch.manual_seed(0)
    if name == "resnet18":
        network, layers = models.resnet18(), ("layer1", "fc")
    else:
        network = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2)
        layers = ("blocks.1", "head")
    target = Target(name, network.eval(), preprocess(32), layers)
    job = Job(
        target=target,
        probe=probe.resolve(str(images)),
        concepts=concepts.resolve(list(COLOURS)),
        encoder=ColourEncoder(),
        similarity=similarity.build("soft_wpmi", top_k=12),
        settings=Settings(device="cpu", workers=0),
        null=False,
    )
    result = method.build("clip_dissect", meanings=4).describe(job)
    assert result.run["method"] == {"name": "clip_dissect", "meanings": 4}
    of_units = result.meanings.groupby(["layer", "unit"], sort=False)
    sums = of_units["share"].sum()
    assert sums.to_numpy() == pytest.approx(np.ones(len(sums)), abs=1e-5)
    counts = of_units.size().to_numpy()
    assert (counts <= 4).all()
    assert counts.tolist() == result.descriptions["meanings"][lambda n: n > 0].tolist()
    assert not result.meanings.duplicated(["layer", "unit", "description"]).any()
    for _, of_unit in of_units:
        assert of_unit["share"].is_monotonic_decreasing


def test_truth_is_scored_with_the_layer(images: Path) -> None:
    truth = {"head": ["red", "red", "green", "blue", "red", "green"]}
    result, without = dissect(images, truth=truth), dissect(images)
    assert result.descriptions["truth_rank"][1:4].tolist() == [1.0, 1.0, 1.0]
    pd.testing.assert_frame_equal(result.meanings, without.meanings, rtol=1e-6)


@pytest.mark.parametrize("wrong", [0, 21, -1, "2", 1.5])
def test_wrong_numbers(images: Path, wrong: Any) -> None:
    with pytest.raises(DissectError, match=f"meanings.*{wrong!s}"):
        dissect(images, meanings=wrong)
    with pytest.raises(DissectError, match="meanings"):
        method.build("clip_dissect", meanings=wrong)


def test_formula_cells_are_json(images: Path) -> None:
    tree = json.loads(dissect(images).descriptions["formula"][0])
    assert tree["op"] == "OR" and len(tree["of"]) == 2


def reported(images: Path, folder: Path) -> Path:
    """The folder of a run with its report."""
    target = Target("sums", Sums(), preprocess(), ("head",))
    result = dissect(images)
    result.save(folder)
    arguments = target, probe.resolve(str(images)), Settings(device="cpu", workers=0)
    report.collect(folder, result, *arguments, look=ReportSettings(images=14, regions=0))
    report.build(folder)
    return folder


def test_reports_show_meanings(images: Path, tmp_path: Path) -> None:
    folder = reported(images, tmp_path / "run")
    data = (folder / "report" / "data" / "units.js").read_text()
    start = json.loads(data[data.index("{") : data.rindex(")")])
    texts, several = start["texts"], start["layers"][0]["sides"][0]["g"]
    assert {texts[meaning[0]] for meaning in several[0]} == {"red", "green"}
    assert several[1] is None and several[4] is None
    details = (folder / "report" / "data" / "0-0-0.js").read_text()
    units = json.loads(details[details.index("{") : details.rindex(")")])["units"]
    assert sorted(units[0]["g"]) == [0] * 2 + [1] * 6 + [2] * 6
    assert "g" not in units[1]
    assert "<dt>meanings</dt>" in (folder / "report" / "index.html").read_text()


def test_the_command_shows_meanings(
    images: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    folder = reported(images, tmp_path / "run")
    unit = unit_of(report.load(folder), "head/0")
    assert [meaning.images for meaning in unit.meanings] == [6, 6]
    assert {image.meaning for image in unit.images} == {0, 1, 2}
    monkeypatch.setattr(sys, "argv", ["clipdissect", "show", str(folder), "head/0"])
    cli.main()
    said = capsys.readouterr().out
    first, second = (meaning.text for meaning in unit.meanings)
    for part in (f"head/0  {first} | {second}", "50% of the activation, 6 images", "meaning 2"):
        assert part in said


def test_scores_take_the_formula(images: Path) -> None:
    """A unit for red or green is predicted better from both meanings than from one."""
    result = dissect(images)
    tree = formulas.read(result.descriptions["formula"][0])
    assert tree is not None
    names = sorted(path.name for path in images.iterdir())
    kinds = {c: torch.tensor([float(n.startswith(c)) for n in names]) for c in COLOURS}
    values = formulas.evaluate(tree, kinds.__getitem__)
    assert torch.equal(values, kinds["red"] + kinds["green"])
