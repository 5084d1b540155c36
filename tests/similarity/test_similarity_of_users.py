"""A plain function as similarity."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from clipdissect import similarity
from clipdissect.errors import DissectError
from clipdissect.similarity import ConceptActivations, Function

IMAGES, TEXTS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]), torch.eye(2)
P = IMAGES @ TEXTS.T
Q = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 2.0]])


def dot(p: Tensor, q: Tensor) -> Tensor:
    return q.T @ p


def softmax_dot(p: Tensor, q: Tensor) -> Tensor:
    return q.T @ p.softmax(1)  # of all concepts


def test_scores_are_the_functions() -> None:
    assert similarity.resolve(dot)(P, Q).tolist() == [[3.0, 0.0], pytest.approx([1.2, 2.6])]
    best = similarity.resolve(dot).top(ConceptActivations(IMAGES, TEXTS), Q, 1)
    assert best.concepts.tolist() == [[0], [1]]
    assert best.scores.tolist() == [[3.0], [pytest.approx(2.6)]]


def test_a_function_sees_all_concepts_unless_it_is_blockwise() -> None:
    torch.manual_seed(0)
    embeds = ConceptActivations(torch.rand(50, 4), torch.rand(3000, 4))
    q, shapes = torch.rand(50, 2), []

    def watched(p: Tensor, q: Tensor) -> Tensor:
        shapes.append(tuple(p.shape))
        return dot(p, q)

    whole = Function(watched).top(embeds, q, 3)
    assert shapes == [(50, 3000)]
    blocks = Function(watched, blockwise=True, memory_gb=4e-4).top(embeds, q, 3)
    assert len(shapes) > 2
    assert blocks.concepts.equal(whole.concepts)
    assert torch.allclose(
        Function(softmax_dot)(embeds.dense(), q), softmax_dot(embeds.dense(), q), atol=1e-6
    )


def test_a_function_may_change_its_arguments() -> None:
    p, q = P.clone(), Q.clone()
    similarity.resolve(lambda p, q: dot(p.mul_(2), q.sub_(1)))(p, q)
    assert p.equal(P)
    assert q.equal(Q)


def test_manifests_name_the_function() -> None:
    found = similarity.resolve(dot)
    name = f"{__name__}.dot"
    expected = {"function": name, "memory_gb": None, "dead": "exclude", "blockwise": False}
    assert (found.name, found.parameters) == ("function", expected)
    assert found.notes == (
        f"the similarity is the Python function {name}, of which only the name is recorded: these "
        f"files don't suffice to repeat the run",
    )
    assert similarity.build("cosine").notes == ()


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda p, q: p.T @ q[:, :1], "must return a tensor of scores [units, concepts] (2, 2); g"),
        (lambda p, q: 3, "got int"),
        (lambda p, q: dot(p, q) / 0, "returned NaN or infinities"),
        (lambda p: p, "failed on P (3, 2) and q (3, 2) with TypeError"),
        (similarity.build, "the similarity clipdissect.similarity.build failed on P"),
    ],
)
def test_functions_that_give_no_scores(function: Any, says: str) -> None:
    with pytest.raises(DissectError, match=re.escape(says)):
        similarity.resolve(function)(P, Q)


def test_memory_is_checked_before_the_function_is_called() -> None:
    says = "needs all 3 x 2 concept activations at once, 6.4e-08 GB with the scores of 2 units"
    with pytest.raises(DissectError, match=says):
        Function(dot, memory_gb=6e-8)(P, Q)
    assert Function(dot, memory_gb=6.5e-8)(P, Q).shape == (2, 2)


def test_what_is_no_function() -> None:
    for given in (similarity.Function, 3):
        with pytest.raises(DissectError, match="similarity must be a name"):
            similarity.resolve(given)  # type: ignore[arg-type]
    with pytest.raises(DissectError, match="must be a function of P and q; got 3"):
        Function(3)  # type: ignore[arg-type]
    with pytest.raises(DissectError, match="blockwise=3: must be true or false"):
        Function(dot, blockwise=3)  # type: ignore[arg-type]
