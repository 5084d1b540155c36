"""Fixtures shared by the tests."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

# Triton reads it once, when it is imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

ROOT = Path(__file__).parents[1]
# Tests import helpers from `support/`, and a few share them with tests of another package.
sys.path += [str(folder) for folder in (ROOT / "tests").iterdir() if folder.is_dir()]

# Calls of these modules have their types and tensor shapes checked. The others are left out because
# tests hand them wrong types on purpose. Set before the library's first import.
SIMILARITY = [
    "kernels",
    "moments",
    "ranks",
    "softmax",
    "sources",
]
CHECKED = [
    *(
        f"clipdissect.capture.{name}"
        for name in (
            "activations",
            "capture",
            "latents",
            "maps",
            "pooling",
            "sae_fit",
            "shard_runner",
            "text_embeddings",
            "writers",
        )
    ),
    "clipdissect.results.clusters",
    "clipdissect.results.coherence",
    "clipdissect.results.describe",
    "clipdissect.results.formulas",
    "clipdissect.masks.boxes",
    "clipdissect.method.crops",
    "clipdissect.method.rerank",
    "clipdissect.probe.arrays",
    "clipdissect.probe.image_labels",
    "clipdissect.results.meanings",
    *(
        f"clipdissect.method.linear_sums.{name}"
        for name in ("elastic_net", "fit", "greedy", "moments")
    ),
    *(f"clipdissect.method.{name}" for name in ("auroc_search", "image_concepts", "invert")),
    *(
        f"clipdissect.method.milan.{name}"
        for name in ("beam", "captions", "decoder", "encoder", "exemplars", "features", "files")
    ),
    "clipdissect.results.two_means",
    "clipdissect.sae.directions",
    *(f"clipdissect.similarity.{name}" for name in SIMILARITY),
    "clipdissect.datasets.segmentation",
    *(
        f"clipdissect.masks.{name}"
        for name in (
            "counts",
            "kernels",
            "kmeans",
            "layers",
            "layout",
            "measures",
            "ranges",
            "search",
            "thresholds",
            "units",
        )
    ),
    *(f"clipdissect.evaluation.{name}" for name in ("bootstrap", "controls", "measures", "units")),
    *(f"clipdissect.encoder.{name}" for name in ("batches", "hf", "open_clip")),
    *(
        f"clipdissect.scores.{name}"
        for name in (
            "ablation",
            "checks",
            "confidence",
            "confidence_model",
            "conformal",
            "controls",
            "cosy",
            "heads",
            "kernels",
            "layers",
            "reliability",
            "risk_coverage",
            "splits",
            "statistics",
            "summary",
        )
    ),
]
install_import_hook(CHECKED, "typechecker.check")

import quick_composition  # noqa: E402

from clipdissect.utils.paths import cache_dir  # noqa: E402

quick_composition.install()

USER_CACHE = cache_dir()  # the real one, which `own_cache` hides


def pytest_collection_finish() -> None:
    """Exempt all modules from garbage collection: each full collection would visit them."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user cache of the test's own, so that nothing is read from or left in the real one."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("CLIPDISSECT_CACHE", str(cache))
    monkeypatch.delenv("CLIPDISSECT_DATA", raising=False)
    return cache


@pytest.fixture
def shared() -> Path:
    """The folder with golden files, the paper's lists and sample images."""
    folder = Path(os.environ.get("CLIPDISSECT_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no shared data in {folder} (set CLIPDISSECT_SHARED)")
    return folder
