"""Latents described by the images on which they fire, and named by their decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_dissect
import torch
from dense import target as dense_target
from dense import write_dense
from tiny import COLOURS, ColourEncoder, LiveNet, preprocess, write_colours
from tiny_saes import sae
from torch import Tensor, nn

import clipdissect
from clipdissect import method, probe
from clipdissect.capture.pooling import Summary
from clipdissect.capture.settings import Settings
from clipdissect.dissection import Job, describe_units
from clipdissect.errors import DissectError
from clipdissect.masks.kernels import upsample_and_threshold
from clipdissect.masks.thresholds import sparse_inputs
from clipdissect.method import Method
from clipdissect.method.decoder_names import DecoderNames
from clipdissect.targets import Target

SETTINGS = Settings(device="cpu", workers=0)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_colours(tmp_path / "images")
    return tmp_path / "images"


def dissect(images: Path, **changes: Any) -> clipdissect.Result:
    return test_dissect.dissect(str(images), **{"layers": ["conv"], **changes})


def brightest() -> Any:
    """Latents that fire on 4, 1 and 0 images: red, the brightest green, none."""
    weight = torch.zeros(4, 3)
    weight[0, 0] = weight[1, 1] = weight[2, 2] = 1.0
    return sae(weight, torch.tensor([-0.5, -0.95, -2.0]))


def test_silent_images_describe_nothing(images: Path) -> None:
    result = dissect(images, sae=brightest())
    table = result.descriptions
    assert table["layer"].tolist() == ["conv{sae}"] * 3
    assert table["description"].tolist() == ["red", "green", ""]
    assert table["unit_flags"].tolist() == [(), ("rare",), ("dead",)]
    assert table["fires"].tolist() == [4, 1, 0]
    assert table["density"].tolist() == pytest.approx([4 / 24, 1 / 24, 0])
    shown = result.top_images
    assert (shown["activation"] > 0).all()
    assert shown.groupby("unit").size().to_dict() == {0: 4, 1: 1}
    assert shown[shown["unit"] == 1]["image"].tolist() == ["green0.png"]


def test_rare_latents_are_scored_as_if_their_images_were_repeated(tmp_path: Path) -> None:
    """A probe in which the one image occurs four times gives the same score."""
    once, often = tmp_path / "once", tmp_path / "often"
    for folder in (once, often):
        write_colours(folder)
    for copy in range(3):
        (often / f"green0{copy}.png").write_bytes((once / "green0.png").read_bytes())
    rows = [dissect(folder, sae=brightest()).descriptions.iloc[1] for folder in (once, often)]
    assert [row["fires"] for row in rows] == [1, 4]
    assert [row["unit_flags"] for row in rows] == [("rare",), ("few_distinct",)]
    for column in ("description", "description_2", "description_3"):
        assert rows[0][column] == rows[1][column]
    assert rows[0]["similarity"] == pytest.approx(rows[1]["similarity"], abs=1e-5)


def test_functions_that_sort_images_leave_rare_latents_out(images: Path) -> None:
    settings = Settings(device="cpu", workers=0, keep="full")
    chosen = {"name": "rank_reorder", "top_fraction": 0.1}  # two images
    table = dissect(images, sae=brightest(), similarity=chosen, settings=settings).descriptions
    assert table["description"].tolist()[1:] == ["", ""]
    assert table["description"][0] in COLOURS
    assert table["unit_flags"].tolist()[1:] == [("rare",), ("dead",)]


def test_functions_of_all_images_need_them(images: Path) -> None:
    with pytest.raises(DissectError, match=r"of the latents, .* use keep=full"):
        dissect(images, sae=brightest(), similarity="cosine")
    settings = Settings(device="cpu", workers=0, keep="full")
    table = dissect(images, sae=brightest(), similarity="cosine", settings=settings).descriptions
    assert table["description"].tolist() == ["red", "green", ""]
    assert table["unit_flags"].tolist() == [
        ("rare",),
        ("rare",),
        ("dead",),
    ]  # on fewer than 10 images


@pytest.mark.parametrize("similarity", ["soft_wpmi", "wpmi"])
def test_an_autoencoder_that_is_a_relu_gives_the_relus_units(similarity: str, images: Path) -> None:
    maximum = Settings(device="cpu", workers=0, summary=Summary("max"))
    options: dict[str, Any] = {"model": LiveNet(), "similarity": {"name": similarity, "top_k": 3}}
    latents = dissect(images, sae=sae(torch.eye(4)), **options).descriptions
    units = dissect(images, layers=["relu"], settings=maximum, **options).descriptions
    columns = [c for c in units if c not in ("layer", "unit_flags")]
    for column in columns:
        values, expected = latents[column].tolist(), units[column].tolist()
        if column.startswith("description"):
            assert values == expected
        else:
            assert values == pytest.approx(expected, abs=1e-5)


def test_dead_latents_stay_dead_where_others_are_included(images: Path) -> None:
    chosen = {"name": "soft_wpmi", "top_k": 4, "dead": "include"}
    assert dissect(images, sae=brightest(), similarity=chosen).descriptions["description"][2] == ""


def test_several_autoencoders_by_layer(images: Path) -> None:
    saes = {"conv": brightest(), "head": sae(torch.eye(4)).module}
    result = dissect(images, layers=["head", "relu", "conv"], sae=saes)
    assert list(result.descriptions["layer"].unique()) == ["head{sae}", "relu", "conv{sae}"]
    facts = result.run["saes"]
    assert facts["conv{sae}"]["latents"] == 3
    assert facts["head{sae}"]["fit"]["tokens"] == 8
    assert set(result.run["digests"]) >= {"latents of conv{sae}", "latents of head{sae}"}


def test_network_dissection_of_latents(tmp_path: Path) -> None:
    """An autoencoder that is a ReLU gives the masks of the ReLU."""
    write_dense(tmp_path)
    images = probe.build("broden", root=str(tmp_path))
    layer = "pool"
    plain = dense_target(layer)
    units = describe(plain, images)
    shift = 2.0**16  # all codes are above 0, so the ReLU changes no order
    same = sae(torch.eye(len(units)), shift)
    latents = describe(plain.with_sae(same), images)
    assert latents["layer"].unique().tolist() == [f"{layer}{{sae}}"]
    assert latents["description"].tolist() == units["description"].tolist()
    assert latents["similarity"].tolist() == pytest.approx(units["similarity"].tolist(), abs=1e-3)


def describe(target: Target, images: Any) -> Any:
    job = Job(target=target, probe=images, settings=SETTINGS, images=3)
    return method.build("network_dissection", quantile=0.1).describe(job).descriptions


class MeanColour(nn.Module):
    """Its output is the colours encoder's image embedding, but for the length."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flat = nn.Flatten()

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.flat(self.pool(images))
        return output


