"""Properties over shapes, scales and parameters: dense = streaming = slow float64, symmetries."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import similarity_reference as reference
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from clipdissect import similarity
from clipdissect.similarity import ConceptActivations, Similarity, top_images
from clipdissect.similarity.ranking import concat_layers
from clipdissect.similarity.sources import ROWS_AT_ONCE, Budget, Dense, Factors, full_precision

ALL = list(similarity.OPTIONS)
OF_TOP = ["soft_wpmi", "wpmi", "rank_reorder"]
QUICK = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def sizes(draw: st.DrawFn) -> tuple[int, int, int, int]:
    return tuple(draw(st.integers(low, high)) for low, high in ((2, 60), (1, 9), (1, 70), (1, 6)))  # type: ignore[return-value]


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Image embeddings, text embeddings and activations.

    Embeddings are small multiples of 1/16, so every product of them is exact in float32 and equal
    values of P are equal however they are computed; activations have ties.
    """
    images, units, concepts, dims = sizes(draw)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([1e-3, 1.0, 1e4]))
    fine = draw(st.booleans())
    q = rng.standard_normal((images, units)) if fine else rng.integers(-2, 3, (images, units)) / 4
    embeds = [rng.integers(-4, 5, (rows, dims)) / 16 for rows in (images, concepts)]
    # A shared direction, as in CLIP: most cosines are positive.
    shifted = [np.concatenate([e, np.full((len(e), 1), 0.5)], axis=1) for e in embeds]
    return tuple(torch.tensor(x, dtype=torch.float32) for x in (*shifted, q * scale))  # type: ignore[return-value]


PARAMETERS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "soft_wpmi": {
        "a": st.sampled_from([0.5, 10.0, 100.0]),
        "lam": st.sampled_from([0.0, 0.6, 1.0]),
        "p_start": st.sampled_from([0.998, 0.9999, 0.7]),
        "p_end": st.sampled_from([0.7, 0.2]),
        "eps": st.sampled_from([0.0, 1e-7]),
        "membership": st.sampled_from(["rank", "rank_linspace", "sigmoid"]),
    },
    "wpmi": {
        "a": st.sampled_from([0.5, 2.0, 20.0]),
        "lam": st.sampled_from([0.0, 0.6, 1.0]),
        "eps": st.sampled_from([0.0, 1e-7, 1e-3]),
    },
    "rank_reorder": {
        "p": st.sampled_from([1.0, 2.0, 3.0, 1.5]),
        "scale_p": st.sampled_from([0.0, 0.5]),
        "random_baseline": st.booleans(),
        "variant": st.sampled_from(["released", "eq1"]),
    },
    "cosine": {"center": st.booleans()},
    "cosine_cubed": {"min_norm": st.sampled_from([1e-3, 1.0])},
    "lp": {"p": st.sampled_from([1.0, 2.0, 3.0, 2.5]), "standardize": st.booleans()},
}


def drawn(data: st.DataObject, name: str, images: int) -> dict[str, Any]:
    """Parameters of a function that suit so many images."""
    parameters = {key: data.draw(values, key) for key, values in PARAMETERS[name].items()}
    if name in ("soft_wpmi", "wpmi"):
        parameters["top_k"] = data.draw(st.integers(1, images), "top_k")
    if name == "rank_reorder":
        parameters["top_fraction"] = data.draw(st.integers(2, images), "count") / images
    return parameters


def close(name: str, scores: Tensor, wanted: Tensor, P: Tensor, q: Tensor) -> None:
    """Equal to float32 rounding, in units of the numbers that were added up."""
    scale = float(wanted.abs().max())
    if name in ("soft_wpmi", "wpmi"):
        scale += 4e2  # logarithms of this size are added up before they cancel
    if name in ("cosine", "cosine_cubed", "lp"):
        scale += 1.0  # directions and standardised columns have this size
    if name == "lp":
        scale += float(q.abs().max())
    torch.testing.assert_close(scores.double(), wanted.double(), atol=2e-6 * scale, rtol=2e-5)


