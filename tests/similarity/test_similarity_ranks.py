"""Ranks of given concepts against sorting all scores."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from clipdissect import similarity
from clipdissect.errors import DissectError
from clipdissect.similarity import ConceptActivations, ranks, top_images
from clipdissect.similarity.cosine import Cosine

IMAGES, UNITS, CONCEPTS = 40, 7, 300


def inputs() -> tuple[ConceptActivations, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    images, texts = (
        F.normalize(torch.randn(n, 5, generator=draw), dim=1) for n in (IMAGES, CONCEPTS)
    )
    return ConceptActivations(images, texts), torch.randn(IMAGES, UNITS, generator=draw)


@pytest.mark.parametrize("name", similarity.OPTIONS)
@pytest.mark.parametrize("memory_gb", [2.0, 1e-5])  # one block, many
def test_ranks_are_places_in_the_sorted_scores(name: str, memory_gb: float) -> None:
    p, q = inputs()
    few = {"top_k": 9} if name in ("soft_wpmi", "wpmi") else {}
    scorer = similarity.build(name, memory_gb=memory_gb, **few)
    best = scorer.top(p, q, CONCEPTS)
    concepts = best.concepts
    wanted = torch.tensor([5, 0, 299, 77, -1, int(concepts[5, 0]), int(concepts[6, -1])])
    found = ranks(scorer, p, q, wanted)
    # The place of the wanted concept among all scores, the middle one of those equal to it.
    for unit in range(UNITS):
        if wanted[unit] < 0:
            assert found[unit].isnan()
            continue
        scores = best.scores[unit].tolist()
        own = scores[concepts[unit].tolist().index(int(wanted[unit]))]
        better, equal = sum(s > own for s in scores), scores.count(own) - 1
        assert found[unit] == 1 + better + equal / 2
    if name != "rank_reorder":  # of which some equal others
        assert found[5:].tolist() == [1, CONCEPTS]


def test_top_images_are_enough_where_they_are_for_the_scores() -> None:
    p, q = inputs()
    scorer = similarity.build("soft_wpmi", top_k=9)
    wanted = torch.arange(UNITS)
    assert ranks(scorer, p, top_images(q, 9), wanted).equal(ranks(scorer, p, q, wanted))


def test_equal_scores_share_the_middle_rank() -> None:
    p, q = inputs()
    twice = ConceptActivations(p.image_embeds, p.text_embeds[[3, 3, 3, 3]])
    found = ranks(Cosine(), twice, q[:, :3], torch.tensor([0, 1, 3]))
    assert found.tolist() == [2.5, 2.5, 2.5]
    # Blocks of one concept each, with one that is ahead or behind.
    some = ConceptActivations(p.image_embeds, p.text_embeds[[3, 3, 5]])
    best = Cosine().top(some, q[:, :1], 1).concepts[0, 0].item()
    found = ranks(Cosine(memory_gb=1e-9), some, q[:, :1], torch.tensor([1]))
    assert found.tolist() == [1.5 if best in (0, 1) else 2.5]


def test_copies_are_no_rivals() -> None:
    p, q = inputs()
    order = [7, 3, 3, 9, 7, 3]  # texts are 7, 3, 9
    some = ConceptActivations(p.image_embeds, p.text_embeds[order])
    once = ConceptActivations(p.image_embeds, p.text_embeds[[7, 3, 9]])
    first = torch.tensor([True, True, False, True, False, False])
    for place, plain in ((0, 0), (1, 1), (3, 2)):
        found = ranks(Cosine(), some, q, torch.full((UNITS,), place), first)
        assert found.equal(ranks(Cosine(), once, q, torch.full((UNITS,), plain)))


def test_a_concept_for_every_unit() -> None:
    p, q = inputs()
    with pytest.raises(DissectError, match="2 wanted concepts for 7 units"):
        ranks(Cosine(), p, q, torch.tensor([0, 1]))