def named(images: Path, directions: Tensor, top: int = 2, **changes: Any) -> Any:
    autoencoder = sae(directions.T.contiguous(), **changes)
    target = Target("mean", MeanColour(), preprocess(4), ("flat",)).with_sae(autoencoder)
    job = Job(
        target=target,
        probe=probe.build("folder", root=str(images)),
        concepts=clipdissect.concepts.resolve(list(COLOURS)),
        encoder=ColourEncoder(),
        similarity=clipdissect.similarity.build("soft_wpmi", top_k=4),
        settings=SETTINGS,
        top=top,
        images=3,
    )
    return method.build("decoder_names").describe(job)


def test_decoder_directions_name_latents(images: Path) -> None:
    decoder = torch.tensor([[2.0, 0.1, 0.0], [0.0, 1.0, 0.9], [-1.0, -1.0, -1.0], [0.0, 0.0, 0.0]])
    result = named(images, decoder)
    table = result.descriptions
    assert table["description"].tolist()[:2] == ["red", "cyan"]
    assert table["description"][3] == ""
    assert table["similarity"][0] == pytest.approx(2 / (4.01**0.5))
    assert table["margin"][0] == pytest.approx(table["similarity"][0] - table["similarity_2"][0])
    # A name needs no image: the third never fires.
    assert table["unit_flags"].tolist()[2:] == [("dead",), ("dead",)]
    assert table["description"][2] != ""
    assert table["fires"].tolist()[2:] == [0, 0]
    assert result.run["method"] == {"name": "decoder_names"}
    assert "similarity" not in result.run
    assert result.unit_metrics["clarity"].notna().tolist() == [True, True, False, False]
    assert result.unit_metrics["monosemanticity"].isna().all()  # of the top images only
    first = result.top_images.iloc[0]
    assert (first["unit"], first["image"]) == (0, "yellow0.png")  # red and a tenth of green


