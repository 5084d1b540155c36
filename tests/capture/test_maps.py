"""Activation maps."""

from __future__ import annotations

import pytest
import torch
from tiny import ColourNet, preprocess, write_colours

from clipdissect import probe as probes
from clipdissect.capture.maps import activation_maps
from clipdissect.capture.output_layout import Reading, as_maps, summarise
from clipdissect.capture.settings import Settings
from clipdissect.errors import DissectError
from clipdissect.targets import Target


def test_the_maps_of_single_colours_are_constant(tmp_path) -> None:
    names = write_colours(tmp_path)
    target = Target("net", ColourNet(), preprocess(), ("relu", "head"))
    probe = probes.build("folder", root=str(tmp_path))
    settings = Settings(device="cpu", batch_size=5)
    found = list(activation_maps(target, target.layers, probe, settings))
    assert torch.cat([maps.images for maps in found]).tolist() == list(range(len(names)))
    relu = torch.cat([maps.layers["relu"] for maps in found])
    assert relu.shape == (len(names), 4, 8, 8)
    red = relu[names.index("red0.png")]
    assert red[:, 3, 3].tolist() == [1.0, 0.0, 0.0, 0.5] and (red == red[:, :1, :1]).all()
    head = torch.cat([maps.layers["head"] for maps in found])
    assert head.shape == (len(names), 4, 1, 1)
    torch.testing.assert_close(head[..., 0, 0], 2 * relu.mean((2, 3)))


def test_tokens_become_a_grid_without_prefix_tokens() -> None:
    tokens = torch.arange(2 * 8 * 3.0).reshape(2, 8, 3)
    maps = as_maps(tokens, Reading("blocks.0", "mean", 3, 0, 2, prefix=2, grid=(2, 3)))
    assert maps.shape == (2, 3, 2, 3)
    assert torch.equal(maps[1, 2], tokens[1, 2:, 2].reshape(2, 3))


def test_channels_last_maps_are_turned() -> None:
    values = torch.rand(2, 4, 4, 3)
    maps = as_maps(values, Reading("layer", "mean", 4, 0, 3, grid=(4, 4)))
    assert torch.equal(maps, values.permute(0, 3, 1, 2))


def test_images_on_the_second_axis_come_first() -> None:
    tokens = torch.rand(5, 2, 3)
    reading = Reading("layer", "cls", 3, images=1, units=2, prefix=1, grid=(2, 2))
    assert torch.equal(as_maps(tokens, reading)[1, 2].flatten(), tokens[1:, 1, 2])
    assert torch.equal(summarise(tokens, reading), tokens[0])


def test_what_has_no_map_is_one_position_or_refused() -> None:
    assert as_maps(torch.rand(2, 3), Reading()).shape == (2, 3, 1, 1)
    with pytest.raises(DissectError, match="no map"):
        as_maps(torch.rand(2, 6, 3), Reading("layer", "mean", 3, 0, 2))
    with pytest.raises(DissectError, match="3 dimensions in the trial"):
        as_maps(torch.rand(2, 6), Reading("layer", "mean", 3, 0, 2))
