"""Running top images: any order of parts gives what all activations give."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import ColourEncoder, ColourNet, preprocess, write_colours

from clipdissect import dissect, probe, similarity
from clipdissect.capture.activations import (
    TopKActivations,
    dead_units,
    few_distinct,
    for_scoring,
    top_of,
    units_of,
)
from clipdissect.capture.capture import capture
from clipdissect.capture.features import CapturedFeatures
from clipdissect.capture.settings import Settings
from clipdissect.errors import DissectError
from clipdissect.store import Store
from clipdissect.targets import Target


@settings(max_examples=60, deadline=None)
@given(
    images=st.integers(1, 40),
    units=st.integers(1, 5),
    k=st.integers(2, 12),
    levels=st.integers(1, 30),
    cuts=st.lists(st.integers(0, 39), max_size=5),
    seed=st.integers(0, 9),
)
def test_parts_in_any_order_equal_the_whole(
    images: int, units: int, k: int, levels: int, cuts: list[int], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    q = torch.randint(0, levels, (images, units), generator=generator).float()
    bounds = sorted({0, images, *(c for c in cuts if c < images)})
    parts = [TopKActivations.of(q[a:b], torch.arange(a, b), k) for a, b in pairwise(bounds)]
    order = torch.randperm(len(parts), generator=generator).tolist()
    kept = parts[order[0]]
    for number in order[1:]:
        kept = kept.merged(parts[number], k)
    whole = TopKActivations.of(q, torch.arange(images), k)
    assert kept.top.values.equal(whole.top.values)
    assert kept.top.indices.equal(whole.top.indices)
    assert kept.distinct.nan_to_num(-1).equal(whole.distinct.nan_to_num(-1))
    assert units_of(kept) == units
    assert dead_units(kept).equal(dead_units(q))
    small = min(k, images)
    assert few_distinct(kept, top_of(kept, small)).equal(few_distinct(q, top_of(q, small)))
    assert top_of(kept, small).indices.equal(top_of(q, small).indices)
    assert top_of(kept, 1000).values.equal(top_of(q, small).values)


def test_literal_numbers() -> None:
    q = torch.tensor([[1.0, 0.0], [3.0, 0.0], [3.0, 0.0], [2.0, 0.0]])
    kept = TopKActivations.of(q, torch.tensor([4, 5, 7, 9]), 2)
    assert kept.top.values.tolist() == [[3, 0], [3, 0]]
    assert kept.top.indices.tolist() == [[5, 4], [7, 5]]
    assert kept.count.tolist() == [2, 1]
    assert dead_units(kept).tolist() == [False, True]
    chosen = for_scoring(kept, torch.tensor([True, False]))
    assert chosen.indices.tolist() == [[5], [7]]
    renumbered = kept.renumbered(torch.arange(10) - 4, 6)
    assert renumbered.top.indices.tolist() == [[1, 0], [3, 1]]
    assert renumbered.top.images == 6


@pytest.mark.parametrize("name", ["soft_wpmi", "wpmi"])
def test_descriptions_are_the_same(tmp_path: Path, name: str) -> None:
    write_colours(tmp_path / "images")
    (tmp_path / "images" / "green1.png").write_bytes(b"no image")

    def run(keep: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        result = dissect(
            ColourNet(),
            ["conv", "head"],
            probe=tmp_path / "images",
            preprocess=preprocess(),
            concepts=["red", "green", "blue", "yellow"],
            encoder=ColourEncoder(),
            store=None,
            similarity=similarity.build(name, top_k=4),
            settings=Settings(device="cpu", workers=0, keep=keep, shard=5),
        )
        return result.descriptions, result.top_images

    for full, kept in zip(run("full"), run("top_k"), strict=True):
        pd.testing.assert_frame_equal(full, kept)


@pytest.mark.parametrize("added", ["layer", "encoder"])
def test_an_image_that_was_there_for_an_earlier_layer_is_named(tmp_path: Path, added: str) -> None:
    names = write_colours(tmp_path / "images")
    file = tmp_path / "images" / names[7]
    found, store = probe.build("folder", root=str(tmp_path / "images")), Store(tmp_path / "store")
    layers = ["head", "conv"] if added == "layer" else ["head"]
    encoder = ColourEncoder(version="2" if added == "encoder" else "1")

    def run(layers: list[str], encoder: ColourEncoder, keep: str = "top_k") -> CapturedFeatures:
        target = Target("net", ColourNet(), preprocess())
        settings = Settings(device="cpu", workers=0, keep=keep, shard=5)
        where = store if keep == "top_k" else Store(tmp_path / keep)
        return capture(target, layers, encoder, found, where, settings)

    for keep in ("top_k", "full"):
        run(["head"], ColourEncoder(), keep)
    file.rename(tmp_path / "away.png")
    says = rf"{names[7]} can't be read now .* could when layer head was captured.* run again"
    with pytest.raises(DissectError, match=says):
        run(layers, encoder)
    assert list(run(layers, encoder, "full").skipped) == [names[7]]
    (tmp_path / "away.png").rename(file)
    kept, full = run(layers, encoder), run(layers, encoder, "full")
    assert kept.images == full.images == tuple(names)
    assert kept.image_embeds.equal(full.image_embeds)
    for layer in layers:
        assert top_of(kept.activations[layer], 3).indices.equal(
            top_of(full.activations[layer], 3).indices
        )


def test_functions_that_need_everything_say_so_first(tmp_path: Path) -> None:
    write_colours(tmp_path)
    with pytest.raises(DissectError, match="cosine needs the activations of every image"):
        dissect(
            ColourNet(),
            ["conv"],
            probe=tmp_path,
            preprocess=preprocess(),
            concepts=["red"],
            encoder=ColourEncoder(),
            store=None,
            similarity="cosine",
            settings=Settings(device="cpu", keep="top_k"),
        )
