"""Flags of units: lists of names, in tables and files, and when float32 tells scores apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import similarity_reference as reference
import torch

from clipdissect import similarity
from clipdissect.evaluation.layers import layer_metrics
from clipdissect.report.run import Unit, load, unit_of
from clipdissect.results.describe import describe_layer
from clipdissect.results.flags import flags_of, has_flag, read, written
from clipdissect.results.run_files import write_table
from clipdissect.similarity.inputs import ConceptActivations

WORDS = [f"word {i}" for i in range(40)]


def factors(images: int, seed: int = 0) -> ConceptActivations:
    drawn = torch.Generator().manual_seed(seed)
    unit = [torch.randn(n, 16, generator=drawn) for n in (images, len(WORDS))]
    return ConceptActivations(*(x / x.norm(dim=1, keepdim=True) for x in unit))


def test_a_unit_has_any_number_of_flags() -> None:
    given = {"dead": [1, 0, 0], "tied": [1, 1, 0], "few_distinct": [1, 1, 0]}
    found = flags_of({name: np.array(own, dtype=bool) for name, own in given.items()})
    assert found == [("dead",), ("tied", "few_distinct"), ()]
    assert [read(written(own)) for own in found] == found
    table = pd.DataFrame({"unit_flags": [written(own) for own in found]})
    assert has_flag(table, "tied").tolist() == [False, True, False]
    assert has_flag(pd.DataFrame({"unit": [1]}), "dead").tolist() == [False]


def test_tied_units_with_few_distinct_activations_have_both_flags() -> None:
    """As a layer's only unit, of which the marginal leaves nothing."""
    q = torch.zeros(30, 1)
    q[:3, 0] = torch.tensor([3.0, 2.0, 1.0])
    table = describe_layer("x", q, factors(30), WORDS, similarity.build("soft_wpmi", top_k=9), 2)
    assert table["unit_flags"].tolist() == [("tied", "few_distinct")]
    found = layer_metrics(table)
    assert (found["tied"], found["few_distinct"], found["dead"]) == (1, 1, 0)


@pytest.mark.parametrize("name", ["soft_wpmi", "wpmi"])
def test_margins_below_the_rounding_of_the_sums_are_ties(name: str) -> None:
    """Two texts that differ by rounding only, in sums of some hundred: their order says nothing."""
    made, drawn = factors(300), torch.Generator().manual_seed(1)
    texts = made.text_embeds.repeat(2, 1)
    texts[len(WORDS) :] += 2e-8 * torch.randn(len(WORDS), 16, generator=drawn)
    q = torch.randn(300, 30, generator=drawn)
    scorer = similarity.build(name, top_k=100)
    both = ConceptActivations(made.image_embeds, texts)
    table = describe_layer("x", q, both, WORDS + [f"{w} again" for w in WORDS], scorer, 2)
    size = -float(np.log(len(texts))) * 100  # about that of the sums
    assert (table["margin"] <= -size * 2**-23 * 4).all()
    assert has_flag(table, "tied").mean() > 0.8
    assert (table["margin"] > 0).any()  # which the comparison with zero didn't find
    alone = describe_layer("x", q, made, WORDS, scorer, 2)
    assert not has_flag(alone, "tied").any()


@pytest.mark.parametrize("name", ["soft_wpmi", "wpmi"])
def test_the_resolution_is_that_of_the_sums(name: str) -> None:
    """Their largest size times 2^-23, and no smaller than what scores are off by, typically."""
    made, q = factors(200), torch.randn(200, 8, generator=torch.Generator().manual_seed(2))
    scorer = similarity.build(name, top_k=100)
    best = scorer.top(made, q, 1)
    P, wide = made.dense().double().numpy(), q.double().numpy()
    joint = getattr(reference, name)(P, wide, top_k=100, lam=0)
    largest = np.abs(joint).max(1)
    np.testing.assert_allclose(best.resolution.numpy(), largest * 2**-23, rtol=1e-4)
    exact = getattr(reference, name)(P, wide, top_k=100).max(1)
    off = np.abs(best.scores[:, 0].numpy() - exact)
    assert np.median(off) < best.resolution.median().item()


@pytest.mark.parametrize("name", ["cosine", "cosine_cubed", "lp", "rank_reorder"])
def test_other_functions_tell_scores_apart_by_their_own_size(name: str) -> None:
    more = {"top_fraction": 0.5} if name == "rank_reorder" else {}
    best = similarity.build(name, **more).top(factors(60), torch.randn(60, 5), 1)
    size = torch.ones(5) if "cosine" in name else best.scores[:, 0].abs()
    torch.testing.assert_close(best.resolution, size * 2**-23)
    assert not best.tied.any()


def test_files_hold_flags_in_one_cell_and_float32_whole(tmp_path: Path) -> None:
    scores = np.array([1.0, np.nextafter(np.float32(1), np.float32(2)), 0.5], dtype=np.float32)
    table = pd.DataFrame(
        {
            "layer": "fc",
            "unit": range(3),
            "description": ["a", "b", ""],
            "similarity": scores,
            "margin": [0.0, 0.0, np.nan],
            "unit_flags": [("tied", "few_distinct"), (), ("dead",)],
            "null_similarity": scores,
        }
    )
    write_table(tmp_path / "descriptions.csv", table)
    lines = (tmp_path / "descriptions.csv").read_text().splitlines()
    assert "tied;few_distinct" in lines[1]
    run = load(tmp_path)
    assert run.descriptions["unit_flags"].tolist() == table["unit_flags"].tolist()
    for column in ("similarity", "null_similarity"):
        assert (run.descriptions[column].to_numpy(np.float32) == scores).all()
    unit = unit_of(run, "fc/0")
    assert (unit.flags, unit.null) == (("tied", "few_distinct"), 1.0)


def test_files_of_before_still_load(tmp_path: Path) -> None:
    (tmp_path / "descriptions.csv").write_text(
        "layer,unit,description,similarity,margin,flags\nfc,0,cat,0.5,0.1,\nfc,1,,,,dead\n"
        "fc,2,dog,0.4,0,tied\n"
    )
    run = load(tmp_path)
    assert run.descriptions["unit_flags"].tolist() == [(), ("dead",), ("tied",)]
    as_written = pd.read_csv(tmp_path / "descriptions.csv")
    assert has_flag(as_written, "tied").tolist() == [False, False, True]
    assert not hasattr(pd.DataFrame, "unit_flags")
    assert unit_of(run, "fc/0").null != unit_of(run, "fc/0").null
    assert layer_metrics(run.descriptions)["dead"] == 1


def test_show_prints_flags_and_the_null() -> None:
    from rich.console import Console

    from clipdissect.app.commands.show import parts

    unit = Unit("fc", 3, [("cat", 4.5), ("dog", 4.5)], 0.0, ("tied", "few_distinct"), 4.25)
    console = Console(record=True, width=100)
    for part in parts(unit, 1):
        console.print(part)
    text = console.export_text()
    assert "[tied, few_distinct]" in text and "4.250" in text
