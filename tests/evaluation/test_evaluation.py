"""Metrics by hand, and reasons where they are undefined."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from tiny import ColourNet, preprocess
from torch import Tensor

from clipdissect import concepts, evaluation
from clipdissect.errors import DissectError, MissingResource
from clipdissect.evaluation import ClassLabels, Resampling, evaluate, places365
from clipdissect.evaluation.controls import best_constant
from clipdissect.evaluation.truth import of_source, of_target
from clipdissect.evaluation.units import rows_of, unit_table
from clipdissect.targets import Target

VECTORS = {"cat": [1.0, 0.0], "dog": [0.0, 1.0], "wolf": [0.6, 0.8], "pet": [0.8, 0.6]}
HOW = Resampling(200)


class Sentences:
    """Three words on a plane."""

    name, digest, context_length = "plane", "plane", 9

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [1] * len(texts)

    def embed(self, texts: Sequence[str], device: str = "cpu") -> Tensor:
        return torch.tensor([VECTORS[text] for text in texts])


TARGET = Target("net", ColourNet(), preprocess(), ("fc",), "fc", ("cat", "dog", "wolf"))
SENTENCES = Sentences()


def table(descriptions: list[str]) -> pd.DataFrame:
    flags = ["" if d else "dead" for d in descriptions]
    scores = [1.0 if d else float("nan") for d in descriptions]
    return pd.DataFrame(
        {
            "layer": "fc",
            "unit": range(len(flags)),
            "description": descriptions,
            "similarity": scores,
            "margin": scores,
            "unit_flags": flags,
        }
    )


def measure(descriptions: list[str], texts: list[str], sentences: object = SENTENCES) -> dict:  # type: ignore[type-arg]
    return evaluation.metrics(
        table(descriptions),
        TARGET,
        concepts.resolve(texts),
        sentences,
        None,  # type: ignore[arg-type]
    )


def test_accuracy_and_cosine_by_hand() -> None:
    found = measure(["cat", "wolf", ""], ["cat", "dog", "wolf"])
    assert found["layers"]["fc"]["dead"] == 1
    final = found["final_layer"]
    # One of three right (a unit without description is wrong); cosines 1 and 0.8.
    assert final["top1"] == pytest.approx(1 / 3)
    assert final["plane_cos"] == pytest.approx(0.9)
    assert final["classes_in_concepts"] == 3


def test_numbers_about_units_are_among_their_layers_metrics() -> None:
    names = ("clarity", "polysemanticity", "redundancy", "monosemanticity")
    units = pd.DataFrame({"layer": "fc", "unit": range(3), **dict.fromkeys(names, 0.5)})
    parts = table(["cat"] * 3), TARGET, None, None, None
    layer = evaluation.metrics(*parts, units)["layers"]["fc"]
    assert layer["clarity"] == {"units": 3, "value": 0.5, "low": 0.5, "high": 0.5}
    assert (layer["units"], layer["mean_similarity"]) == (3, 1.0)
    assert "clarity" not in evaluation.metrics(*parts)["layers"]["fc"]


def test_undefined_metrics_have_reasons() -> None:
    final = measure(["thing"] * 3, ["thing", "other"], MissingResource("mpnet", [], "get it"))
    assert final["final_layer"]["top1"] is None
    assert "no class name" in final["final_layer"]["top1_reason"]
    assert final["final_layer"]["sentence_cos"] is None
    assert "mpnet" in final["final_layer"]["sentence_cos_reason"]
    dead = measure(["", "", ""], ["cat"])
    assert dead["layers"]["fc"]["mean_similarity_reason"] == "no unit is described"
    assert dead["final_layer"]["plane_cos"] is None
    assert dead["final_layer"]["plane_cos_reason"]


def judged(descriptions: list[str], texts: list[str] | None, **columns: Any) -> Any:
    rows = table(descriptions).assign(**columns)
    truth = ClassLabels("three", ("cat", "dog", "wolf"))
    return evaluate(rows, truth, texts, {"plane": SENTENCES}, None, HOW)  # type: ignore[dict-item]


def test_final_layer_by_hand() -> None:
    texts = ["cat", "dog", "pet", "wolf"]
    found = judged(
        ["cat", "wolf", "wolf"], texts, similarity=[3.0, 2.0, 1.0], truth_rank=[1.0, 3.0, 1.0]
    )
    final = found.metrics["final_layer"]
    assert final["top1"] == pytest.approx(2 / 3)
    assert final["top1_right"] == 2
    assert final["top5"] == 1.0
    assert final["mean_rank"] == pytest.approx(5 / 3)
    assert final["median_rank"] == 1.0
    # Cosines 1, dog to wolf 0.8, 1.
    assert final["plane_cos"] == pytest.approx(2.8 / 3)
    # Right labels score 3 and 1, the wrong one 2: one of two pairs in order.
    assert final["auc"] == 0.5
    assert (final["classes_in_concepts"], final["concepts"], final["described"]) == (3, 4, 3)
    assert list(found.units.table) == [
        "layer",
        "unit",
        "truth",
        "description",
        "similarity",
        "right",
        "rank",
        "top5",
        "right_any_synonym",
        "plane_cos",
    ]
    assert final["ranked"] == 3
    interval = found.metrics["intervals"]["plane_cos"]
    assert 0.8 - 1e-6 <= interval["low"] <= 2.8 / 3 <= interval["high"] <= 1.0 + 1e-6


def test_controls_by_hand() -> None:
    texts = ["pet", "cat", "wolf"]
    found = judged(["cat", "wolf", ""], texts, truth_rank=[1.0, float("nan"), float("nan")])
    constant = found.metrics["controls"]["best_constant"]
    # Mean cosine with cat, dog, wolf: pet (0.8+0.6+0.96)/3, cat (1+0+0.6)/3, wolf (0.6+0.8+1)/3.
    assert constant["plane_cos"] == pytest.approx(0.8)
    assert constant["labels"] == {"plane_cos": "wolf", "top1": "cat", "top1_any_synonym": "cat"}
    assert constant["top1"] == pytest.approx(1 / 3)  # one class a label
    assert constant["top5"] == pytest.approx(2 / 3)  # dog isn't among the concepts
    assert constant["mean_rank"] is None
    assert "knowing the truth" in constant["mean_rank_reason"]
    assert constant["auc"] is None
    assert "no score" in constant["auc_reason"]
    assert set(found.metrics["differences"]["best_constant"]) == {
        "plane_cos",
        "top1",
        "top5",
        "top1_any_synonym",
    }


def test_random_labels_are_right_as_often_as_chance_has_it() -> None:
    names = tuple(f"class {i}" for i in range(4000))
    rows = pd.DataFrame(
        {
            "layer": "fc",
            "unit": range(4000),
            "description": names,
            "similarity": 1.0,
            "truth_rank": 1.0,
        }
    )
    truth = ClassLabels("many", names)
    found = evaluate(rows, truth, names[:8], {}, None, Resampling(100, seed=1))
    chance = found.metrics["controls"]["random"]
    # Eight of the classes are concepts, so next to none can be right; of those eight ranks are 1-8.
    assert chance["top1"] <= 8 / 4000
    assert 1 <= chance["mean_rank"] <= 8
    again = evaluate(rows, truth, names[:8], {}, None, Resampling(100, seed=1))
    assert again.metrics == found.metrics
    same = ClassLabels("same", ("class 0",) * 4000)
    few = evaluate(rows.assign(description="class 0"), same, names[:8], {}, None, Resampling(100))
    control = few.metrics["controls"]["random"]
    assert control["top1"] == pytest.approx(1 / 8, abs=0.02)
    assert control["top5"] == pytest.approx(5 / 8, abs=0.03)
    assert control["mean_rank"] == pytest.approx(4.5, abs=0.15)
    assert few.metrics["controls"]["best_constant"]["top1"] == 1.0


def test_no_constant_is_right_where_the_units_names_are_no_concepts() -> None:
    units = judged(["cat", "wolf", "dog"], ["cat", "dog"]).units.take([2])  # the wolf
    control, labels = best_constant(units, ["cat", "dog"], {})
    assert labels == {}
    assert control.table["right"].tolist() == [0.0]


def test_labels_without_rank_or_concepts() -> None:
    found = judged(["cat", "wolf", "pet"], None).metrics
    final = found["final_layer"]
    assert (final["concepts"], final["classes_in_concepts"]) == (None, None)
    assert "isn't known" in final["concepts_reason"]
    assert found["controls"] == found["differences"] == {}
    assert "isn't known" in found["controls_reason"]
    assert final["top1"] == pytest.approx(1 / 3)
    assert final["mean_rank"] is None
    assert "without the rank" in final["mean_rank_reason"]
    assert "fewer than 5" in final["top5_reason"]
    # Any class could have been named, so none right is 0.
    none = judged(["pet", "pet", "pet"], None).metrics
    assert (none["final_layer"]["top1"], none["final_layer"]["top1_right"]) == (0.0, 0)
    assert none["intervals"]["top1"]["high"] > 0.5
    assert none["final_layer"]["plane_cos"] == pytest.approx((0.8 + 0.6 + 0.96) / 3)


def test_units_without_a_description_have_no_rank() -> None:
    """Three live and seven dead units, to which an older file gives rank 1."""
    names = tuple(f"class {i}" for i in range(10))
    rows = table(["class 0", "x", "x", *[""] * 7]).assign(truth_rank=[1.0, 2.0, 9.0] + [1.0] * 7)
    found = evaluate(rows, ClassLabels("ten", names), [*names, "x"], {}, None, HOW).metrics[
        "final_layer"
    ]
    assert (found["top1"], found["top5"]) == (0.1, 0.2)  # dead units count as wrong
    assert (found["mean_rank"], found["median_rank"], found["ranked"]) == (4.0, 2.0, 3)


CLASSES = (
    "streetcar, tram, tramcar, trolley, trolley car",
    "crane, bird",
    "crane, machine",
    "harmonica, mouth organ, harp, mouth harp",
    "Washington, D.C.",
)


@pytest.mark.parametrize(
    ("label", "right"),
    [
        ("trolley", 0),
        ("Trolley Car", 0),
        (CLASSES[0], 0),
        ("bird", None),
        ("machine", None),
        ("crane, bird", 1),
        ("harp", None),
        ("mouth harp", 3),
        ("Washington", None),
        ("washington, d.c.", 4),
        ("", None),
        ("trolley, tram", None),
    ],
)
def test_any_synonym(label: str, right: int | None) -> None:
    rows = table([label] * 5).assign(**{f"description_{n}": "x" for n in range(2, 6)})
    units = unit_table(rows, CLASSES, None, {}).table
    wanted = [float(i == right) for i in range(5)]
    assert units["right_any_synonym"].tolist() == units["top5_any_synonym"].tolist() == wanted
    assert units["right"].tolist() == [float(label == name) for name in CLASSES]


def test_both_cranes_are_cranes() -> None:
    rows = table(["crane"] * 5)
    assert unit_table(rows, CLASSES, None, {}).table["right_any_synonym"].tolist() == [
        0,
        1,
        1,
        0,
        0,
    ]


def test_accuracy_by_any_synonym_where_no_whole_name_is_a_concept() -> None:
    truth = ClassLabels("some", CLASSES)
    found = evaluate(table(["trolley", "x", "x", "x", "x"]), truth, ["trolley", "x"], {}, None, HOW)
    final = found.metrics["final_layer"]
    assert final["top1"] is None
    assert (final["top1_any_synonym"], final["top1_any_synonym_right"]) == (0.2, 1)
    assert (final["classes_in_concepts"], final["classes_in_concepts_any_synonym"]) == (0, 1)
    constant = found.metrics["controls"]["best_constant"]
    assert constant["top1_any_synonym"] == 0.2
    assert constant["labels"] == {"top1_any_synonym": "trolley"}
    none = evaluate(table(["x"] * 5), truth, ["x", "y"], {}, None, HOW).metrics["final_layer"]
    assert none["top1_any_synonym"] is None
    assert "no name of any class" in none["top1_any_synonym_reason"]


def test_top5_from_the_runners_up() -> None:
    others = {f"description_{n}": ["dog", "dog", "cat"] for n in range(2, 6)}
    final = judged(["cat", "wolf", "pet"], None, **others).metrics["final_layer"]
    assert final["top5"] == pytest.approx(2 / 3)


def test_an_encoder_that_is_missing_has_its_name_and_reason() -> None:
    rows, truth = table(["cat", "cat", "dog"]), ClassLabels("three", ("cat", "dog", "wolf"))
    missing = MissingResource("CLIP", ["here"], "get it")
    found = evaluate(rows, truth, None, {"clip_vit_b16": missing}, None, HOW)
    final = found.metrics["final_layer"]
    assert final["clip_vit_b16_cos"] is None
    assert "CLIP" in final["clip_vit_b16_cos_reason"]
    assert "clip_vit_b16_cos" not in found.units.table


def test_units_are_matched_by_number() -> None:
    rows = table(["cat", "dog", "wolf"]).iloc[[2, 0]]
    whole = rows_of(rows, "fc", 3)
    assert list(whole["description"]) == ["cat", "", "wolf"]
    truth = ClassLabels("three", ("cat", "dog", "wolf"))
    assert evaluate(rows, truth, None, {}, None, HOW).metrics["final_layer"]["top1_right"] == 2
    with pytest.raises(DissectError, match=r"2 class names.*unit 2.*first_unit=1"):
        evaluate(rows, ClassLabels("two", ("cat", "dog")), None, {}, None, HOW)


def test_which_layer_must_be_clear() -> None:
    both = pd.concat([table(["cat"]), table(["dog"]).assign(layer="conv")])
    with pytest.raises(DissectError, match=r"fc, conv.*method.layers=\[conv\]"):
        evaluate(both, ClassLabels("one", ("cat",)), None, {}, None, HOW)
    found = evaluate(both, ClassLabels("one", ("dog",), "conv"), None, {}, None, HOW)
    assert found.metrics["final_layer"]["top1"] == 1.0
    with pytest.raises(DissectError, match="no labels of layer head"):
        evaluate(both, ClassLabels("one", ("dog",), "head"), None, {}, None, HOW)


def test_truths(tmp_path: Path) -> None:
    (tmp_path / "pets.txt").write_text("\ufeffcat\ndog\n\n", encoding="utf-8")
    found = of_source(str(tmp_path / "pets.txt"), "fc")
    assert (found.name, found.names, found.layer) == ("pets", ("cat", "dog"), "fc")
    assert len(of_source("imagenet").names) == 1000
    assert of_target(TARGET).names == ("cat", "dog", "wolf")
    with pytest.raises(MissingResource, match=r"evaluation\.truth"):
        of_source(str(tmp_path / "none.txt"))
    (tmp_path / "gap.txt").write_text("cat\n\ndog\n")
    with pytest.raises(DissectError, match="line 2 is empty"):
        of_source(str(tmp_path / "gap.txt"))
    (tmp_path / "latin.txt").write_bytes("cané".encode("latin-1"))
    with pytest.raises(DissectError, match="not UTF-8"):
        of_source(str(tmp_path / "latin.txt"))
    with pytest.raises(DissectError, match=r"set evaluation\.layer"):
        of_target(Target("net", ColourNet(), preprocess(), ("fc",)))


PLACES = ("abbey", "apartment_building/outdoor", "beach", "attic")


def test_places_by_hand() -> None:
    rows = pd.DataFrame(
        {
            "description": ["abbey-s", "apartment_building-outdoor-s", "coast-s", "attic"],
            **{f"description_{n}": ["x", "x", "Beach", "attic"] for n in range(2, 6)},
        }
    )
    here = places365(rows, PLACES, ["abbey-s", "apartment_building-outdoor-s", "beach-s"], HOW)
    assert "note" not in here
    # Of three scenes; attic isn't one. `Beach` differs by its capital where names are as released.
    assert (here["released"]["top1_right"], here["released"]["classes"]) == (1, 3)
    assert (here["normalised"]["top1_right"], here["normalised"]["classes"]) == (2, 3)
    assert here["released"]["top5_right"] == 1
    assert here["normalised"]["top5_right"] == 3  # a label listed four times is one hit
    assert here["normalised"]["top1_interval"]["high"] == pytest.approx(0.9385, abs=1e-4)


def test_places_without_broden_say_so() -> None:
    rows = pd.DataFrame({"description": ["abbey", "x", "beach", "attic"]})
    found = places365(rows, PLACES, None, HOW)
    assert "published number of classes, 267" in found["note"]
    assert found["released"]["top1"] == pytest.approx(3 / 267)
    assert found["released"]["top5"] is None
    assert "fewer than 5" in found["released"]["top5_reason"]
    none = places365(rows, PLACES, ["volcano-s"], HOW)
    assert none["released"]["top1"] is None
