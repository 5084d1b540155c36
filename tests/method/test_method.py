"""Labels from files, in each published format, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from conftest import ROOT

from clipdissect import method
from clipdissect.errors import DissectError, MissingResource
from clipdissect.method import Job

CLIP_DISSECT = "layer,unit,description,similarity\nfc,1,nan,0.5\nconv1,0,red,0.25\nfc,0,a dog,\n"
MILAN = 'layer,unit,description\nfc,1,null\nconv1,0,Red\nfc,0,"Dogs, cats"\n'
NETDISSECT = "unit,category,label,score,color-iou\n2,scene,coast-s,0.5,0.1\n1,color,red-c,0.25,0\n"


def options(name: str) -> dict[str, Any]:
    """The parameters of a ready option."""
    values: dict[str, Any] = yaml.safe_load((ROOT / "conf" / "method" / f"{name}.yaml").read_text())
    values.pop("defaults")
    return values


def read(tmp_path: Path, text: str, option: str = "published", **changes: Any) -> pd.DataFrame:
    path = tmp_path / "labels.csv"
    path.write_text(text, encoding="utf-8")
    values = options(option) | {"path": str(path)} | changes
    return method.build(**values).describe(Job()).descriptions


def test_clip_dissects_format(tmp_path: Path) -> None:
    table = read(tmp_path, CLIP_DISSECT, "published_clip_dissect")
    assert list(table.columns) == ["layer", "unit", "description", "similarity"]
    assert list(table["layer"]) == ["fc", "fc", "conv1"]
    assert list(table["unit"]) == [0, 1, 0]
    assert list(table["description"]) == ["a dog", "nan", "red"]  # a word, not a missing value
    assert table["similarity"].isna().tolist() == [True, False, False]
    chosen = read(tmp_path, CLIP_DISSECT, "published_clip_dissect", layers=["conv1"])
    assert list(chosen["description"]) == ["red"]


def test_milans_format(tmp_path: Path) -> None:
    table = read(tmp_path, MILAN, "published_milan")
    assert list(table["description"]) == ["Dogs, cats", "null"]
    assert set(table["layer"]) == {"fc"}
    assert table["similarity"].isna().all()
    unsorted = read(tmp_path, MILAN, "published_milan", sort=False)
    assert list(unsorted["unit"]) == [1, 0]


def test_network_dissections_format(tmp_path: Path) -> None:
    table = read(tmp_path, NETDISSECT, "published_netdissect")
    assert list(table["description"]) == ["red-c", "coast-s"]
    assert list(table["unit"]) == [0, 1]
    assert list(table["similarity"]) == [0.25, 0.5]
    assert list(table["category"]) == ["color", "scene"]  # other columns come along
    stripped = read(tmp_path, NETDISSECT, "published_netdissect", strip=["-s", "-c"])
    assert list(stripped["description"]) == ["red", "coast"]


def test_runs_of_ours_can_be_read_back(tmp_path: Path) -> None:
    own = (
        "layer,unit,description,similarity,description_2,similarity_2,margin,unit_flags\n"
        "fc,0,cat,2,dog,1,1,\nfc,1,,,,,,dead\n"
    )
    table = read(tmp_path, own, "published_clip_dissect")
    assert list(table["description_2"]) == ["dog", ""]
    assert table["similarity_2"].tolist()[0] == 1.0
    assert list(table["unit_flags"]) == [(), ("dead",)]


def test_the_run_says_what_was_read(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(MILAN)
    first = method.build(**options("published_milan") | {"path": str(path)}).describe(Job())
    assert first.run["method"]["name"] == "published"
    assert len(first.top_images) == 0
    path.write_text(MILAN + "fc,2,x\n")
    second = method.build(**options("published_milan") | {"path": str(path)}).describe(Job())
    assert first.run["digests"] != second.run["digests"]


@pytest.mark.parametrize(
    ("text", "changes", "says"),
    [
        (MILAN, {"description_column": "label"}, "method.description_column.*'label'"),
        (MILAN, {"similarity_column": "score"}, "method.similarity_column"),
        (MILAN, {"layers": ["fx"]}, r"layer \(method.layers\).*Did you mean fc"),
        (MILAN, {"first_unit": 1}, r"has a unit 0.*first_unit"),
        (MILAN, {"first_unit": 2}, "it can be 0 or 1"),
        (MILAN, {"layer_column": None, "layers": None}, "name it"),
        (MILAN + "fc,1,again\n", {}, "layer fc, unit 1 more than once"),
        (MILAN + "fc,one,x\n", {}, "row 4: unit is 'one', not a number"),
        (MILAN + "fc,1.5,x\n", {}, "row 4: unit is '1.5', not a unit"),
        (MILAN + "fc,,x\n", {}, "row 4: unit is ''"),
        (NETDISSECT.replace("0.25", "low"), options("published_netdissect"), "score is 'low'"),
        ("layer,unit,description\n", {}, "no rows"),
        ("", {}, "not a CSV file"),
        ("a,b\n1,2,3,4\n1\n1,2,3,4,5,6\n", {}, "not a CSV file"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, changes: dict[str, Any], says: str) -> None:
    changes = {k: v for k, v in changes.items() if k not in ("path", "name")}
    with pytest.raises(DissectError, match=says):
        read(tmp_path, text, **changes)


def test_no_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(MissingResource, match=r"method\.path"):
        method.build("published", path=str(tmp_path / "none.csv")).describe(Job())
    (tmp_path / "x.csv").write_bytes(b"layer,unit,description\nfc,0,gr\xfcn\n")
    with pytest.raises(DissectError, match="UTF-8"):
        method.build("published", path=str(tmp_path / "x.csv")).describe(Job())
    with pytest.raises(DissectError, match="Did you mean published"):
        method.build("publishd")


def test_methods_say_what_they_lack() -> None:
    with pytest.raises(DissectError, match="clip_dissect needs: target, probe, concepts, encoder"):
        method.build("clip_dissect").describe(Job())


@pytest.mark.parametrize(
    ("option", "file", "units"),
    [
        ("published_clip_dissect", "clip_dissect/resnet50_imagenet_broden.csv", 3904),
        ("published_milan", "milan/m_base_resnet50_imagenet.csv", 1000),
        ("published_netdissect", "netdissect/resnet50_imagenet_fc.csv", 1000),
        ("published_netdissect", "netdissect/resnet18_places365_fc.csv", 365),
    ],
)
def test_the_published_files(shared: Path, option: str, file: str, units: int) -> None:
    values = options(option) | {"path": str(shared / "data" / "published" / file)}
    table = method.build(**values).describe(Job()).descriptions
    assert len(table) == units
    assert (table["description"] != "").all()
    assert (table.groupby("layer", sort=False)["unit"].min() == 0).all()
