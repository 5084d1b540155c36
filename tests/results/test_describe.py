"""Descriptions: dead units as released, scores under shuffled images, other default dtypes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import similarity_reference as reference
import torch

from clipdissect import similarity
from clipdissect.capture.activations import TopKActivations
from clipdissect.errors import DissectError
from clipdissect.evaluation.layers import layer_metrics
from clipdissect.results.describe import Describer, describe_layer, shuffled
from clipdissect.similarity.inputs import ConceptActivations

WORDS = [f"word {i}" for i in range(40)]
FUNCTIONS: dict[str, dict[str, Any]] = {
    "soft_wpmi": {"top_k": 20},
    "wpmi": {"top_k": 20},
    "rank_reorder": {"top_fraction": 0.2},
    "cosine": {},
    "cosine_cubed": {},
    "lp": {},
}


def factors(images: int = 100, seed: int = 0) -> ConceptActivations:
    drawn = torch.Generator().manual_seed(seed)
    unit = [torch.randn(n, 16, generator=drawn) for n in (images, len(WORDS))]
    return ConceptActivations(*(x / x.norm(dim=1, keepdim=True) for x in unit))


def activations(units: int = 30, images: int = 100) -> torch.Tensor:
    """Of units some of which never vary, and one that does only outside its top images."""
    q = torch.rand(images, units, generator=torch.Generator().manual_seed(1))
    q[:, [3, 4]], q[:, 5] = 0.0, 2.0
    q[:, 7] = 1.0
    q[:50, 7] = 0.0
    return q


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dead", ["include", "exclude"])
def test_dead_units_are_described_as_released_where_that_is_asked(name: str, dead: str) -> None:
    """Every unit of a layer against the equations, the marginal over all units or live ones."""
    made, q = factors(), activations()
    scorer = similarity.build(name, **FUNCTIONS[name], dead=dead)
    table = describe_layer("x", q, made, WORDS, scorer, 2)
    taken = np.ones(30, dtype=bool) if dead == "include" else (q.amax(0) != q.amin(0)).numpy()
    P, wide = made.dense().double().numpy(), q.double().numpy()[:, taken]
    wanted = getattr(reference, name)(P, wide, **FUNCTIONS[name])
    np.testing.assert_allclose(table["similarity"][taken], wanted.max(1), rtol=2e-4, atol=2e-4)
    clear = np.diff(np.sort(wanted, 1)[:, -2:])[:, 0] > 1e-3
    best = np.array(WORDS, dtype=object)[wanted.argmax(1)]
    assert (table["description"].to_numpy()[taken][clear] == best[clear]).all()
    assert clear.sum() > 20
    assert table["unit_flags"].map(lambda own: "dead" in own).sum() == 3  # said either way
    assert ((table["description"] == "") == ~taken).all()
    ranked = describe_layer("x", q, made, WORDS, scorer, 2, WORDS[:30])["truth_rank"].notna()
    assert (ranked.to_numpy() == (q.amax(0) != q.amin(0)).numpy()).all()  # dead ones never


def test_dead_is_one_of_two_words_and_a_parameter() -> None:
    with pytest.raises(DissectError, match=r"dead 'keep'.*exclude"):
        similarity.build("cosine", dead="keep")
    assert similarity.build("wpmi").parameters["dead"] == "exclude"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_null_is_the_best_score_with_shuffled_images(name: str) -> None:
    made, q = factors(), activations()
    scorer = similarity.build(name, **FUNCTIONS[name])
    table = describe_layer("x", q, made, WORDS, scorer, 2)
    plain = describe_layer("x", q, made, WORDS, scorer, 2, null=False)
    pd.testing.assert_frame_equal(table.drop(columns="null_similarity"), plain)
    live = (q.amax(0) != q.amin(0)).numpy()
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0)).numpy()
    P = made.dense().double().numpy()[order]
    wanted = getattr(reference, name)(P, q.double().numpy()[:, live], **FUNCTIONS[name]).max(1)
    null = table["null_similarity"].to_numpy()
    np.testing.assert_allclose(null[live], wanted, rtol=2e-4, atol=2e-4)
    assert np.isnan(null[~live]).all()


def test_kept_and_joined_layers_have_the_same_null() -> None:
    made, scorer = factors(), similarity.build("soft_wpmi", top_k=20)
    layers = {"a": activations(), "b": activations(9).flip(0), "dead": torch.zeros(100, 2)}
    describer = Describer(made, WORDS, scorer, 2)
    for layer, q in layers.items():
        describer.add(layer, TopKActivations.of(q, torch.arange(100), 25))
    for (layer, q), table in zip(layers.items(), describer.tables(), strict=True):
        alone = describe_layer(layer, q, made, WORDS, scorer, 2)
        pd.testing.assert_frame_equal(table, alone, rtol=1e-4, atol=1e-5)


def test_units_that_mean_something_are_above_chance_and_random_ones_are_not() -> None:
    made, scorer = factors(400), similarity.build("soft_wpmi", top_k=20)
    P = made.dense()
    noise = torch.rand(400, 40, generator=torch.Generator().manual_seed(2))
    real = layer_metrics(describe_layer("x", P, made, WORDS, scorer, 1))
    chance = layer_metrics(describe_layer("x", noise, made, WORDS, scorer, 1))
    assert real["above_null"] > 0.95
    assert chance["above_null"] < 0.3
    nothing = layer_metrics(describe_layer("x", noise[:, :2] * 0, made, WORDS, scorer, 1))
    assert nothing["null_95"] is None and "no live unit" in nothing["null_95_reason"]


def test_shuffling_keeps_every_image_and_all_texts() -> None:
    made = factors()
    other = shuffled(made)
    assert torch.equal(other.text_embeds, made.text_embeds)
    assert not torch.equal(other.image_embeds, made.image_embeds)
    rows = [set(map(tuple, own.image_embeds.tolist())) for own in (made, other)]
    assert rows[0] == rows[1]


@pytest.fixture
def doubles() -> Iterator[None]:
    """Another default than float32, as scientific code sets it."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("kernels", ["numba", "torch"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_other_default_dtypes_change_nothing(
    name: str, kernels: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if kernels == "torch":
        monkeypatch.setenv("CLIPDISSECT_KERNELS", "torch")
    made, q = factors(), activations()
    scorer = similarity.build(name, **FUNCTIONS[name])
    kept = TopKActivations.of(q, torch.arange(100), 25) if not scorer.needs_all else q
    truth = WORDS[:30]
    plain = describe_layer("x", kept, made, WORDS, scorer, 2, truth)
    request.getfixturevalue("doubles")
    kept = TopKActivations.of(q, torch.arange(100), 25) if not scorer.needs_all else q
    pd.testing.assert_frame_equal(describe_layer("x", kept, made, WORDS, scorer, 2, truth), plain)
    dense = scorer(made.dense(), q)
    assert dense.dtype == torch.float32
