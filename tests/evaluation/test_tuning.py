"""Objectives: halves of the units, values by hand, and what is told before any work."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_evaluation import SENTENCES, TARGET, table

from clipdissect import concepts
from clipdissect.errors import DissectError, MissingResource
from clipdissect.evaluation import half_split
from clipdissect.sentence import CachedSentenceEncoder

WORDS = concepts.resolve(["cat", "dog", "wolf"])


@pytest.mark.parametrize("units", [2, 7, 1000])
def test_halves_share_nothing_and_leave_nothing_out(units: int) -> None:
    tuned, reported = half_split.halves(units, seed=3)
    assert len(tuned) == units // 2
    assert sorted([*tuned, *reported]) == list(range(units))
    again, _ = half_split.halves(units, seed=3)
    assert np.array_equal(tuned, again)


def test_other_seeds_are_other_halves() -> None:
    assert not np.array_equal(half_split.halves(1000, 0)[0], half_split.halves(1000, 1)[0])


def test_values_of_the_halves_by_hand() -> None:
    rows = table(["cat", "wolf", "wolf"])  # of cat, dog, wolf: right, 0.8 near, right
    right, near = np.array([1, 0, 1]), np.array([1.0, 0.8, 1.0])
    halves = dict(zip(("tuning", "report"), half_split.halves(3, 5), strict=True))
    for name, values in (("top1", right), ("plane_cos", near)):
        found = half_split.objective(name, rows, TARGET, WORDS, SENTENCES, None, seed=5)
        for half, units in halves.items():
            assert found[half] == pytest.approx(values[units].mean())
            assert found[f"{half}_units"] == len(units)
        assert (found["name"], found["seed"]) == (name, 5)


def test_undefined_half_is_an_error() -> None:
    with pytest.raises(DissectError, match=r"plane_cos of the tuning half.*no unit is described"):
        half_split.objective("plane_cos", table([""] * 3), TARGET, WORDS, SENTENCES, None)


@pytest.mark.parametrize(
    ("name", "changes", "sentences", "words", "says"),
    [
        ("top2", {}, SENTENCES, ["cat"], "unknown objective 'top2'.*top1.*plane_cos"),
        ("top1", {}, SENTENCES, ["house"], "undefined: no class name"),
        ("plane_cos", {}, MissingResource("mpnet", [], "get it"), ["cat"], "undefined.*mpnet"),
        ("top1", {"layers": ("conv",)}, None, ["cat"], r"target.layers=\[fc\]"),
        ("top1", {"class_layer": None, "class_names": ()}, None, ["cat"], "no units with class"),
    ],
)
def test_told_before_any_work(
    name: str, changes: dict[str, object], sentences: object, words: list[str], says: str
) -> None:
    target = replace(TARGET, **changes)  # type: ignore[arg-type]
    with pytest.raises(DissectError, match=says):
        half_split.check(name, target, concepts.resolve(words), sentences)  # type: ignore[arg-type]


def test_defined_objectives_pass() -> None:
    half_split.check("top1", TARGET, WORDS, SENTENCES)
    half_split.check("plane_cos", TARGET, WORDS, SENTENCES)
    half_split.check("top1", TARGET, WORDS, MissingResource("mpnet", [], "get it"))


def test_remembered_sentences_are_embedded_once() -> None:
    asked: list[list[str]] = []

    class Counted(type(SENTENCES)):  # type: ignore[misc]
        def embed(self, texts: list[str], device: str = "cpu") -> torch.Tensor:
            asked.append(list(texts))
            return super().embed(texts, device)

    remembered = CachedSentenceEncoder(Counted())
    first = remembered.embed(["cat", "dog", "cat"])
    second = remembered.embed(["wolf", "cat"])
    assert asked == [["cat", "dog"], ["wolf"]]
    assert torch.equal(first[0], first[2])
    assert torch.equal(second, SENTENCES.embed(["wolf", "cat"]))
    assert (remembered.name, remembered.digest) == ("plane", "plane")
