"""Neighbours of latents by the cosine of their decoder rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from clipdissect.sae import Sae, directions, neighbours
from clipdissect.sae.directions import Nearest, nearest
from clipdissect.sae.neighbours import stored_neighbours
from clipdissect.store import Store

# Rows 0 and 1 are 60 degrees apart, 2 is opposite to 0, 3 has no direction, 4 is longer.
ROWS = torch.tensor([[1.0, 0.0], [1.0, 3**0.5], [-2.0, 0.0], [0.0, 0.0], [60.0, 80.0]])


def decoder_neighbours(rows: torch.Tensor, count: int) -> Nearest:
    return nearest(rows, rows, count, but_itself=True)


def test_neighbours_of_five_rows() -> None:
    found = decoder_neighbours(ROWS, 2).as_lists
    numbers = [[latent for latent, _ in row] for row in found]
    assert numbers == [[4, 1], [4, 0], [1, 4], [], [1, 0]]
    cosines = [cosine for row in found for _, cosine in row]
    near = 0.3 + 0.4 * 3**0.5
    assert cosines == pytest.approx([0.6, 0.5, near, 0.5, -0.5, -0.6, near, 0.6], abs=1e-6)


def test_fewer_latents_than_neighbours() -> None:
    found = decoder_neighbours(ROWS[:2], 5)
    assert found.numbers.tolist() == [[1, -1, -1, -1, -1], [0, -1, -1, -1, -1]]
    assert [len(row) for row in found.as_lists] == [1, 1]
    assert decoder_neighbours(ROWS[:1], 5).as_lists == [[]]


def test_rows_that_are_not_finite_have_no_neighbours() -> None:
    rows = torch.cat([ROWS, torch.tensor([[torch.nan, 1.0], [torch.inf, 0.0]])])
    assert decoder_neighbours(rows, 2).as_lists == [*decoder_neighbours(ROWS, 2).as_lists, [], []]


def test_blocks_are_the_full_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    decoder = torch.randn(101, 16)
    decoder[[7, 50]] = 0
    monkeypatch.setattr(directions, "_COSINES_AT_ONCE", 101 * 13)
    found = decoder_neighbours(decoder.half(), 5)
    rows = decoder.half().double().numpy()
    for latent in range(101):
        pairs = []
        for other in range(101):
            lengths = np.linalg.norm(rows[latent]) * np.linalg.norm(rows[other])
            if other != latent and lengths > 0:
                pairs.append((float(rows[latent] @ rows[other] / lengths), other))
        slow = sorted(pairs, reverse=True)[:5]
        assert [n for n, _ in found.as_lists[latent]] == [other for _, other in slow]
        cosines = [cosine for _, cosine in found.as_lists[latent]]
        assert cosines == pytest.approx([cosine for cosine, _ in slow], abs=1e-6)


def test_directions_of_other_rows() -> None:
    found = nearest(ROWS, torch.tensor([[0.0, 2.0], [0.0, 0.0], [-3.0, 0.0]]), 2).as_lists
    assert [[number for number, _ in row] for row in found] == [[0, 2], [0, 2], [2, 0], [], [0, 2]]
    assert found[0] == [(0, 0.0), (2, -1.0)]


def test_the_store_has_them_by_the_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, sae = Store(tmp_path), Sae("s", nn.Identity(), decoder=ROWS)
    first = stored_neighbours(sae, "cpu", store)
    assert first is not None and first.as_lists == decoder_neighbours(ROWS, 5).as_lists
    with monkeypatch.context() as patch:
        patch.setattr(neighbours, "nearest", None)
        again = stored_neighbours(Sae("t", nn.Identity(), decoder=ROWS.clone()), "cpu", store)
    assert again is not None and again.as_lists == first.as_lists
    other = stored_neighbours(Sae("s", nn.Identity(), decoder=ROWS.flip(0)), "cpu", store)
    assert other is not None and other.as_lists != first.as_lists
    assert stored_neighbours(Sae("s", nn.Identity()), "cpu", store) is None
