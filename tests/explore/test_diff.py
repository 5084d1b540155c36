"""Differences of two checkpoints: kinds of change by hand, and units matched by correlation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tiny import preprocess
from torchvision.models import resnet as resnets

import clipdissect
from clipdissect import Settings, probe
from clipdissect.capture.capture import capture
from clipdissect.errors import DissectError
from clipdissect.explore import matching
from clipdissect.explore.correlation import correlation
from clipdissect.explore.diff import KINDS, diff
from clipdissect.method import Job
from clipdissect.targets import Target


class Synonyms:
    """Texts with the same first letter have a cosine of 0.8, others 0."""

    name, digest, context_length = "letters", "letters", 10

    def count_tokens(self, texts: list[str]) -> list[int]:
        return [1] * len(texts)

    def embed(self, texts: list[str], device: str = "cpu") -> torch.Tensor:
        rows = torch.zeros(len(texts), 26 + len(texts))
        for number, text in enumerate(texts):
            rows[number, ord(text[0]) - ord("a")] = 0.8**0.5
            rows[number, 26 + number] = 0.2**0.5
        return rows


BEFORE = [  # description, runner-up, similarity, null, top images, flags
    ("cat", "lion", 0.9, 0.5, "1 2 3 4", ()),  # same
    ("cat", "lion", 0.9, 0.5, "1 2 3 4", ()),  # a synonym: car's first letter
    ("cat", "dog", 0.9, 0.5, "1 2 3 4", ()),  # dog was second
    ("cat", "lion", 0.9, 0.5, "1 2 3 4", ()),  # 3 of 5 images are the same
    ("cat", "lion", 0.9, 0.5, "1 2 3 4", ()),  # changed
    ("cat", "lion", 0.9, 0.5, "1 2 3 4", ()),  # lost
    ("cat", "lion", 0.4, 0.5, "1 2 3 4", ()),  # gained
    ("cat", "lion", 0.4, 0.5, "1 2 3 4", ()),  # unclear
    ("cat", "lion", 0.9, 0.5, "1 2 3 4", ()),  # died
    ("", "", np.nan, np.nan, "1 2 3 4", ("dead",)),  # came alive
    ("", "", np.nan, np.nan, "1 2 3 4", ("dead",)),  # dead
    ("cat", "lion", 0.9, 0.5, "1 2 3 4", ("rare",)),  # of few images: gained
    ("cat", "lion", 0.9, 0.5, "1 2 3 4", ()),  # changed, as images of activation 0 don't count
]
AFTER = [
    ("cat", "wolf", 0.9, 0.5, "5 6 7 8", ()),
    ("car", "wolf", 0.9, 0.5, "5 6 7 8", ()),
    ("dog", "wolf", 0.9, 0.5, "5 6 7 8", ()),
    ("dog", "wolf", 0.9, 0.5, "1 2 3 5", ()),
    ("dog", "wolf", 0.9, 0.5, "1 6 7 8", ()),
    ("dog", "wolf", 0.4, 0.5, "5 6 7 8", ()),
    ("dog", "wolf", 0.9, 0.5, "5 6 7 8", ()),
    ("dog", "wolf", 0.4, 0.5, "5 6 7 8", ()),
    ("", "", np.nan, np.nan, "5 6 7 8", ("dead",)),
    ("dog", "wolf", 0.9, 0.5, "5 6 7 8", ()),
    ("", "", np.nan, np.nan, "5 6 7 8", ("dead",)),
    ("dog", "wolf", 0.9, 0.5, "5 6 7 8", ()),
    ("dog", "wolf", 0.9, 0.5, "5 2* 3* 4*", ()),
]
EXPECTED = "same similar similar similar changed lost gained unclear died came_alive dead gained"


def by_hand(rows: list[Any], network: str, images: str = "images") -> clipdissect.Result:
    columns = ["description", "description_2", "similarity", "null_similarity", "top", "flags"]
    table = pd.DataFrame(rows, columns=columns).assign(layer="layer4", unit=range(len(rows)))
    top = [
        ("layer4", unit, rank, name.rstrip("*"), float("*" not in name))
        for unit, names in enumerate(table["top"])
        for rank, name in enumerate(names.split(), 1)
    ]
    top_images = pd.DataFrame(top, columns=["layer", "unit", "rank", "image", "activation"])
    digests = {"target": network, "images": images}
    return clipdissect.Result(table.drop(columns="top"), top_images, {"digests": digests})


def test_kinds_by_hand() -> None:
    found = diff(by_hand(BEFORE, "a"), by_hand(AFTER, "b"), sentences=Synonyms())
    kinds = found.units["kind"].str.replace(" ", "_").tolist()
    assert kinds == [*EXPECTED.split(), "changed"]
    assert set(found.units["kind"]) == set(KINDS) - {"unmatched"}
    assert found.units["image_overlap"][[0, 3, 4]].tolist() == [0, 0.6, 1 / 7]
    assert found.units["cosine"][:3].tolist() == pytest.approx([1, 0.8, 0])
    assert found.units["other_rank"][:3].tolist() == pytest.approx([1, np.nan, 2], nan_ok=True)
    assert found.changed["unit"].tolist() == [12, 4]  # no image in common first
    assert found.summary == (
        "layer4: 13 units, 2 changed (15 %), 1 lost, 2 gained, 1 died, 1 came alive, 3 similar, "
        "1 same, 1 unclear, 1 dead"
    )
    assert found.texts.to_dict("list") == {
        "description": ["cat", "dog", "car"],
        "before": [11, 0, 0],
        "after": [1, 9, 1],
        "change": [-10, 9, 1],
    }
    assert "<td>dog</td>" in found._repr_html_()


def test_what_runs_do_not_share_is_noted() -> None:
    first = by_hand(BEFORE, "a")
    # Without a sentence encoder, and on other images, the synonym and the images don't count.
    found = first.diff(by_hand(AFTER, "b", "other images"))
    assert found.units["kind"].tolist()[:5] == ["same", "changed", "similar", "changed", "changed"]
    assert found.units["cosine"].isna().all() and found.units["image_overlap"].isna().all()
    assert found.notes == ("the runs are on other images, so their top images aren't compared",)
    same = first.diff(first)
    assert "both runs are of the same network" in same.notes[0]
    assert len(same.changed) == 0
    second = by_hand(AFTER, "b")
    second.run["encoder"] = "clip"
    second = replace(second, descriptions=second.descriptions.drop(columns="null_similarity")[:4])
    assert first.diff(second).notes == (
        "the runs differ in encoder, which changes descriptions, too",
        "not both runs have null scores, so every description counts as clear",
        "layer layer4: 9 units have no counterpart in the other run",
    )


def test_labels_of_a_file_are_neither_lost_nor_on_other_images() -> None:
    run, file = by_hand(BEFORE, "a"), by_hand(AFTER, "b")
    table = file.descriptions.drop(columns="null_similarity")
    file = clipdissect.Result(table, file.top_images[:0], {})
    # The run's units 6 and 7 are below their null, which says nothing of the file's.
    for found in (run.diff(file), file.diff(run)):
        assert found.units["kind"].tolist()[5:8] == ["changed", "changed", "changed"]
        assert found.notes == (
            "how a file's descriptions were made isn't known: it may explain differences",
            "not both runs' images are known, so their top images aren't compared",
            "not both runs have null scores, so every description counts as clear",
        )


def test_mistakes() -> None:
    first, second = by_hand(BEFORE, "a"), by_hand(AFTER, "b")
    moved = replace(second, descriptions=second.descriptions.assign(layer="layer3"))
    for other, arguments, message in (
        (moved, (), "no layer in common: layer4; layer3"),
        (second, ("by name",), "match is 'by name'; it can be index or correlation"),
        (second, ("index", None, "layer5"), "unknown layer 'layer5'"),
        (second, ("correlation",), "knows neither its network nor its images"),
    ):
        with pytest.raises(DissectError, match=message):
            first.diff(other, *arguments)
    saes = [by_hand(rows, "a") for rows in (BEFORE, AFTER)]
    for number, result in enumerate(saes):
        result.run["digests"]["latents of layer4"] = str(number)
    with pytest.raises(DissectError, match="of different sparse autoencoders"):
        saes[0].diff(saes[1])


def test_correlations_equal_a_plain_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(50, 7, generator=generator), torch.rand(50, 5, generator=generator)
    a[:, 2] = 3.0  # never varies
    b[:, 4] = 1 - a[:, 0]
    found = correlation(a, b)
    for i in range(7):
        for j in range(5):
            expected = 0.0 if i == 2 else np.corrcoef(a[:, i].numpy(), b[:, j].numpy())[0, 1]
            assert found[i, j] == pytest.approx(expected, abs=1e-5)
    assert found[0, 4] == pytest.approx(-1)


def permuted(network: resnets.ResNet, order: torch.Tensor) -> None:
    """Permute the units of layer4 without changing the network's function."""
    block = network.layer4[0]
    assert isinstance(block, resnets.BasicBlock) and block.downsample is not None
    last, shortcut = (block.conv2, block.bn2), (block.downsample[0], block.downsample[1])
    for convolution, norm in (last, shortcut):
        for tensor in (convolution.weight, norm.weight, norm.bias):  # type: ignore[union-attr]
            tensor.data = tensor.data[order]  # type: ignore[union-attr,operator,index]
        for buffer in ("running_mean", "running_var"):
            setattr(norm, buffer, getattr(norm, buffer)[order])
    network.fc.weight.data = network.fc.weight.data[:, order]


