"""Datasets of the package `datasets` as probes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sets import picture

from clipdissect import probe
from clipdissect.errors import DissectError, MissingResource
from clipdissect.images.decode import UnreadableImage

GREYS = (10, 60, 110, 160)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    # `datasets` alone may be the folder of that name in the tests.
    pytest.importorskip("datasets.features", reason="needs the extra `hf`")
    found = sys.modules["datasets"]
    monkeypatch.setattr(found.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    return found


@pytest.fixture
def table(library: Any) -> Any:
    features = {
        "label": library.ClassLabel(names=["cat", "dog"]),
        "image": library.Image(),
        "note": library.Value("string"),
    }
    rows = {
        "image": [Image.new("RGB", (3, 2), (g, g, g)) for g in GREYS],
        "label": [1, 0, -1, 1],
        "note": ["a", "b", None, "d"],
    }
    return library.Dataset.from_dict(rows, features=library.Features(features))


def grey(found: probe.Probe, index: int) -> int:
    return int(np.asarray(found.read(index))[0, 0, 0])


def test_folder_of_save_to_disk(table: Any, tmp_path: Path) -> None:
    table.save_to_disk(tmp_path / "pets")
    found = probe.build("hf_datasets", path=str(tmp_path / "pets"))
    assert found.name == "pets"
    assert [grey(found, i) for i in range(4)] == list(GREYS)
    assert found.labels == ("dog", "cat", None, "dog")
    assert found.path(0) is None
    assert probe.build("hf_datasets", path=str(tmp_path / "pets")).digest == found.digest
    noted = probe.build("hf_datasets", path=str(tmp_path / "pets"), label="note", limit=3)
    assert noted.labels == ("a", "b", None)
    assert noted.digest == found.subset(range(3)).digest


def test_splits(library: Any, table: Any, tmp_path: Path) -> None:
    parts = {"train": table, "test": table.select([3, 1])}
    library.DatasetDict(parts).save_to_disk(tmp_path / "pets")
    with pytest.raises(DissectError, match=r"set probe\.split to one: \['train', 'test'\]"):
        probe.build("hf_datasets", path=str(tmp_path / "pets"))
    with pytest.raises(DissectError, match=r"split of the dataset 'tets'.*Did you mean test"):
        probe.build("hf_datasets", path=str(tmp_path / "pets"), split="tets")
    found = probe.build("hf_datasets", path=str(tmp_path / "pets"), split="test")
    assert [grey(found, i) for i in range(2)] == [GREYS[3], GREYS[1]]


def test_parquet_file(table: Any, tmp_path: Path) -> None:
    table.to_parquet(tmp_path / "pets.parquet")
    found = probe.build("hf_datasets", path=str(tmp_path / "pets.parquet"))
    assert [grey(found, i) for i in range(4)] == list(GREYS)
    assert found.labels == ("dog", "cat", None, "dog")
    drawn = probe.build("hf_datasets", path=str(tmp_path / "pets.parquet"), sample=2)
    assert [grey(drawn, i) for i in range(2)] == [
        grey(found, found.images.index(image)) for image in drawn.images
    ]


def test_folder_of_images_follows_the_files(library: Any, tmp_path: Path) -> None:
    for name in ("cat/1.png", "dog/2.png"):
        picture(tmp_path / "pets" / name)
    found = probe.build("hf_datasets", path=str(tmp_path / "pets"))
    assert sorted(zip(found.labels or (), [str(found.path(i)) for i in (0, 1)], strict=True)) == [
        ("cat", str(tmp_path / "pets" / "cat" / "1.png")),
        ("dog", str(tmp_path / "pets" / "dog" / "2.png")),
    ]
    assert found.read(0).size == (12, 10)
    os.utime(tmp_path / "pets" / "cat" / "1.png", ns=(5, 5))
    assert probe.build("hf_datasets", path=str(tmp_path / "pets")).digest != found.digest
    (tmp_path / "pets" / "cat" / "1.png").unlink()
    with pytest.raises(UnreadableImage):
        found.read(0)


def test_content_is_the_bytes(table: Any, tmp_path: Path) -> None:
    table.save_to_disk(tmp_path / "one")
    table.select([3, 0]).save_to_disk(tmp_path / "two")
    one = probe.build("hf_datasets", path=str(tmp_path / "one"), identity="content")
    two = probe.build("hf_datasets", path=str(tmp_path / "two"), identity="content")
    assert two.digest == one.subset([3, 0]).digest


def test_columns(library: Any, table: Any, tmp_path: Path) -> None:
    table.save_to_disk(tmp_path / "pets")
    with pytest.raises(DissectError, match=r"probe\.image.*'imag'.*Did you mean image"):
        probe.build("hf_datasets", path=str(tmp_path / "pets"), image="imag")
    with pytest.raises(DissectError, match=r"probe\.label.*'labels'.*Did you mean label"):
        probe.build("hf_datasets", path=str(tmp_path / "pets"), label="labels")
    library.Dataset.from_dict({"x": [1]}).save_to_disk(tmp_path / "none")
    with pytest.raises(DissectError, match=r"set probe\.image to one of x"):
        probe.build("hf_datasets", path=str(tmp_path / "none"))
    found = probe.build("hf_datasets", path=str(tmp_path / "none"), image="x")
    with pytest.raises(UnreadableImage, match="int"):
        found.read(0)


def test_one_of_several_columns_of_images_is_noted(library: Any, tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (3, 2), (g, g, g)) for g in GREYS]
    features = library.Features({"photo": library.Image(), "mask": library.Image()})
    rows = {"photo": pictures, "mask": pictures[::-1]}
    library.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "x")
    found = probe.build("hf_datasets", path=str(tmp_path / "x"))
    assert grey(found, 0) == GREYS[0]
    assert found.notes == ("the images are the dataset's column photo; probe.image can be mask",)
    assert not probe.build("hf_datasets", path=str(tmp_path / "x"), image="photo").notes


def test_files_of_one_name_in_two_folders_differ(library: Any, tmp_path: Path) -> None:
    for name in ("cat/1.png", "dog/1.png"):
        os.utime(picture(tmp_path / "pets" / name), ns=(5, 5))
    found = probe.build("hf_datasets", path=str(tmp_path / "pets"))
    assert len(set(found.identities or ())) == 2


def test_dataset_that_is_not_there(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(MissingResource, match="no/such"):
        probe.build("hf_datasets", path="no/such")


def test_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingResource, match=r"\.\[hf\]"):
        probe.build("hf_datasets", path="x")
