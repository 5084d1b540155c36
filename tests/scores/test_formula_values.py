"""Scores of labels that are formulas of several texts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import average_precision_score

from clipdissect.probe.image_labels import ImageLabels
from clipdissect.results.formulas import AND, NOT, OR, leaf, node, weighted_sum, written
from clipdissect.scores.base import Pairs
from clipdissect.scores.formula_values import alternatives, distinct_texts, rescaled, values_of
from clipdissect.scores.layers import score_layer
from clipdissect.scores.scorers import Cosy, LabelMetrics, Simulator

EITHER = written(node(OR, leaf("a"), leaf("b")))
ONLY = written(node(AND, leaf("a"), node(NOT, leaf("c"))))
SUM = written(weighted_sum(["a", "c"], [2.0, -1.0], 0.5))
LABELS = ["a", EITHER, ONLY, SUM]


def test_values_of_formulas() -> None:
    values = torch.tensor([[0.1, 0.9, 0.2], [0.8, 0.3, 0.6]])
    assert distinct_texts(LABELS) == ["a", "b", "c"]
    found = values_of(LABELS, ["a", "b", "c"], values)
    expected = [[0.1, 0.9, 0.1, 0.5], [0.8, 0.8, 0.4, 1.5]]
    torch.testing.assert_close(found, torch.tensor(expected))
    assert values_of(["c", "a"], ["a", "b", "c"], values).tolist() == values[:, [2, 0]].tolist()
    scaled = rescaled(LABELS, found)
    assert scaled[:, 3].tolist() == [0.0, 1.0]
    assert rescaled(["a"], torch.tensor([[0.0], [1.0]])).dtype == torch.bool


def test_formulas_of_an_encoder_without_calibration() -> None:
    """NOT of a raw cosine of 0.2 would be 0.8, and `a AND NOT c` would be `a`."""
    embeds = torch.nn.functional.normalize(torch.rand(60, 3, generator=torch.manual_seed(0)), dim=1)
    scorer = object.__new__(Simulator)
    scorer.calibration = None
    scorer.held_out = SimpleNamespace(
        fit=torch.arange(40),
        embeds=lambda rows: embeds[rows],
        embed_texts=lambda texts: torch.eye(3)[["abc".index(text) for text in texts]],
    )
    rows = torch.arange(40, 60)
    found = scorer(rows, ["a", ONLY])
    assert torch.equal(found[:, 0], embeds[rows, 0])
    z = (embeds[rows] - embeds[:40].mean(0)) / embeds[:40].std(0, correction=0)
    squashed = torch.sigmoid(z)
    expected = squashed[:, 0].minimum(1 - squashed[:, 2])
    torch.testing.assert_close(found[:, 1], expected)
    assert torch.equal(scorer(rows, ["b", "c"]), embeds[rows, 1:])


def test_alternatives() -> None:
    assert alternatives("a") == ["a"]
    assert alternatives(EITHER) == ["a", "b"]
    assert alternatives(ONLY) is None
    assert alternatives(written(node(OR, leaf("a"), node(NOT, leaf("b"))))) is None


def held_out(activations: torch.Tensor) -> Any:
    return SimpleNamespace(activations=lambda layer, rows: activations[rows], test=torch.arange(40))


def test_metrics_of_labels_take_formulas() -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.rand(40, 3, generator=generator) > 0.6
    a, b, c = matrix.T
    truth = torch.stack([a, a | b, a & ~c, 2.0 * a - 1.0 * c], 1).float()
    activations = truth + 0.01 * torch.rand(40, 4, generator=generator)
    scorer = object.__new__(LabelMetrics)
    scorer.held_out, scorer.alpha = held_out(activations), 0.25
    scorer.labels = ImageLabels(("a", "b", "c"), matrix)
    rows = pd.DataFrame({"unit": range(4), "description": ["a", "x", "y", "z"]})
    rows["formula"] = ["", EITHER, ONLY, SUM]
    found = score_layer(scorer, "conv", rows, (), draws=1)["labels"]
    assert found["correlation"].min() > 0.999
    active = activations.T.topk(10, 1).values[:, -1:] <= activations.T
    expected = [average_precision_score(active[n], truth[:, n]) for n in range(4)]
    np.testing.assert_allclose(found["auprc"], expected, atol=1e-6)
    unknown = rows.assign(formula="", description=["a", "dog", "a", "a"])
    assert np.isnan(score_layer(scorer, "conv", unknown, (), draws=1)["labels"]["iou"][1])


def test_images_of_texts_joined_by_or_count_together() -> None:
    scorer = object.__new__(Cosy)
    control = torch.linspace(0, 1, 40)[:, None]
    scorer.held_out = held_out(control)
    images: dict[str, Any] = {"a": [1], "b": [2]}
    scorer.source = cast(Any, SimpleNamespace(images_of=images.get))
    low, high = torch.full((3, 1), -1.0), torch.full((3, 1), 2.0)
    scorer._known = {"a": {"conv": low}, "b": {"conv": high}}
    assert [scorer.accepts(label) for label in ("a", EITHER, ONLY, "c")] == [
        True,
        True,
        False,
        False,
    ]
    pairs = Pairs(np.zeros(3, dtype=int), np.arange(3))
    found = scorer.score("conv", pairs, ["a", "b", EITHER])
    assert found["cosy_auc"].tolist() == pytest.approx([0.0, 1.0, 0.5])
