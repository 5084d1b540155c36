"""The report's table for searches by meaning."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import ColourEncoder
from torch.nn import functional as F

from clipdissect.report.run import Run
from clipdissect.report.search_table import reduced, search_values, write_search_table
from clipdissect.results.vectors import Embedded, UnitVectors


@pytest.fixture(scope="module")
def vectors() -> UnitVectors:
    """Units, texts and images of 24 dimensions, in which most lie in a space of 6."""
    generator = torch.Generator().manual_seed(0)
    space = torch.randn(6, 24, generator=generator)

    def rows(count: int) -> torch.Tensor:
        return torch.randn(count, 6, generator=generator) @ space

    units = F.normalize(rows(30), dim=1)
    units[3] = 0
    texts = Embedded(tuple("abcdefgh"), rows(8))
    return UnitVectors({"l": units}, "e", "t", "i", texts, shown=Embedded(("x.png",), rows(1)))


def test_projections_keep_cosines(vectors: UnitVectors) -> None:
    empty = vectors.texts.embeds.mean(0)
    small = reduced(vectors, empty, dims=6)
    exact = F.normalize(vectors.texts.embeds - empty, dim=1) @ vectors.layers["l"].T
    assert small.texts.embeds.shape == (8, 6)
    assert torch.allclose(small.texts.embeds @ small.layers["l"].T, exact, atol=1e-4)
    assert not small.layers["l"][3].any()


def test_values_of_the_page(vectors: UnitVectors, tmp_path: Path) -> None:
    rows = pd.DataFrame({"layer": "l", "unit": [2, 0], "description": ["b", "a"]})
    run = Run(tmp_path, rows)
    assert search_values(run) is None
    flat = UnitVectors(
        {"l": torch.eye(3)}, "e", "t", "i", Embedded(("red",), torch.tensor([[1.0, 0, 0]]))
    )
    write_search_table(tmp_path, flat, ColourEncoder(), None)
    values = search_values(run)
    assert values
    assert (values["dims"], values["texts"]["names"]) == (3, ("red",))
    units, word = (decoded(values[name], 3) for name in ("units", "texts"))
    # (1, 0, 0) - (1, 1, 1) / sqrt(3), at unit length; units in the page's order
    assert (word @ units.T)[0].tolist() == pytest.approx([-0.62796, 0.4597], abs=0.01)
    write_search_table(tmp_path, flat, None, None)
    assert search_values(run) is None


def decoded(values: dict[str, str], dims: int) -> np.ndarray:
    rows = np.frombuffer(base64.b64decode(values["rows"]), np.int8).reshape(-1, dims)
    return rows * np.frombuffer(base64.b64decode(values["scales"]), np.float32)[:, None]
