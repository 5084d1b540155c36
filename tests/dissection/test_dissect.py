"""The main job as a library call, on a network whose answers are known."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from PIL import Image
from tiny import COLOURS, ColourEncoder, ColourNet, preprocess, write_colours
from torch import nn

import clipdissect
from clipdissect import dissection, similarity
from clipdissect.capture.activations import TopKActivations, few_distinct, top_of
from clipdissect.capture.settings import Settings
from clipdissect.concepts.base import clean
from clipdissect.errors import DissectError
from clipdissect.results.describe import Describer, describe_layer
from clipdissect.similarity import ConceptActivations, softmax
from clipdissect.similarity.sources import Source

SETTINGS = Settings(device="cpu", workers=0)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_colours(tmp_path / "images")
    return tmp_path / "images"


def dissect(probe: object, **changes: object) -> clipdissect.Result:
    arguments = {
        "model": ColourNet(),
        "layers": ["head"],
        "probe": probe,
        "concepts": list(COLOURS),
        "preprocess": preprocess(),
        "encoder": ColourEncoder(),
        "settings": SETTINGS,
        "similarity": similarity.build("soft_wpmi", top_k=4),
        **changes,
    }
    return clipdissect.dissect(**arguments)  # type: ignore[arg-type]


def test_units_get_the_colours_they_answer_to(images: Path) -> None:
    table = dissect(str(images)).descriptions
    assert list(table.columns[:4]) == ["layer", "unit", "description", "similarity"]
    assert list(table["description"]) == ["red", "green", "blue", ""]
    assert list(table["unit_flags"]) == [(), (), (), ("dead",)]
    live = table.iloc[:3]
    assert (live["margin"] > 0).all()
    assert live["margin"].to_list() == pytest.approx(live["similarity"] - live["similarity_2"])
    assert pd.isna(table["similarity"][3])


def test_top_images_are_the_brightest_of_the_colour(images: Path) -> None:
    table = dissect(str(images), images=2).top_images
    green = table[table["unit"] == 1]
    assert list(green["image"]) == ["green0.png", "green1.png"]
    assert green["activation"].to_list() == pytest.approx([2.0, 2 * 230 / 255], abs=1e-4)
    assert list(green["rank"]) == [1, 2]


def test_dataset_concept_file_and_several_layers(images: Path, tmp_path: Path) -> None:
    names = [f"{c}{i}" for c in COLOURS for i in range(4)]
    data = [(Image.open(images / f"{name}.png"), 0) for name in names]
    words = tmp_path / "words.txt"
    words.write_text("red\ngreen\nblue\nred\n")
    result = dissect(data, concepts=words, layers=["conv", "head"])
    assert list(result.descriptions["layer"]) == ["conv"] * 4 + ["head"] * 4
    assert list(result.descriptions["description"])[:3] == ["red", "green", "blue"]
    assert result.run["concepts"]["dropped"] == {"duplicate": ["red"]}


def test_second_call_runs_nothing_and_gives_the_same(images: Path) -> None:
    model, encoder = ColourNet(), ColourEncoder()
    first = dissect(images, model=model, encoder=encoder)
    seen = model.calls, encoder.images_seen, encoder.texts_seen
    second = dissect(images, model=model, encoder=encoder)
    assert (model.calls, encoder.images_seen, encoder.texts_seen) == seen
    pd.testing.assert_frame_equal(first.descriptions, second.descriptions)
    assert second.run["computed"] == []


def test_without_a_store_nothing_is_kept(images: Path, own_cache: Path) -> None:
    dissect(images, store=None)
    assert list(own_cache.iterdir()) == []


def test_files_of_a_run(images: Path, tmp_path: Path) -> None:
    (images / "bad.png").write_bytes(b"x")
    folder = dissect(images).save(tmp_path / "run", report=False)
    assert sorted(p.name for p in folder.iterdir()) == [
        "descriptions.csv",
        "run.json",
        "top_images.csv",
        "units.csv",
        "vectors.safetensors",
    ]
    read = pd.read_csv(folder / "descriptions.csv", keep_default_na=False)
    assert len(read) == 4
    assert (folder / "descriptions.csv").read_text().startswith("layer,unit,description,similarity")
    run = json.loads((folder / "run.json").read_text())
    assert run["probe"]["skipped"].keys() == {"bad.png"}
    assert run["probe"]["used"] == 24
    assert {"target", "images", "concepts", "encoder texts"} <= run["digests"].keys()
    assert {"load", "texts", "images", "summaries", "similarity"} <= run["seconds"].keys()
    assert run["similarity"]["top_k"] == 4


def test_similarity_by_name_needs_enough_images(images: Path) -> None:
    with pytest.raises(DissectError, match=r"top_k is 100.* only 24 images"):
        dissect(images, similarity="soft_wpmi")


def test_top_k_counts_readable_images_only(images: Path) -> None:
    (images / "bad.png").write_bytes(b"x")
    with pytest.raises(DissectError, match=r"top_k is 25.* only 24 images"):
        dissect(images, similarity=similarity.build("soft_wpmi", top_k=25))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"preprocess": None}, "preprocess is needed"),
        ({"layers": "head"}, r"list of names.*got 'head'"),
        ({"layers": [3]}, r"list of names.*got \[3\]"),
        ({"preprocess": "x"}, "function of a PIL image"),
        ({"concepts": None}, "list of texts"),
        ({"concepts": "cat"}, "pass a list"),
        ({"layers": ["haed"]}, "Did you mean head"),
        ({"layers": None}, "no layers"),
        ({"model": 3}, "got int"),
        ({"model": "resnet5"}, "unknown target"),
        ({"encoder": "clip"}, "unknown encoder 'clip'.*clip_vit_b16"),
        ({"encoder": object()}, "lacks name, notes, preprocess"),
        ({"similarity": "soft"}, "soft_wpmi"),
        ({"concepts": []}, "empty"),
        ({"probe": "nowhere/at/all"}, "image folder"),
        ({"top": 0}, "at least 1"),
    ],
)
def test_mistakes_are_told_apart(images: Path, changes: dict[str, object], says: str) -> None:
    with pytest.raises(DissectError, match=says):
        dissect(**{"probe": images, **changes})


def test_all_units_dead(images: Path) -> None:
    model = ColourNet()
    nn.init.zeros_(model.conv.weight)
    table = dissect(images, model=model).descriptions
    assert set(table["unit_flags"]) == {("dead",)}
    assert set(table["description"]) == {""}


def test_an_only_unit_is_tied(images: Path) -> None:
    class One(ColourNet):
        def __init__(self) -> None:
            super().__init__()
            self.cut = nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.cut(super().forward(x)[:, :1])

    assert list(dissect(images, model=One(), layers=["cut"]).descriptions["unit_flags"]) == [
        ("tied",)
    ]


def test_dead_layers_have_the_same_columns(images: Path) -> None:
    class Zeros(ColourNet):
        def __init__(self) -> None:
            super().__init__()
            self.zeros = nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.zeros(torch.zeros(len(x), 2))
            return super().forward(x)

    alone = dissect(images, model=Zeros(), layers=["zeros"]).descriptions
    first = dissect(images, model=Zeros(), layers=["zeros", "head"]).descriptions
    normal = dissect(images).descriptions
    assert list(alone.columns) == list(first.columns) == list(normal.columns)
    assert set(alone["description_2"]) == {""}


def test_rewritten_folder_is_not_complete_meanwhile(images: Path, tmp_path: Path) -> None:
    result = dissect(images)
    result.save(tmp_path / "run")
    result.run["not json"] = object()
    with pytest.raises(TypeError):
        result.save(tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()


def test_file_names_that_are_no_text(images: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"gr\xfcn.png")
    Image.new("RGB", (9, 9), (0, 255, 0)).save(images / name, format="png")
    folder = dissect(images).save(tmp_path / "run")
    assert "gr\\udcfcn.png" in (folder / "top_images.csv").read_text()


def test_layers_are_checked_before_any_text_is_embedded(images: Path) -> None:
    encoder = ColourEncoder()
    with pytest.raises(DissectError, match="unknown layer"):
        dissect(images, encoder=encoder, layers=["haed"])
    assert encoder.texts_seen == 0


def test_dead_units_do_not_move_the_others(images: Path) -> None:
    class Live(ColourNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.cut(super().forward(x)[:, :3])

        def __init__(self) -> None:
            super().__init__()
            self.cut = nn.Identity()

    with_dead = dissect(images).descriptions
    without = dissect(images, model=Live(), layers=["cut"]).descriptions
    assert with_dead["similarity"][:3].to_list() == without["similarity"].to_list()


def test_ranks_of_right_concepts(images: Path) -> None:
    truth = {"head": ["red", "grey", "cyan", "blue"]}
    table = dissect(images, top=6, truth=truth).descriptions
    assert table["truth_rank"][0] == 1
    endings = ["", *(f"_{n}" for n in range(2, 7))]
    scores = {table[f"description{e}"][2]: table[f"similarity{e}"][2] for e in endings}
    better = sum(score > scores["cyan"] for score in scores.values())
    equal = sum(score == scores["cyan"] for text, score in scores.items() if text != "cyan")
    assert equal == 1  # magenta is as far from blue
    assert table["truth_rank"][2] == 1 + better + equal / 2
    assert table["truth_rank"][[1, 3]].isna().all()  # no concept, and a dead unit
    plain = dissect(images, top=6).descriptions
    pd.testing.assert_frame_equal(table.drop(columns="truth_rank"), plain)
    with pytest.raises(DissectError, match="4 units, but 1 right labels"):
        dissect(images, truth={"head": ["red"]})
    with pytest.raises(DissectError, match="unknown layer of truth 'haed'"):
        dissect(images, truth={"haed": ["red"]})


def test_copies_of_a_concept_have_one_rank(images: Path) -> None:
    once = ["cyan", "red", "green", "blue"]
    truth = {"head": ["red", "cyan", "blue", "green"]}
    plain = dissect(images, concepts=once, truth=truth).descriptions["truth_rank"]
    texts = ["cyan", "red", "cyan", "green", "red", "green", "blue", "cyan"]
    kept = clean("kept", texts, duplicates="keep")
    table = dissect(images, concepts=kept, truth=truth).descriptions
    assert table["truth_rank"].tolist()[:3] == plain.tolist()[:3]
    assert table["truth_rank"][0] == table["truth_rank"][2] == 1


def test_few_distinct_activations_are_flagged(images: Path) -> None:
    q = torch.zeros(10, 3)
    q[:, 0] = torch.arange(10.0)
    q[:3, 1] = torch.tensor([3.0, 2.0, 1.0])
    q[:, 2] = torch.tensor([9.0, 9.0, *range(8)])
    assert few_distinct(q, top_of(q, 5)).tolist() == [False, True, False]
    assert few_distinct(q, top_of(q, 4)).tolist() == [False, False, False]
    assert few_distinct(q, None).tolist() == [False, False, False]
    table = dissect(images, similarity=similarity.build("soft_wpmi", top_k=9)).descriptions
    assert list(table["unit_flags"]) == [("few_distinct",)] * 3 + [("dead",)]


@pytest.mark.parametrize("name", ["soft_wpmi", "wpmi", "cosine_cubed", "rank_reorder"])
def test_layers_together_are_described_as_each_alone(name: str) -> None:
    torch.manual_seed(0)
    factors = ConceptActivations(torch.randn(60, 5), torch.randn(30, 5))
    layers = {f"layer{units}": torch.randn(60, units) for units in (1, 7, 4, 3)}
    layers["layer4"][:, 2] = 1.0
    layers["dead"] = torch.zeros(60, 2)
    words = [f"word {i}" for i in range(30)]
    extra = {"top_k": 10} if "wpmi" in name else {}
    scorer = similarity.build(name, **extra)
    truth = {"layer3": ["word 4", "none of them", "word 29"]}
    describer = Describer(factors, words, scorer, 3)
    for layer, q in layers.items():
        describer.add(layer, q, truth.get(layer))
    for layer, table in zip(layers, describer.tables(), strict=True):
        alone = describe_layer(layer, layers[layer], factors, words, scorer, 3, truth.get(layer))
        pd.testing.assert_frame_equal(table, alone, rtol=1e-4, atol=1e-5)


def test_layers_together_take_one_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    taken, usual = [], softmax.Exponentials

    def exponentials(source: Source, *rest: Any) -> softmax.Exponentials:
        taken.append(source.images)
        return usual(source, *rest)

    monkeypatch.setattr(softmax, "Exponentials", exponentials)
    torch.manual_seed(0)
    factors = ConceptActivations(torch.randn(20, 5), torch.randn(9, 5))
    describer = Describer(
        factors, list("abcdefghi"), similarity.build("soft_wpmi", top_k=3), 1, False
    )
    kept = TopKActivations.of(torch.randn(20, 40), torch.arange(20), 5)
    for layer, q in {"all": torch.randn(20, 40), "top": kept}.items():
        describer.add(layer, q)
    assert taken == []
    first = describer.tables()
    assert taken == [20]
    for table, again in zip(first, describer.tables(), strict=True):
        pd.testing.assert_frame_equal(table, again)
    assert taken == [20]


def test_permuted_images_give_the_same_descriptions(images: Path) -> None:
    names = sorted(images.iterdir())
    forward = dissect([Image.open(p) for p in names]).descriptions
    backward = dissect([Image.open(p) for p in reversed(names)]).descriptions
    assert forward["description"].equals(backward["description"])
    assert forward["similarity"].to_list()[:3] == pytest.approx(
        backward["similarity"].to_list()[:3]
    )


def test_another_default_dtype_changes_no_description(images: Path) -> None:
    plain = dissect(images).descriptions
    torch.set_default_dtype(torch.float64)
    try:
        table = dissect(images, model=ColourNet().float()).descriptions
    finally:
        torch.set_default_dtype(torch.float32)
    assert table["description"].equals(plain["description"])
    assert table["similarity"].to_list()[:3] == pytest.approx(plain["similarity"].to_list()[:3])


def test_the_null_can_be_left_out(images: Path) -> None:
    whole, without = dissect(images), dissect(images, null_similarity=False)
    assert whole.run["null"] == {"shuffled_by": 0} and without.run["null"] is None
    pd.testing.assert_frame_equal(
        whole.descriptions.drop(columns="null_similarity"), without.descriptions
    )


def test_scoring_goes_on_on_the_cpu_where_the_card_is_too_small(
    images: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = dissect(images)
    devices = []
    describe = dissection._describe

    def too_small(*arguments: Any) -> Any:
        devices.append(arguments[-1])
        if arguments[-1] == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return describe(*arguments)

    monkeypatch.setattr(dissection, "_describe", too_small)
    monkeypatch.setattr(Settings, "scoring_device", "cuda")
    with caplog.at_level(logging.WARNING):
        found = dissect(images)
    assert devices == ["cuda", "cpu"]
    assert "too small for scoring" in caplog.text
    pd.testing.assert_frame_equal(found.descriptions, wanted.descriptions)
    pd.testing.assert_frame_equal(found.top_images, wanted.top_images)


@pytest.mark.parametrize(("device", "wanted"), [("cpu", "cpu"), ("meta", "cpu")])
def test_device_that_scores(device: str, wanted: str) -> None:
    assert Settings(device=device).scoring_device == wanted