@pytest.mark.parametrize("name", ALL)
@QUICK
@given(problem=problems(), data=st.data())
def test_dense_streaming_and_reference_agree(
    name: str, problem: tuple[Tensor, Tensor, Tensor], data: st.DataObject
) -> None:
    images, texts, q = problem
    P = images @ texts.T
    parameters = drawn(data, name, len(q))
    function = similarity.build(name, **parameters)
    wanted = torch.tensor(
        getattr(reference, name)(P.double().numpy(), q.double().numpy(), **parameters)
    )
    dense = function(P, q)
    assert dense.dtype == torch.float32
    close(name, dense, wanted, P, q)
    best = function.top(ConceptActivations(images, texts), q, len(texts))
    streamed = torch.empty_like(dense).scatter_(1, best.concepts, best.scores)
    close(name, streamed, wanted, P, q)
    assert (best.scores.diff(dim=1) <= 0).all()


@pytest.mark.parametrize("name", ALL)
@QUICK
@given(problem=problems(), data=st.data())
def test_permutations_permute_the_result(
    name: str, problem: tuple[Tensor, Tensor, Tensor], data: st.DataObject
) -> None:
    images, texts, q = problem
    q = q + torch.linspace(0, 1, len(q))[:, None] * q.abs().max().clamp_min(1e-6)
    # With equal activations the image numbers decide, so an order of images is part of the input.
    distinct = all(len(column.unique()) == len(column) for column in q.T)
    function = similarity.build(name, **drawn(data, name, len(q)))
    seed = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    i, u, c = (torch.randperm(len(x), generator=seed) for x in (images, q.T, texts))
    i = i if distinct else torch.arange(len(i))
    P = images @ texts.T
    close(name, function(P[i][:, c], q[i][:, u]), function(P, q)[u][:, c], P, q)


@pytest.mark.parametrize("name", ALL)
def test_block_size_does_not_matter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    images, texts, q = torch.randn(200, 8), torch.randn(300, 8), torch.randn(200, 7)
    factors = ConceptActivations(images / 8, texts / 8)
    dense = similarity.build(name)(factors.dense(), q)

    def check(memory: float) -> None:
        best = similarity.build(name, memory_gb=memory).top(factors, q, 300)
        scores = torch.empty_like(dense).scatter_(1, best.concepts, best.scores)
        torch.testing.assert_close(scores, dense, atol=1e-3 if "wpmi" in name else 1e-5, rtol=1e-4)

    for memory in (2.0, 3e-4, 1e-9):
        check(memory)
    # Small blocks in a larger budget: all, and then some, are kept from the first pass.
    monkeypatch.setattr("clipdissect.similarity.sources._CACHE_BYTES", 30_000)
    monkeypatch.setattr("clipdissect.similarity.sources._MIN_CONCEPTS", 16)
    for memory in (2.0, 6e-4):
        check(memory)


@pytest.mark.parametrize("name", OF_TOP)
@QUICK
@given(problem=problems(), data=st.data())
def test_top_activations_are_enough(
    name: str, problem: tuple[Tensor, Tensor, Tensor], data: st.DataObject
) -> None:
    images, texts, q = problem
    function: Similarity = similarity.build(name, **drawn(data, name, len(q)))
    factors = ConceptActivations(images, texts)
    from_all = function.top(factors, q, 3)
    from_top = function.top(factors, top_images(q, len(q)), 3)
    assert torch.equal(from_all.concepts, from_top.concepts)
    assert torch.equal(from_all.scores, from_top.scores)


