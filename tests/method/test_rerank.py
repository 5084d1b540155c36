"""Reranking by a second encoder: against dense references, as a job, and on the command line."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import COLOURS, ColourEncoder, ColourNet, preprocess, write_colours
from torch import Tensor
from torch.nn import functional as F

from clipdissect import concepts, method, probe, similarity
from clipdissect.capture.settings import Settings
from clipdissect.encoder.calibration import Calibration
from clipdissect.errors import DissectError
from clipdissect.method import Job
from clipdissect.method.rerank import Reranked, RerankedOfTop, Simulated, split_rows
from clipdissect.similarity import ConceptActivations, TopActivations, ranks, top_images
from clipdissect.targets import Target

IMAGES, UNITS, CONCEPTS, CANDIDATES = 40, 6, 23, 5
SETTINGS = Settings(device="cpu", workers=0)


def unit_rows(rows: int, dims: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, dims, generator=generator), dim=1)


FIRST = ConceptActivations(unit_rows(IMAGES, 4, 0), unit_rows(CONCEPTS, 4, 1))
SECOND = ConceptActivations(unit_rows(IMAGES, 7, 2), unit_rows(CONCEPTS, 7, 3))
BOTH = ConceptActivations(
    torch.cat([FIRST.image_embeds, SECOND.image_embeds], 1),
    torch.cat([FIRST.text_embeds, SECOND.text_embeds], 1),
)
Q = torch.rand(IMAGES, UNITS, generator=torch.Generator().manual_seed(4))


def by_hand(first: Tensor, second: Tensor, n: int) -> tuple[list[list[int]], list[list[float]]]:
    """The best `n` of each unit's first candidates by the second scores."""
    concepts_of, scores = [], []
    for of_unit, again in zip(first.tolist(), second.tolist(), strict=True):
        candidates = sorted(range(CONCEPTS), key=lambda m: -of_unit[m])[:CANDIDATES]
        best = sorted(candidates, key=lambda m: -again[m])[:n]
        concepts_of.append(best)
        scores.append([again[m] for m in best])
    return concepts_of, scores


@pytest.mark.parametrize("name", ["soft_wpmi", "cosine"])
@pytest.mark.parametrize("memory_gb", [None, 1e-5])  # one block of concepts, and many
def test_the_second_encoder_orders_the_candidates(name: str, memory_gb: float | None) -> None:
    options = {"top_k": 8} if name == "soft_wpmi" else {}
    function = similarity.build(name, memory_gb=memory_gb, **options)
    kind = Reranked if function.needs_all else RerankedOfTop
    reranked = kind(first=function, second=function, dims=4, candidates=CANDIDATES)
    found = reranked.top(BOTH, Q, 3)
    first, second = function(FIRST.dense(), Q), function(SECOND.dense(), Q)
    wanted, scores = by_hand(first, second, 3)
    assert found.concepts.tolist() == wanted
    torch.testing.assert_close(found.scores, torch.tensor(scores), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.margin, found.scores[:, 0] - found.scores[:, 1])
    assert found.first_scores is not None
    torch.testing.assert_close(found.first_scores, first.gather(1, found.concepts), **CLOSE)
    if not function.needs_all:
        of_top = reranked.top(BOTH, top_images(Q, 8), 3)
        assert torch.equal(of_top.concepts, found.concepts)


CLOSE = {"atol": 1e-4, "rtol": 1e-4}


def test_all_candidates_give_the_second_encoders_own_order() -> None:
    function = similarity.build("soft_wpmi", top_k=8)
    everything = RerankedOfTop(first=function, second=function, dims=4, candidates=CONCEPTS)
    own = function.top(SECOND, Q, 3)
    found = everything.top(BOTH, Q, 3)
    assert torch.equal(found.concepts, own.concepts)
    torch.testing.assert_close(found.scores, own.scores)
    none_changes = RerankedOfTop(first=function, second=function, dims=4, candidates=2)
    same = ConceptActivations(
        torch.cat([FIRST.image_embeds] * 2, 1), torch.cat([FIRST.text_embeds] * 2, 1)
    )
    assert torch.equal(none_changes.top(same, Q, 2).concepts, function.top(FIRST, Q, 2).concepts)