def write_patterns(folder: Path, count: int) -> None:
    """Images of 4 x 4 random colours, to which no two units respond alike."""
    folder.mkdir()
    colours = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    for number, pixels in enumerate(colours):
        Image.fromarray(pixels).resize((32, 32)).save(folder / f"{number:02}.png")


def described(target: Target, folder: Path, texts: list[str]) -> clipdissect.Result:
    images = probe.build("folder", root=str(folder))
    job = Job(target, images, settings=Settings(device="cpu", workers=0))
    features = capture(target, ["layer4"], None, images, None, job.settings)
    table = pd.DataFrame({"layer": "layer4", "unit": range(len(texts)), "description": texts})
    top = pd.DataFrame(columns=["layer", "unit", "rank", "image", "activation"])
    digests = dict(features.digests)
    return clipdissect.Result(table, top, {"digests": digests}, job=job)


def test_correlation_finds_a_permutation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_patterns(tmp_path / "images", 60)
    torch.manual_seed(0)
    network = resnets.ResNet(resnets.BasicBlock, [1, 1, 1, 1], num_classes=7).eval()
    texts = [f"text {unit}" for unit in range(512)]
    target = Target("before", network, preprocess(32), ("layer4",))
    first = described(target, tmp_path / "images", texts)
    order = torch.randperm(512, generator=torch.Generator().manual_seed(1))
    other = resnets.ResNet(resnets.BasicBlock, [1, 1, 1, 1], num_classes=7).eval()
    other.load_state_dict(network.state_dict())
    permuted(other, order)
    after = Target("after", other, preprocess(32), ("layer4",))
    second = described(after, tmp_path / "images", [texts[unit] for unit in order])
    by_index = first.diff(second)
    assert len(by_index.changed) == int((order != torch.arange(512)).sum()) > 500
    matched = first.diff(second, match="correlation")
    alive = matched.units["correlation"] > 0.999
    assert alive.sum() > 300  # some units are dead
    # Units that fire on one and the same image can't be told apart.
    assert (matched.units["kind"][alive] == "same").mean() > 0.9
    monkeypatch.setattr(matching, "MAX_ASSIGNED", 100)
    most = first.diff(second, match="correlation")
    assert "more than 100 units: each is matched with the one" in most.notes[-1]
    assert (most.units["kind"][most.units["correlation"] > 0.999] == "same").mean() > 0.9
    write_patterns(tmp_path / "others", 5)
    third = described(after, tmp_path / "others", texts)
    with pytest.raises(DissectError, match="on the same images, and the two runs are on others"):
        first.diff(third, match="correlation")
