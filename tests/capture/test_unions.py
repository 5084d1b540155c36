"""A union's features are its parts': captured once, whichever way they are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import ColourEncoder, ColourNet, preprocess, write_colours

from clipdissect import probe
from clipdissect.capture.activations import TopKActivations
from clipdissect.capture.capture import capture
from clipdissect.capture.settings import Settings
from clipdissect.store import Store
from clipdissect.targets import Target

LAYERS = ("conv", "head")


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    for name, shades in (("a", 3), ("b", 2)):
        write_colours(tmp_path / name, shades)
    (tmp_path / "b" / "cyan0.png").write_bytes(b"no image")
    return [tmp_path / "a", tmp_path / "b"]


@pytest.mark.parametrize("keep", ["full", "top_k"])
def test_a_union_of_captured_parts_costs_nothing(
    folders: list[Path], tmp_path: Path, keep: str
) -> None:
    kept, encoder = Store(tmp_path / "store"), ColourEncoder()
    settings = Settings(device="cpu", workers=0, keep=keep, shard=4)
    target = Target("net", ColourNet(), preprocess(), LAYERS)
    parts = [probe.build("folder", root=str(folder)) for folder in folders]
    for part in parts:
        capture(target, LAYERS, encoder, part, kept, settings)
    seen = encoder.images_seen
    whole = probe.build("union", parts=parts)
    union = capture(target, LAYERS, encoder, whole, kept, settings)
    assert encoder.images_seen == seen
    assert union.computed == ()
    assert list(union.skipped) == ["b/cyan0.png"]
    assert len(union.images) == len(union.image_embeds) == 18 + 11
    assert union.images[:1] == ("a/blue0.png",)
    assert union.images[-1] == "b/yellow1.png"
    # The same images, without the trouble, in one folder.
    alone = [
        capture(target, LAYERS, encoder, part, None, Settings(device="cpu", workers=0))
        for part in parts
    ]
    expected = torch.cat([part.activations["head"] for part in alone])
    found = union.activations["head"]
    if isinstance(found, TopKActivations):
        reference = TopKActivations.of(expected, torch.arange(29), 100)
        assert found.top.indices.equal(reference.top.indices)
        assert torch.allclose(found.top.values, reference.top.values, atol=1e-6)
        assert found.top.images == 29
    else:
        assert torch.allclose(found, expected, atol=1e-6)
    embeds = torch.cat([part.image_embeds for part in alone])
    assert torch.allclose(union.image_embeds, embeds, atol=1e-6)


def test_fast_decoding_has_features_of_its_own(folders: list[Path], tmp_path: Path) -> None:
    kept = Store(tmp_path / "store")
    settings = Settings(device="cpu", workers=0)
    target = Target("net", ColourNet(), preprocess(), LAYERS)
    captured = [
        capture(
            target,
            LAYERS,
            ColourEncoder(),
            probe.build("folder", root=str(folders[0]), decode=decode),
            kept,
            settings,
        )
        for decode in ("pil", "fast", "pil", "fast")
    ]
    assert [len(c.computed) for c in captured] == [3, 3, 0, 0]
    one, other = captured[0].activations["head"], captured[1].activations["head"]
    assert torch.allclose(one, other, atol=0.02)
