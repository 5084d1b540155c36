"""Hand-computed cases, edges and errors of the similarity functions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import similarity_reference as reference
import torch

from clipdissect import similarity
from clipdissect.errors import DissectError
from clipdissect.similarity import ConceptActivations
from clipdissect.similarity.rank_reorder import RankReorder
from clipdissect.similarity.softmax import safe_group

ALL = list(similarity.OPTIONS)
# Parameters with which every function accepts a handful of images.
SMALL: dict[str, dict[str, Any]] = {
    "soft_wpmi": {"top_k": 2},
    "wpmi": {"top_k": 2},
    "rank_reorder": {"top_fraction": 1.0},
}


def small(name: str, **parameters: Any) -> similarity.Similarity:
    return similarity.build(name, **{**SMALL.get(name, {}), **parameters})


# Softmax with a=1 of the rows: (1/4, 3/4) and (1/2, 1/2).
P = torch.tensor([[0.0, math.log(3)], [0.2, 0.2], [5.0, 1.0]])


def test_wpmi_by_hand() -> None:
    q = torch.tensor([[2.0], [1.0], [0.0]])
    # L = log 1/4 + log 1/2, log 3/4 + log 1/2; one unit: the marginal is L itself.
    joint = torch.tensor([[math.log(1 / 8), math.log(3 / 8)]])
    for eps in (0.0, 1e-12):
        scores = similarity.build("wpmi", a=1, lam=0.25, top_k=2, eps=eps)(P, q)
        torch.testing.assert_close(scores, 0.75 * joint)


def test_wpmi_marginal_by_hand() -> None:
    q = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 0.5]])
    # Best images 0 and 1: L = log (1/4, 3/4), log (1/2, 1/2); mean of exp: (3/8, 5/8).
    scores = similarity.build("wpmi", a=1, lam=1, top_k=1, eps=0)(P, q)
    wanted = torch.tensor([[2 / 3, 6 / 5], [4 / 3, 4 / 5]]).log()
    torch.testing.assert_close(scores, wanted)


def test_soft_wpmi_by_hand() -> None:
    q = torch.tensor([[2.0], [1.0], [0.0]])
    # p = 0.8 and 0.6: factors 0.2 + 0.8 s and 0.4 + 0.6 s.
    function = similarity.build("soft_wpmi", a=1, lam=0, top_k=2, p_start=0.8, p_end=0.4, eps=0)
    wanted = torch.tensor([[math.log(0.4 * 0.7), math.log(0.8 * 0.7)]])
    torch.testing.assert_close(function(P, q), wanted)
    line = similarity.build(
        "soft_wpmi", a=1, lam=0, top_k=2, p_start=0.8, p_end=0.4, eps=0, membership="rank_linspace"
    )
    wanted = torch.tensor([[math.log(0.4 * 0.8), math.log(0.8 * 0.8)]])
    torch.testing.assert_close(line(P, q), wanted)


def test_soft_wpmi_sigmoid_by_hand() -> None:
    q = torch.tensor([[3.0], [1.0], [0.0]])
    # Mean 2, deviation 1: z = 1 and -1.
    p = [0.4 + 0.4 / (1 + math.exp(-z)) for z in (1, -1)]
    function = similarity.build(
        "soft_wpmi", a=1, lam=0, top_k=2, p_start=0.8, p_end=0.4, eps=0, membership="sigmoid"
    )
    wanted = [
        math.log(1 - p[0] + p[0] * s0) + math.log(1 - p[1] + p[1] * 0.5) for s0 in (0.25, 0.75)
    ]
    torch.testing.assert_close(function(P, q), torch.tensor([wanted]))


def test_rank_reorder_by_hand() -> None:
    q = torch.tensor([[4.0], [3.0], [1.0], [0.0]])
    P = torch.tensor([[0.4, 0.1, 0.3], [0.3, 0.2, 0.4], [0.2, 0.3, 0.2], [0.1, 0.4, 0.1]])
    # Concept 0 has the order; 1 reverses it: |d| = 4, 2, 2, 4; 2 swaps the first two: 1, 1, 0, 0.
    eq1 = similarity.build("rank_reorder", p=2, top_fraction=1, variant="eq1")
    torch.testing.assert_close(eq1(P, q), torch.tensor([[0.0, -(40**0.5), -(2**0.5)]]))
    # All differences squared, both ways: 1, 9, 16, 4, 9, 1 twice, over 16 pairs: 5. Mean P: 1/4.
    released = similarity.build("rank_reorder", p=2, top_fraction=1)
    torch.testing.assert_close(released(P, q), torch.tensor([[0.0, -4.0, -0.2]]))
    plain = similarity.build("rank_reorder", p=2, top_fraction=1, random_baseline=False)
    torch.testing.assert_close(plain(P, q), torch.tensor([[0.0, -20.0, -1.0]]))


def test_rank_reorder_equal_concept_activations() -> None:
    q = torch.tensor([[1.0], [4.0], [3.0]])
    P = torch.full((3, 2), 0.25)
    assert similarity.build("rank_reorder", top_fraction=1.0)(P, q).tolist() == [[0, 0]]


def test_rank_reorder_rounds_the_fraction_down() -> None:
    function = RankReorder(top_fraction=0.29)
    assert function.images_of(100) == 29
    assert function.images_of(99) == 28


def test_cosine_by_hand() -> None:
    P = torch.tensor([[3.0, 0.0], [4.0, 2.0]])
    q = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    wanted = torch.tensor([[0.6, 0.0], [-0.8, -1.0]])
    torch.testing.assert_close(similarity.build("cosine")(P, q), wanted)
    wanted = torch.tensor([[-1.0, -1.0], [-1.0, -1.0]])
    torch.testing.assert_close(similarity.build("cosine", center=True)(P, q), wanted)


def test_cosine_cubed_by_hand() -> None:
    P = torch.tensor([[1.0, 0.0], [2.0, 3.0], [3.0, 0.0]])
    q = torch.tensor([[0.0], [0.0], [3.0]])
    # Cubes: P (-1, 0, 1), (-1, 8, -1); q (-1, -1, 8). Lengths: 2, 66, 66 under the root.
    wanted = torch.tensor([[9 / math.sqrt(132), -15 / 66]])
    torch.testing.assert_close(similarity.build("cosine_cubed")(P, q), wanted)
    # A smallest length of 10 takes the place of all three.
    wanted = torch.tensor([[0.09, -0.15]])
    torch.testing.assert_close(similarity.build("cosine_cubed", min_norm=10)(P, q), wanted)


def test_lp_by_hand() -> None:
    P = torch.tensor([[1.0, 0.0], [2.0, 3.0]])
    q = torch.tensor([[4.0], [6.0]])
    plain = similarity.build("lp", standardize=False)
    torch.testing.assert_close(plain(P, q), torch.tensor([[-5.0, -5.0]]))
    plain = similarity.build("lp", p=1, standardize=False)
    torch.testing.assert_close(plain(P, q), torch.tensor([[-7.0, -7.0]]))
    for p in (1.0, 2.0, 3.0):
        # Two increasing images standardise to (-1, 1) whatever their scale.
        zero = similarity.build("lp", p=p)(P, q)
        torch.testing.assert_close(zero, torch.zeros(1, 2), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ALL)
def test_no_underflow(name: str) -> None:
    """20,000 concepts, a sharp softmax and nearly certain membership stay finite."""
    torch.manual_seed(0)
    images = torch.nn.functional.normalize(torch.randn(60, 16), dim=1)
    texts = torch.nn.functional.normalize(torch.randn(20_000, 16), dim=1)
    sharp: dict[str, dict[str, Any]] = {
        "soft_wpmi": {"a": 100, "p_start": 0.9999, "p_end": 0.9999, "top_k": 50}
    }
    sharp["wpmi"] = {"a": 100, "top_k": 50}
    q = torch.randn(60, 3)
    function = small(name, **sharp.get(name, {}))
    assert function.top(ConceptActivations(images, texts), q, 3).scores.isfinite().all()
    scores = function(images @ texts.T, q)
    assert scores.isfinite().all()
    if name == "soft_wpmi":  # against float64
        wanted = reference.soft_wpmi(
            (images @ texts.T).double().numpy(), q.double().numpy(), **sharp["soft_wpmi"]
        )
        torch.testing.assert_close(scores.double(), torch.tensor(wanted), atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", ["soft_wpmi", "wpmi"])
@pytest.mark.parametrize("sign", [1, -1])
def test_no_overflow_of_a_very_sharp_softmax(name: str, sign: int) -> None:
    torch.manual_seed(0)
    P, q = sign * torch.rand(20, 9), torch.randn(20, 3)
    wanted = getattr(reference, name)(P.double().numpy(), q.double().numpy(), a=1000, top_k=5)
    scores = similarity.build(name, a=1000, top_k=5)(P, q)
    torch.testing.assert_close(scores.double(), torch.tensor(wanted), atol=1e-3, rtol=1e-3)


def test_concept_constant_to_rounding_has_no_direction() -> None:
    """Its centred length is rounding, and dividing by that would give a score of any size."""
    torch.manual_seed(0)
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    images, texts = torch.randn(30, 6, dtype=torch.float64), torch.zeros(2, 6, dtype=torch.float64)
    images[:, 0], texts[:, 0] = 0.7, 1.0
    texts[1, 1] = 0.1
    factors = ConceptActivations((images @ turn).float(), (texts @ turn).float())
    q = torch.randn(30, 4)
    for function in (similarity.build("cosine", center=True), similarity.build("lp")):
        best = function.top(factors, q, 2)
        streamed = torch.empty(4, 2).scatter_(1, best.concepts, best.scores)
        dense = function(factors.dense(), q)
        # No direction: cosine 0; zeros when standardised: the length of q, the root of N.
        wanted = 0.0 if function.name == "cosine" else -(30**0.5)
        for scores in (streamed, dense):
            torch.testing.assert_close(scores[:, 0], torch.full((4,), wanted))


def test_safe_group_does_not_underflow() -> None:
    for smallest in (1e-12, 1e-7, 1e-4, 0.002, 0.5, 0.9999999, 1.5):
        group = safe_group(smallest)
        assert group >= 1
        assert smallest**group > 2**-126 or group == 1


def test_safe_group_does_not_overflow() -> None:
    for largest in (0.5, 1.0, 1.1, 700.0, 1e20, 5.6e34):
        for smallest in (1e-7, 0.002, 1.5):
            group = safe_group(smallest, largest)
            assert 1 <= group <= safe_group(smallest)
            assert largest**group < 2.0**127


@pytest.mark.parametrize("name", ALL)
def test_constant_units_are_defined(name: str) -> None:
    P = torch.rand(8, 5)
    scores = small(name)(P, torch.zeros(8, 2))
    assert scores.isfinite().all()
    assert torch.equal(scores[0], scores[1])
    if name in ("rank_reorder", "cosine", "cosine_cubed"):
        assert scores.eq(0).all()


@pytest.mark.parametrize("name", ALL)
def test_constant_concept_is_defined(name: str) -> None:
    P = torch.rand(8, 5)
    P[:, 2] = 0.3
    for parameters in ({}, {"center": True} if name == "cosine" else {}):
        scores = small(name, **parameters)(P, torch.rand(8, 2))
        assert scores.isfinite().all()
    if name in ("cosine", "cosine_cubed"):
        torch.testing.assert_close(scores[:, 2], torch.zeros(2), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ALL)
def test_one_unit_and_one_concept(name: str) -> None:
    function = small(name)
    images, texts, q = torch.randn(8, 4), torch.randn(1, 4), torch.randn(8, 1)
    dense = function(images @ texts.T, q)
    best = function.top(ConceptActivations(images, texts), q, 5)
    assert dense.shape == (1, 1)
    assert best.concepts.tolist() == [[0]]
    assert best.margin.isnan().all()
    torch.testing.assert_close(best.scores, dense, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_best_concepts_come_in_order_with_ties_by_number(name: str) -> None:
    torch.manual_seed(1)
    images, texts, q = torch.randn(12, 4), torch.randn(3, 4), torch.randn(12, 5)
    function = small(name)
    best = function.top(ConceptActivations(images, texts.repeat(4, 1)), q, 12)
    assert best.concepts.shape == (5, 12)
    for unit in range(5):
        pairs = list(zip((-best.scores[unit]).tolist(), best.concepts[unit].tolist(), strict=True))
        assert pairs == sorted(pairs)
    assert best.margin.eq(best.scores[:, 0] - best.scores[:, 1]).all()
    one = function.top(ConceptActivations(images, texts), q, 1)
    assert one.concepts.shape == (5, 1)
    assert one.margin.isfinite().all()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("units", [1, 3])
def test_inputs_stay_as_they_are(name: str, dtype: torch.dtype, units: int) -> None:
    torch.manual_seed(0)
    images, texts, q = (torch.randn(rows, 4).to(dtype) for rows in (8, 5, 8))
    q = q[:, :units].contiguous()
    P = images @ texts.T
    copies = [x.clone() for x in (images, texts, q, P)]
    for extra in [{"p": 1.0}, {}] if name == "lp" else [{}]:
        function = small(name, **extra)
        assert function(P, q).dtype == torch.float32
        assert function.top(ConceptActivations(images, texts), q, 2).scores.dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip((images, texts, q, P), copies, strict=True))


@pytest.mark.parametrize("name", ["soft_wpmi", "wpmi"])
def test_all_images_are_top(name: str) -> None:
    P, q = torch.rand(9, 4), torch.rand(9, 3)
    assert small(name, top_k=9)(P, q).isfinite().all()
    with pytest.raises(DissectError, match="top_k=10 is larger than the probe: 9 images"):
        small(name, top_k=10)(P, q)