def test_ranks_put_candidates_first() -> None:
    function = similarity.build("soft_wpmi", top_k=8)
    reranked = RerankedOfTop(first=function, second=function, dims=4, candidates=CANDIDATES)
    order = function(FIRST.dense(), Q).argsort(1, descending=True)
    candidates, others = order[:, :CANDIDATES], order[:, CANDIDATES:]
    again = function(SECOND.dense(), Q).gather(1, candidates).argsort(1, descending=True)
    order = torch.cat([candidates.gather(1, again), others], 1)
    for place in (0, CANDIDATES - 1, CANDIDATES, CONCEPTS - 1):
        found = ranks(reranked, BOTH, top_images(Q, 8), order[:, place])
        assert found.tolist() == [place + 1.0] * UNITS


@pytest.mark.parametrize("calibration", [None, Calibration(20.0, -0.1, "a test")])
def test_simulation_correlates_on_held_out_images(calibration: Calibration | None) -> None:
    function = similarity.build("soft_wpmi", top_k=8)
    split = split_rows(IMAGES, 0.3, 0)
    reranked = Reranked(
        first=function,
        second=Simulated(calibration=calibration),
        dims=4,
        candidates=CANDIDATES,
        split=split,
    )
    found = reranked.top(BOTH, Q, 3)
    rows, held = (part.tolist() for part in split)
    first = function(FIRST.dense()[rows], Q[rows])
    simulated = SECOND.dense()[held].double().numpy()
    if calibration:
        simulated = 1 / (1 + np.exp(-20 * (simulated - 0.1)))
    second = np.corrcoef(Q[held].double().numpy().T, simulated.T)[:UNITS, UNITS:]
    wanted, scores = by_hand(first, torch.tensor(second), 3)
    assert found.concepts.tolist() == wanted
    torch.testing.assert_close(found.scores.double(), torch.tensor(scores).double(), **CLOSE)


def test_a_unit_that_is_silent_on_held_out_images_keeps_the_first_order() -> None:
    function, split = similarity.build("soft_wpmi", top_k=8), split_rows(IMAGES, 0.3, 0)
    q = Q.clone()
    q[split[1], 0] = 0.0
    stages = {"first": function, "dims": 4, "candidates": CANDIDATES, "split": split}
    found = Reranked(second=Simulated(), **stages).top(BOTH, q, 3)
    own = function.top(
        ConceptActivations(FIRST.image_embeds[split[0]], FIRST.text_embeds), q[split[0]], 3
    )
    assert found.scores[0].tolist() == [0.0] * 3
    assert torch.equal(found.concepts[0], own.concepts[0])
    assert found.tied[0]
    with pytest.raises(DissectError, match="needs the activations of every image"):
        Reranked(second=Simulated(), **stages).top(BOTH, top_images(Q, 8), 3)
    assert isinstance(top_images(Q, 8), TopActivations)


def test_the_split() -> None:
    first, second = split_rows(10, 0.2, 0)
    assert (len(first), len(second)) == (8, 2)
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(10))
    assert torch.equal(split_rows(10, 0.2, 0)[1], second)
    with pytest.raises(DissectError, match="each part must have at least 2"):
        split_rows(5, 0.2, 0)


@dataclass
class Swapped(ColourEncoder):
    """Takes red for green and green for red."""

    name: str = "swapped"
    version: str = "swapped"

    def embed_texts(self, texts: Any, device: str = "cpu") -> Tensor:
        other = {"red": "green", "green": "red"}
        return super().embed_texts([other.get(text, text) for text in texts], device)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    write_colours(tmp_path / "images")
    return Job(
        target=Target("net", ColourNet(), preprocess(), ("head", "conv")),
        probe=probe.resolve(str(tmp_path / "images")),
        concepts=concepts.resolve(list(COLOURS)),
        encoder=ColourEncoder(),
        similarity=similarity.build("soft_wpmi", top_k=4),
        settings=SETTINGS,
    )


