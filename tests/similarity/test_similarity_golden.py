"""The published functions' outputs, recorded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipdissect import similarity

SHARED = Path(os.environ.get("CLIPDISSECT_SHARED", Path(__file__).parents[3] / "shared"))
GOLDEN = SHARED / "golden"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no recorded outputs in {GOLDEN}")

FILES: dict[str, dict[str, dict[str, Any]]] = {
    "paper_defaults": {},
    "relu_activations": {},
    "other_hyperparameters": {
        "soft_wpmi": {"top_k": 40, "a": 4, "lam": 0.5, "p_start": 0.95, "p_end": 0.6},
        "wpmi": {"top_k": 10, "a": 1, "lam": 0.9},
        "rank_reorder": {"p": 2, "top_fraction": 0.1, "scale_p": 0.25},
    },
}
# Recorded key: function, fixed parameters, absolute and relative tolerance.
KEYS: dict[str, tuple[str, dict[str, Any], float, float]] = {
    "soft_wpmi": ("soft_wpmi", {}, 1e-3, 0),
    "wpmi": ("wpmi", {}, 1e-3, 0),
    "rank_reorder": ("rank_reorder", {"random_baseline": False}, 0, 1e-4),
    "rank_reorder_eq1": ("rank_reorder", {"variant": "eq1"}, 0, 1e-4),
    "cos": ("cosine", {}, 0, 1e-4),
    # Some are 1e-5 of the largest: their own relative error is that of the recorded float32.
    "cos_cubed": ("cosine_cubed", {}, 1e-6, 1e-4),
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("key", KEYS)
def test_golden(file: str, key: str) -> None:
    name, fixed, absolute, relative = KEYS[key]
    with np.load(GOLDEN / f"{file}.npz") as recorded:
        P, q, wanted = (torch.tensor(recorded[part]) for part in ("P", "q", key))
    function = similarity.build(name, **FILES[file].get(name, {}), **fixed)
    scores = function(P, q)
    torch.testing.assert_close(scores, wanted, atol=absolute, rtol=relative)
    assert torch.equal(scores.argmax(1), wanted.argmax(1))
    # Factors whose product is exactly P: the streaming way in must agree as well.
    factors = similarity.ConceptActivations(P, torch.eye(P.shape[1]))
    best = function.top(factors, q, 3)
    assert torch.equal(best.concepts[:, 0], wanted.argmax(1))
    torch.testing.assert_close(
        best.scores, wanted.topk(3, dim=1).values, atol=max(absolute, 1e-6), rtol=relative
    )
