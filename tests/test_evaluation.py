"""Metrics by hand, and reasons where they are undefined."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import pytest
import torch
from tiny import ColourNet, preprocess
from torch import Tensor

from clipdissect import concepts, evaluation
from clipdissect.errors import MissingResource
from clipdissect.target import Target

VECTORS = {"cat": [1.0, 0.0], "dog": [0.0, 1.0], "wolf": [0.6, 0.8]}


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
    return pd.DataFrame({
        "layer": "fc", "unit": range(len(flags)), "description": descriptions,
        "similarity": scores, "margin": scores, "flags": flags,
    })  # fmt: skip


def measure(descriptions: list[str], texts: list[str], sentences: object = SENTENCES) -> dict:  # type: ignore[type-arg]
    return evaluation.metrics(
        table(descriptions), TARGET, concepts.resolve(texts), sentences, None  # type: ignore[arg-type]
    )  # fmt: skip


def test_accuracy_and_cosine_by_hand() -> None:
    found = measure(["cat", "wolf", ""], ["cat", "dog", "wolf"])
    assert found["layers"]["fc"]["dead"] == 1
    final = found["final_layer"]
    # One of three right (a unit without description is wrong); cosines 1 and 0.8.
    assert final["top1"] == pytest.approx(1 / 3)
    assert final["plane_cos"] == pytest.approx(0.9)
    assert final["classes_in_concepts"] == 3


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