def test_a_second_encoder_changes_the_descriptions(job: Job) -> None:
    plain = method.build("clip_dissect").describe(job)
    assert list(plain.descriptions["description"][:4]) == ["red", "green", "blue", ""]
    assert "first_similarity" not in plain.descriptions
    reranked = method.build("clip_dissect", rerank="encoder", reranker=Swapped(), candidates=6)
    found = reranked.describe(job)
    table = found.descriptions
    assert list(table["description"][:4]) == ["green", "red", "blue", ""]
    assert table["similarity"][0] == pytest.approx(plain.descriptions["similarity"][0])
    assert table["first_similarity"][0] < table["similarity"][0]
    assert table["null_similarity"][0] < table["similarity"][0]
    assert found.run["method"] == {
        "name": "clip_dissect",
        "rerank": "encoder",
        "candidates": 6,
        "held_out": 0.2,
        "seed": 0,
    }
    assert found.run["reranker"] == {"name": "swapped"}
    assert found.run["digests"]["reranker images"] == "colours swapped"
    # What doesn't depend on the labels is the first encoder's.
    pd.testing.assert_frame_equal(found.top_images, plain.top_images)
    pd.testing.assert_frame_equal(found.unit_metrics, plain.unit_metrics)


def test_simulation_on_colours(job: Job) -> None:
    reranked = method.build(
        "clip_dissect", rerank="simulation", reranker=Swapped(), candidates=6, held_out=0.5, seed=2
    )
    found = reranked.describe(job)
    assert list(found.descriptions["description"][:3]) == ["green", "red", "blue"]
    assert found.descriptions["similarity"][0] > 0.6
    assert found.run["reranker"]["images"] == [12, 12]
    assert found.run["reranker"]["calibration"] is None
    assert any("no calibration of the scorer is known" in note for note in found.run["notes"])
    labelled = replace(job, probe=replace(job.probe, labels=_labels(job)))
    fitted = reranked.describe(labelled).run["reranker"]["calibration"]
    assert "12 images" in fitted["source"]


def _labels(job: Job) -> tuple[str, ...]:
    assert job.probe
    return tuple(name.rstrip("0123456789.png") for name in job.probe.images)


def test_it_says_what_it_cannot_rerank(job: Job) -> None:
    with pytest.raises(DissectError, match=r"method\.reranker=NAME"):
        method.build("clip_dissect", rerank="encoder").describe(job)
    with pytest.raises(DissectError, match="it can be none or encoder or simulation"):
        method.build("clip_dissect", rerank="clip")
    with pytest.raises(DissectError, match="unknown encoder 'clop'"):
        method.build("clip_dissect", rerank="encoder", reranker="clop").describe(job)
    with pytest.raises(DissectError, match="is the encoder that finds the candidates"):
        method.build("clip_dissect", rerank="encoder", reranker=ColourEncoder()).describe(job)
    top_k = replace(job, settings=replace(SETTINGS, keep="top_k"))
    simulation = method.build("clip_dissect", rerank="simulation", reranker=Swapped())
    with pytest.raises(DissectError, match=r"of layer head only.*method\.rerank=encoder"):
        simulation.describe(top_k)
    by_encoder = method.build("clip_dissect", rerank="encoder", reranker=Swapped())
    kept, full = by_encoder.describe(top_k), by_encoder.describe(job)
    assert list(kept.descriptions["description"]) == list(full.descriptions["description"])
    for wrong in ({"candidates": 1}, {"held_out": 1.0}, {"seed": -1}):
        with pytest.raises(DissectError, match=f"method.{next(iter(wrong))} is"):
            method.build("clip_dissect", **wrong)