@pytest.mark.parametrize("name", ["soft_wpmi", "wpmi"])
@QUICK
@given(problem=problems(), data=st.data())
def test_layers_side_by_side_are_scored_as_each_alone(
    name: str, problem: tuple[Tensor, Tensor, Tensor], data: st.DataObject
) -> None:
    images, texts, q = problem
    function: Similarity = similarity.build(name, **drawn(data, name, len(q)))
    factors = ConceptActivations(images, texts)
    parts = q.split(data.draw(st.integers(1, q.shape[1])), dim=1)
    k = function.images_per_unit
    assert k is not None
    best = function.top(factors, concat_layers([top_images(part, k) for part in parts]), len(texts))
    together = torch.empty(q.shape[1], len(texts)).scatter_(1, best.concepts, best.scores)
    wanted = torch.cat([function(images @ texts.T, part) for part in parts])
    torch.testing.assert_close(together, wanted, atol=5e-4, rtol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_numba_and_torch_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    torch.manual_seed(0)
    images, texts, q = torch.randn(300, 8) / 8, torch.randn(200, 8) / 8, torch.randn(300, 21)
    function = similarity.build(name)
    factors = ConceptActivations(images, texts)
    monkeypatch.delenv("CLIPDISSECT_KERNELS", raising=False)
    compiled = function.top(factors, q, 200)
    monkeypatch.setenv("CLIPDISSECT_KERNELS", "torch")
    plain = function.top(factors, q, 200)
    spread = torch.empty(21, 200).scatter_(1, compiled.concepts, compiled.scores)
    wanted = torch.empty(21, 200).scatter_(1, plain.concepts, plain.scores)
    torch.testing.assert_close(spread, wanted, atol=5e-4 if "wpmi" in name else 1e-6, rtol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ALL)
def test_cuda_equals_cpu(name: str) -> None:
    torch.manual_seed(0)
    images, texts, q = torch.randn(300, 8) / 8, torch.randn(200, 8) / 8, torch.randn(300, 21)
    function = similarity.build(name)
    here = function((images @ texts.T), q)
    there = function((images @ texts.T).cuda(), q.cuda()).cpu()
    torch.testing.assert_close(there, here, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("soft_wpmi", {"top_k": 50}),
        ("soft_wpmi", {"top_k": 50, "a": 100}),
        ("wpmi", {"top_k": 50}),
        ("wpmi", {"top_k": 50, "eps": 0}),
        ("rank_reorder", {"top_fraction": 0.02}),
        ("cosine", {"center": True}),
        ("cosine_cubed", {}),
        ("lp", {}),
        ("lp", {"p": 3}),
        ("lp", {"p": 1, "standardize": False}),
    ],
)
def test_images_in_several_parts(name: str, parameters: dict[str, Any]) -> None:
    """More images, and more that matter, than are worked on at once; not all of them matter."""
    torch.manual_seed(0)
    images, texts = torch.randint(-4, 5, (2600, 7)) / 16, torch.randint(-4, 5, (30, 7)) / 16
    images[:, 0], texts[:, 0], q = 0.5, 0.5, torch.randn(2600, 40) * 3 + 7
    matter = top_images(q, 50).indices.unique()
    assert ROWS_AT_ONCE < len(matter) < len(q)
    P = images @ texts.T
    wanted = torch.tensor(
        getattr(reference, name)(P.double().numpy(), q.double().numpy(), **parameters)
    )
    for memory_gb in (2.0, 5e-4):  # P kept between the passes, and not
        function = similarity.build(name, **parameters, memory_gb=memory_gb)
        close(name, function(P, q), wanted, P, q)
        best = function.top(ConceptActivations(images, texts), q, 30)
        close(name, torch.empty(40, 30).scatter_(1, best.concepts, best.scores), wanted, P, q)


def test_parts_are_small_and_only_what_is_taken() -> None:
    images, texts = torch.randn(2600, 4), torch.randn(9, 4)
    rows = torch.arange(1, 2600, 2)
    for source in (Factors(images, texts), Dense(images @ texts.T)):
        taken = source.take(rows)
        assert [len(part) for _, part in taken.chunks(2, 7)] == [ROWS_AT_ONCE, 1300 - ROWS_AT_ONCE]
        torch.testing.assert_close(taken.block(2, 7), (images @ texts.T)[1::2, 2:7])
        assert torch.equal(taken.columns(2, 7), taken.block(2, 7).T)
        torch.testing.assert_close(taken.means().float(), (images @ texts.T)[1::2].mean(0))
        assert taken.table.data_ptr() == source.table.data_ptr()
        assert source.largest() >= float((images @ texts.T).abs().max())


def test_working_memory_by_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert Budget.of(None, cpu) == Budget.of(2.0, cpu) == (1_000_000_000, 320_000_000)
    for memory, wanted in ((80e9, 8e9), (10e9, 4e9)):
        card = SimpleNamespace(total_memory=memory)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, card=card: card)
        assert Budget.of(None, gpu) == (0.25 * wanted, 0.6 * wanted)
        assert Budget.of(1.0, gpu) == (250_000_000, 600_000_000)


@pytest.mark.parametrize("allowed", ["ieee", "tf32"])
def test_products_on_a_gpu_are_in_full_precision(allowed: str) -> None:
    matmul: Any = torch.backends.cuda.matmul
    if not hasattr(matmul, "fp32_precision"):
        pytest.skip("torch before 2.9")
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = allowed
        with pytest.raises(KeyError), full_precision():
            assert matmul.fp32_precision == "ieee"
            raise KeyError
        assert matmul.fp32_precision == allowed
    finally:
        matmul.fp32_precision = before
