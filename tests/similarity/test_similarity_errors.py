"""What the similarity functions refuse, and how they say so; their options."""

from __future__ import annotations

import inspect
import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from clipdissect import similarity
from clipdissect.errors import DissectError
from clipdissect.similarity import ConceptActivations, top_images

ALL = list(similarity.OPTIONS)
# Parameters with which every function accepts a handful of images.
SMALL: dict[str, dict[str, Any]] = {
    "soft_wpmi": {"top_k": 2},
    "wpmi": {"top_k": 2},
    "rank_reorder": {"top_fraction": 1.0},
}


def small(name: str) -> similarity.Similarity:
    return similarity.build(name, **SMALL.get(name, {}))


def inputs(images: int = 8, units: int = 2) -> tuple[ConceptActivations, Tensor]:
    return ConceptActivations(torch.randn(images, 4), torch.randn(5, 4)), torch.randn(images, units)


@pytest.mark.parametrize("name", ["cosine", "cosine_cubed", "lp"])
def test_functions_of_all_images_refuse_top_activations(name: str) -> None:
    factors, q = inputs()
    with pytest.raises(DissectError, match=f"{name} needs the activations of every image"):
        similarity.build(name).top(factors, top_images(q, 3), 1)


def test_too_few_images_for_a_fraction() -> None:
    factors, q = inputs()
    with pytest.raises(DissectError, match=r"top_fraction=0.05 of 8 images gives 0"):
        similarity.build("rank_reorder").top(factors, q, 1)
    with pytest.raises(
        DissectError, match=r"top_fraction needs the top 8 images per unit; q has 3"
    ):
        small("rank_reorder").top(factors, top_images(q, 3), 1)


@pytest.mark.parametrize("name", ALL)
def test_input_errors(name: str) -> None:
    function = small(name)
    factors, q = inputs()
    with pytest.raises(DissectError, match="n=0: must be a whole number >= 1"):
        function.top(factors, q, 0)
    with pytest.raises(DissectError, match="q holds 7 images, P holds 8"):
        function.top(factors, q[:7], 1)
    with pytest.raises(DissectError, match="q holds 7 images, P holds 8"):
        function(factors.dense(), q[:7])
    with pytest.raises(DissectError, match="image_embeds holds 4 dims, text_embeds holds 3"):
        function.top(ConceptActivations(factors.image_embeds, factors.text_embeds[:, :3]), q, 1)
    with pytest.raises(DissectError, match=r"q \[images, units\] holds NaN"):
        function.top(factors, q * torch.nan, 1)
    with pytest.raises(DissectError, match=r"P \[images, concepts\] holds NaN"):
        function(factors.dense() / 0, q)
    with pytest.raises(DissectError, match=r"text_embeds has shape \(0, 4\)"):
        function.top(ConceptActivations(factors.image_embeds, factors.text_embeds[:0]), q, 1)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("softwpmi", {}, "unknown similarity 'softwpmi'. Did you mean soft_wpmi"),
        ("soft_wpmi", {"topk": 3}, "unknown parameter of similarity soft_wpmi 'topk'"),
        ("soft_wpmi", {"top_k": 0}, "top_k=0: must be a whole number >= 1"),
        ("soft_wpmi", {"top_k": 2.5}, "top_k must be a whole number; got 2.5"),
        ("soft_wpmi", {"top_k": True}, "top_k must be a whole number; got True"),
        ("soft_wpmi", {"a": 0}, "a=0: must be a finite number > 0"),
        ("soft_wpmi", {"a": math.inf}, "a=inf: must be a finite number > 0"),
        ("soft_wpmi", {"lam": -1}, "lam=-1: must be a finite number >= 0"),
        ("soft_wpmi", {"p_start": 1.0}, "p_start=1.0: must be a finite number > 0 and < 1"),
        ("soft_wpmi", {"p_end": 0.999}, "p_end=0.999: must be > 0 and <= p_start=0.998"),
        ("soft_wpmi", {"eps": -1e-9}, "eps=-1e-09: must be"),
        ("soft_wpmi", {"membership": "ranks"}, "unknown membership 'ranks'. .*rank_linspace"),
        ("wpmi", {"a": "2"}, "a must be a number; got '2'"),
        ("rank_reorder", {"top_fraction": 1.5}, "must be a finite number > 0 and <= 1"),
        ("rank_reorder", {"variant": "eq2"}, "unknown variant 'eq2'.*released, eq1"),
        ("rank_reorder", {"random_baseline": 1}, "random_baseline must be True or False; got 1"),
        ("cosine", {"center": "yes"}, "center must be True or False; got 'yes'"),
        ("cosine_cubed", {"min_norm": 0}, "min_norm=0: must be a finite number > 0"),
        ("lp", {"p": 0.5}, "p=0.5: must be a finite number >= 1"),
        ("cosine", {"memory_gb": 0}, "memory_gb=0: must be a finite number > 0"),
    ],
)
def test_build_errors(name: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(DissectError, match=message):
        similarity.build(name, **parameters)


@pytest.mark.parametrize("name", ALL)
def test_options_have_typed_plain_parameters(name: str) -> None:
    signature = inspect.signature(similarity.OPTIONS[name], eval_str=True)
    for parameter in signature.parameters.values():
        assert parameter.annotation in (int, float, bool, str, float | None)
        assert isinstance(parameter.default, parameter.annotation)
    function = similarity.build(name)
    assert function.name == name
    assert function.parameters == {p.name: p.default for p in signature.parameters.values()}
    assert function.memory_gb is None


def test_importing_does_not_import_numba() -> None:
    code = "import sys, clipdissect.similarity; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
