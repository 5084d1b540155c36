"""Phrases: their scores against the similarity functions' own, the search against a slow one."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd
import pytest
import torch
from study_runs import Study, facts, tiny_target
from study_runs import study as study  # the fixture
from tiny import write_colours
from torch import Tensor
from torch.nn import functional as F

from clipdissect import probe, similarity
from clipdissect.app.studies.compositional_concepts import ranked
from clipdissect.concepts import of_list
from clipdissect.errors import DissectError
from clipdissect.similarity.inputs import ConceptActivations
from clipdissect.studies import build
from clipdissect.studies.compositional_concepts import scorer, search
from experiments import compositional_concepts as runner

WORDS = [f"w{i}" for i in range(12)]


def vectors(texts: Any) -> Tensor:
    """Any text's own direction."""
    rows = [
        torch.randn(6, generator=torch.Generator().manual_seed(crc32(t.encode()))) for t in texts
    ]
    return F.normalize(torch.stack(rows), dim=1)


def inputs() -> tuple[ConceptActivations, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = F.normalize(torch.randn(40, 6, generator=generator), dim=1)
    return ConceptActivations(images, vectors(WORDS)), torch.randn(40, 5, generator=generator)


def function(name: str) -> Any:
    few = {"top_k": 7} if similarity.build(name).images_per_unit else {}
    return similarity.build(name, **few)


@pytest.mark.parametrize("name", similarity.OPTIONS)
def test_concepts_score_as_in_their_dissection(name: str) -> None:
    activations, q = inputs()
    whole = function(name)(activations.dense(), q)
    some = [3, 0, 7]
    found = scorer(function(name), activations, q)(activations.text_embeds[some])
    assert torch.allclose(found, whole[:, some], atol=1e-4)


def test_wpmi_without_epsilon_too() -> None:
    activations, q = inputs()
    wpmi = similarity.build("wpmi", top_k=7, eps=0.0)
    found = scorer(wpmi, activations, q)(activations.text_embeds)
    assert torch.allclose(found, wpmi(activations.dense(), q), atol=1e-4)


def test_large_temperature_keeps_its_shift() -> None:
    activations, q = inputs()
    sharp = similarity.build("soft_wpmi", top_k=7, a=100.0)
    found = scorer(sharp, activations, q)(activations.text_embeds)
    assert torch.allclose(found, sharp(activations.dense(), q), atol=1e-3)


def in_float64(own: Any, activations: ConceptActivations, q: Tensor, texts: Tensor) -> Tensor:
    """Scores of texts by the equations."""
    images = activations.image_embeds.double()
    sums = (own.a * images @ activations.text_embeds.double().T).logsumexp(1, keepdim=True)
    p = (own.a * images @ texts.double().T - sums)[q.topk(own.top_k, dim=0).indices.T].exp()
    if own.name == "soft_wpmi":
        steps = torch.arange(own.top_k).double()[:, None] / own.top_k
        weight = own.p_start - steps * (own.p_start - own.p_end)
        p = 1 - weight + weight * p
    joint = (p + own.eps).log().sum(1)
    return joint - own.lam * (joint.logsumexp(0) - np.log(len(joint)))


@pytest.mark.parametrize("kernels", ["", "torch"])
@pytest.mark.parametrize(
    ("name", "settings"), [("soft_wpmi", {}), ("wpmi", {}), ("wpmi", {"eps": 0.0})]
)
@pytest.mark.parametrize("a", [10.0, 20.0, 30.0, 60.0, 300.0])
def test_phrases_beyond_all_concepts_score_right(
    a: float, name: str, settings: dict[str, float], kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPDISSECT_KERNELS", kernels)
    generator = torch.Generator().manual_seed(1)
    mean = torch.randn(1, 16, generator=generator)
    images = F.normalize(mean + 0.3 * torch.randn(60, 16, generator=generator), dim=1)
    words = F.normalize(torch.randn(9, 16, generator=generator) - 0.3 * mean, dim=1)
    # One phrase is nearer to all images than any word is, one far from them.
    phrases = F.normalize(torch.cat([mean, images[:1], -mean]), dim=1)
    q = torch.randn(60, 7, generator=generator)
    own = similarity.build(name, top_k=20, a=a, **settings)
    activations = ConceptActivations(images, words)
    found = scorer(own, activations, q)(phrases).double()
    right = in_float64(own, activations, q, phrases)
    assert torch.allclose(found, right, rtol=1e-3, atol=1e-3 + 2e-5 * a)


@pytest.mark.parametrize("templates", [["{} {}"], ["{} and {}", "{} {}"]])
@pytest.mark.parametrize("length", [2, 3])
def test_search_is_the_slow_one(templates: list[str], length: int) -> None:
    activations, q = inputs()
    own = function("soft_wpmi")
    best = own.top(activations, q, 3)
    settings = build("compositional_concepts", templates=templates, words=3, length=length, beam=2)
    embedded: list[str] = []

    def embed(texts: Any) -> Tensor:
        embedded.extend(texts)
        return vectors(texts)

    found = search(settings, own, activations, q, best, WORDS, embed, 4)
    assert len(embedded) == len(set(embedded)) == found.tried
    score = scorer(own, activations, q)
    for unit in range(5):
        words = [WORDS[i] for i in best.concepts[unit, :3]]
        tried = [t.format(a, b) for t in templates for a, b in permutations(words, 2)]
        values = dict(zip(tried, score(vectors(tried))[unit].tolist(), strict=True))
        if length == 3:
            beam = sorted(values, key=lambda text: -values[text])[:2]
            longer = [t.format(a, b) for t in templates for a in beam for b in words]
            values |= dict(zip(longer, score(vectors(longer))[unit].tolist(), strict=True))
        right = sorted(values, key=lambda text: -values[text])[:4]
        assert found.texts[unit] == right
        assert found.scores[unit] == pytest.approx([values[t] for t in right], abs=1e-4)


def test_released_normaliser_takes_each_units_phrases_alone() -> None:
    activations, q = inputs()
    own = function("soft_wpmi")
    best = own.top(activations, q, 3)
    settings = build(
        "compositional_concepts", templates=["{} {}"], words=3, units=2, normaliser="candidates"
    )
    found = search(settings, own, activations, q, best, WORDS, vectors, 2)
    assert len(found.texts) == 2
    words = [WORDS[i] for i in best.concepts[1, :3]]
    tried = [f"{a} {b}" for a, b in permutations(words, 2)]
    scores = own(activations.image_embeds @ vectors(tried).T, q)[1]
    order = scores.argsort(descending=True)
    assert found.texts[1] == [tried[i] for i in order[:2]]
    assert found.scores[1] == pytest.approx(scores[order[:2]].tolist(), abs=1e-4)


CITIES = ["york", "new york", "city", "york city", "new"]


@pytest.mark.parametrize("words", [4, 5])
@pytest.mark.parametrize("settings", [{}, {"normaliser": "candidates"}, {"length": 3, "beam": 20}])
def test_phrase_of_two_pairs_is_listed_once(settings: dict[str, Any], words: int) -> None:
    activations, q = inputs()
    activations = ConceptActivations(activations.image_embeds, vectors(CITIES))
    own = function("soft_wpmi")
    study = build("compositional_concepts", templates=["{} {}"], words=words, **settings)
    best = own.top(activations, q, words)
    found = search(study, own, activations, q, best, CITIES, vectors, 200)
    counts = set()
    for numbers, texts in zip(best.concepts.tolist(), found.texts, strict=True):
        tried = [CITIES[i] for i in numbers]
        pairs = {f"{a} {b}" for a, b in permutations(tried, 2)}
        counts.add(len(pairs))  # "new york city" is two of them, where a unit has its words
        longer = {f"{a} {b}" for a in pairs for b in tried} if "length" in settings else set()
        assert len(texts) == len(set(texts))
        assert set(texts) == pairs | longer
    assert counts == ({19} if words == 5 else {11, 12})


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"templates": ["{}"]}, "needs two"),
        ({"templates": []}, "needs two"),
        ({"templates": ["{0} {1}"]}, "needs two"),
        ({"words": 1}, r"study\.words.*at least 2"),
        ({"normaliser": "all"}, "concepts or candidates"),
        ({"normaliser": "candidates", "length": 3}, "study.length=2"),
    ],
)
def test_settings_are_checked(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(DissectError, match=says):
        build("compositional_concepts", **{"templates": ["{} {}"], **wrong})


def test_papers_preset_runs(study: Study, tmp_path: Path) -> None:
    write_colours(tmp_path / "images")
    folder = study(
        runner,
        tiny_target(("red", "green", "blue", "x"), ["conv", "head"]),
        "experiment=compositional_concepts",
        "similarity.top_k=4",
        "target.layers=[conv,head]",
        probe=probe.build("folder", root=str(tmp_path / "images")),
        concepts=of_list(["red", "green", "blue", "cyan"]),
        colours={"red cyan": (255, 0, 0)},
    )
    found = facts(folder)["compositional_concepts"]
    assert found["head"]["units"] == 3  # the fourth is dead
    assert found["head"]["distinct_phrases"] == 12
    assert found["head"]["scored"] == 36
    judged = found["head"]["judged"]
    # The words are right; of the phrases all but "red cyan" are white, at 0.577 to any colour.
    assert judged["mpnet"]["words"]["value"] == pytest.approx(1.0)
    assert judged["mpnet"]["phrases_minus_words"]["value"] == pytest.approx(2 / 3 * (3**-0.5 - 1))
    assert "weights of clip_vit_b16" in judged["clip_vit_b16"]["reason"]
    assert "judged" not in found["conv"]
    table = pd.read_csv(folder / "compositional_concepts.csv", keep_default_na=False)
    assert list(table["layer"]) == ["conv"] * 3 + ["head"] * 3
    assert table["phrase"][3] == "red cyan"
    assert np.isclose(float(table["phrase_mpnet_cos"][3]), 1.0)
    for name in ("panels_conv", "panels_head", "compositional_concepts_mpnet"):
        assert (folder / f"{name}.png").stat().st_size > 1000


def test_scores_of_candidates_are_not_compared_with_words(study: Study, tmp_path: Path) -> None:
    write_colours(tmp_path / "images")
    folder = study(
        runner,
        tiny_target(("red", "green", "blue", "x"), ["head"]),
        "study.normaliser=candidates",
        "similarity.top_k=4",
        "target.layers=[head]",
        "study.panels=1",
        probe=probe.build("folder", root=str(tmp_path / "images")),
        concepts=of_list(["red", "green", "blue"]),
    )
    found = facts(folder)["compositional_concepts"]["head"]
    assert found["phrase_scores_higher"] is None
    assert found["judged"]["mpnet"].keys() == {
        "words",
        "phrases",
        "joined",
        "random",
        "phrases_minus_words",
        "joined_minus_words",
        "random_minus_words",
    }
    table = pd.read_csv(folder / "compositional_concepts.csv", keep_default_na=False)
    assert not [column for column in table if column.startswith("either")]


@pytest.mark.parametrize(("comparable", "first"), [(True, "a"), (False, "b")])
def test_panels_rank_by_what_can_be_compared(comparable: bool, first: str) -> None:
    table = pd.DataFrame(
        {"phrase": ["a", "b"], "word_score": [0.0, 5.0], "phrase_score": [1.0, 2.0]}
    )
    assert ranked(table, comparable)["phrase"].tolist()[0] == first