def test_decoder_names_needs_the_encoders_space(images: Path) -> None:
    with pytest.raises(DissectError, match=r"directions of flat\{sae\} have 4 .* colours have 3"):
        named(images, torch.eye(3), decoder=torch.eye(4))
    with pytest.raises(DissectError, match="no known decoder"):
        named(images, torch.eye(3), decoder=None)
    job = Job(target=Target("mean", MeanColour(), preprocess(4), ("flat",)))
    with pytest.raises(DissectError, match="needs: probe"):
        method.build("decoder_names").describe(job)
    with pytest.raises(DissectError, match="needs: probe"):
        describe_units(job)


def test_numbers_of_latents_are_of_images_on_which_they_fire(images: Path) -> None:
    units = dissect(images, sae=brightest()).unit_metrics
    # All four are of one colour. Of a single image there is no pair, but there is a mean, and the
    # two colours are at a right angle.
    assert units["clarity"].tolist() == pytest.approx([1, np.nan, np.nan], abs=1e-6, nan_ok=True)
    assert units["polysemanticity"][0] == pytest.approx(0, abs=1e-6)
    assert units["redundancy"].tolist() == pytest.approx([0, 0, np.nan], abs=1e-6, nan_ok=True)


def test_truth_changes_no_description_of_latents(images: Path) -> None:
    plain = dissect(images, sae=brightest()).descriptions
    truth = {"conv{sae}": ["red", "green", "blue"]}
    told = dissect(images, sae=brightest(), truth=truth).descriptions
    assert told["description"].tolist() == plain["description"].tolist()
    assert told["similarity"].tolist()[:2] == pytest.approx(plain["similarity"].tolist()[:2])
    assert told["truth_rank"].tolist()[:2] == [1, 1]


def test_latents_that_never_vary_are_alive_and_not_described(images: Path) -> None:
    always = sae(torch.zeros(4, 2), torch.tensor([1.0, -1.0]))
    table = dissect(images, sae=always).descriptions
    assert table["unit_flags"].tolist() == [("few_distinct",), ("dead",)]
    assert table["description"].tolist() == ["", ""]
    assert table["density"].tolist() == [1, 0]


def test_a_single_firing_position_is_no_larger_than_itself(tmp_path: Path) -> None:
    """Of masks: a latent with threshold 0 covers its position alone, not its neighbours' halves."""
    maps = np.zeros((2, 4, 4), dtype=np.float32)
    maps[0, 1, 2] = maps[1, 1, 2] = 5.0
    found, above = sparse_inputs(maps, np.array([0.0, 1.0], dtype=np.float32))
    assert found[0].max() == 1
    assert above.tolist() == [0.5, 1.0]
    assert found[1].max() == 5
    masks = upsample_and_threshold(found[:1], above[:1], (16, 16))
    pixels = sum(int(word).bit_count() for word in np.asarray(masks).reshape(-1).tolist())
    assert 12 <= pixels <= 16  # corners are cut


def test_decoder_names_shares_the_capture_with_other_processes() -> None:
    assert DecoderNames.run_worker is not Method.run_worker
    with pytest.raises(DissectError, match="needs: target"):
        DecoderNames().run_worker(Job())


def test_decoder_names_checks_its_numbers(images: Path) -> None:
    with pytest.raises(DissectError, match="top and images must be at least 1"):
        named(images, torch.eye(3), top=0)
