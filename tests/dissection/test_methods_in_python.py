"""`clipdissect.dissect` with every method that needs no files of its own, in one call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import ColourEncoder, ColourNet, preprocess, write_colours

import clipdissect
from clipdissect import method
from clipdissect.errors import DissectError

WORDS = ["red", "green", "blue", "yellow"]
SETTINGS = clipdissect.Settings(device="cpu", workers=0)


def dissect(probe: Any, **options: Any) -> clipdissect.Result:
    return clipdissect.dissect(
        ColourNet(), ["conv"], preprocess=preprocess(), probe=probe, settings=SETTINGS, **options
    )


@pytest.fixture
def images(tmp_path: Path) -> str:
    write_colours(tmp_path / "images", shades=8)
    return str(tmp_path / "images")


@pytest.mark.parametrize(
    "chosen",
    [
        "clip_dissect",
        {"name": "clip_dissect", "meanings": 2},
        {"name": "linear", "length": 2},
        method.build("invert", source="encoder", length=1, min_images=1),
    ],
)
def test_methods_with_an_encoder(images: str, tmp_path: Path, chosen: Any) -> None:
    options = {"concepts": WORDS, "encoder": ColourEncoder(), "store": tmp_path / "store"}
    similarity = {"name": "soft_wpmi", "top_k": 8}
    result = dissect(images, method=chosen, similarity=similarity, **options)
    name = chosen if isinstance(chosen, str) else getattr(chosen, "name", None) or chosen["name"]
    assert result.run["method"]["name"] == name
    assert result.run["seconds"]["load"] > 0
    assert len(result.descriptions) == 4
    assert result.save(tmp_path / "run").is_dir()


def test_methods_with_masks_take_neither_concepts_nor_an_encoder(tmp_path: Path) -> None:
    probe = {"name": "synthetic_broden", "images": 12, "stamps": "none", "root": str(tmp_path)}
    result = dissect(probe, method="network_dissection", store=tmp_path / "store")
    assert result.vocabulary is not None
    assert set(result.descriptions["description"]) <= {"", *result.vocabulary.texts}


def test_mistakes(images: str) -> None:
    with pytest.raises(DissectError, match="concepts must be a list of texts"):
        dissect(images)
    with pytest.raises(DissectError, match=r"unknown method 'lineer'\. Did you mean linear"):
        dissect(images, concepts=WORDS, method="lineer")
    with pytest.raises(DissectError, match="method must be a name"):
        dissect(images, concepts=WORDS, method=3)
