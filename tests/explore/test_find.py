"""Units found by a text or an image."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from PIL import Image
from tiny import COLOURS, ColourEncoder, ColourNet, preprocess, write_colours
from torch.nn import functional as F

import clipdissect
from clipdissect import Result, Settings
from clipdissect import probe as probes
from clipdissect.app.commands import find as command
from clipdissect.errors import DissectError, MissingResource
from clipdissect.explore.find import Query, find
from clipdissect.results.tables import ResultTables
from clipdissect.results.vectors import FILE, UnitVectors, quantised, read_vectors
from clipdissect.targets import Target


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("colours")
    write_colours(folder)
    return folder


@pytest.fixture(scope="module")
def result(images: Path) -> Result:
    """Units 0, 1 and 2 of `head` answer to red, green and blue; unit 3 is dead."""
    return clipdissect.dissect(
        Target("tiny", ColourNet().eval(), preprocess(), ("head",)),
        probe=probes.build("folder", root=str(images)),
        concepts=list(COLOURS),
        encoder=ColourEncoder(),
        similarity={"name": "soft_wpmi", "top_k": 4},
        settings=Settings(device="cpu", workers=0),
        store=None,
        images=4,
    )


@pytest.fixture(scope="module")
def saved(result: Result, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return result.save(tmp_path_factory.mktemp("saved"))


def tables(layers: dict[str, list[list[float]]], **options: Any) -> ResultTables:
    vectors = UnitVectors({k: torch.tensor(v) for k, v in layers.items()}, "e", "t", "i", **options)
    keys = [(layer, unit) for layer, rows in layers.items() for unit in range(len(rows))]
    table = pd.DataFrame(keys, columns=["layer", "unit"]).assign(description="x")
    return ResultTables(table, table.iloc[:0], vectors=vectors)


SMALL = {"a": [[1.0, 0, 0], [0, 1, 0], [0, 0, 0]], "b": [[0.6, 0.8, 0]]}
NULL = torch.tensor([[1.0, 0, 0], [0, 2, 0], [0, 0, 1], [0.8, 0.6, 0]])


def test_scores_and_shares_of_random_queries() -> None:
    query = Query("q", torch.tensor([5.0, 0, 0]), NULL, "texts")
    table = find(tables(SMALL), [query]).table
    assert table[["layer", "unit"]].to_numpy().tolist() == [["a", 0], ["b", 0], ["a", 1]]
    assert table["score"].tolist() == pytest.approx([1, 0.6, 0])
    # With a/0 one random query has a cosine of 1, two with any unit; their count adds the query.
    assert table["p_value"].tolist() == pytest.approx([2 / 5, 4 / 5, 1])
    assert table["p_adjusted"].tolist() == pytest.approx([3 / 5, 4 / 5, 1])


def test_shares_equal_a_loop_over_random_queries_and_units() -> None:
    generator = torch.Generator().manual_seed(0)
    units = F.normalize(torch.randn(6, 8, generator=generator), dim=1)
    null, vector = (torch.randn(n, 8, generator=generator) for n in (20, 1))
    table = find(tables({"a": units.tolist()}), [Query("q", vector[0], null, "texts")], top=6).table
    cosine = torch.nn.functional.cosine_similarity
    for row in table.itertuples():
        own = sum(float(cosine(n, units[row.unit], dim=0)) >= row.score for n in null)
        anywhere = sum(max(float(cosine(n, u, dim=0)) for u in units) >= row.score for n in null)
        assert row.score == pytest.approx(float(cosine(vector[0], units[row.unit], dim=0)))
        assert (row.p_value, row.p_adjusted) == pytest.approx(((1 + own) / 21, (1 + anywhere) / 21))


def test_only_the_chosen_layers_are_searched_and_count() -> None:
    query = Query("q", torch.tensor([0.6, 0.8, 0]), NULL, "texts")
    table = find(tables(SMALL), [query], layers=["a"], top=1).table
    assert table[["layer", "unit"]].to_numpy().tolist() == [["a", 1]]
    with pytest.raises(DissectError, match=r"unknown layer 'c'.*a, b"):
        find(tables(SMALL), [query], layers=["c"])
    with pytest.raises(DissectError, match="top must be a whole number from 1; got 0"):
        find(tables(SMALL), [query], top=0)


def test_a_note_where_no_unit_answers() -> None:
    null = torch.eye(3).repeat(20, 1)
    far = Query("far", torch.tensor([0, 0, 1.0]), null, "texts")
    near = Query("near", torch.tensor([1.0, 1e-3, 0]), null[2::3].repeat(3, 1), "texts")
    found = find(tables(SMALL), [far, near])
    assert found.notes == (
        "no unit answers 'far': of 60 random texts, 100 % come as close to some unit; the closest "
        "units are shown",
    )
    few = find(tables(SMALL), [Query("far", far.vector, null[:18], "texts")]).notes
    assert few[0].startswith("whether any unit answers 'far' is unknown: the run has only 18 texts")


def test_a_text_finds_the_unit_of_its_colour(result: Result) -> None:
    table = result.find(["red", "blue", "red"], top=1)  # the same text once
    assert table[["query", "unit"]].to_numpy().tolist() == [["red", 0], ["blue", 2]]
    # (1, 0, 0) - (1, 1, 1) / sqrt(3), which is what the encoder makes of the empty text
    assert table["score"].tolist() == pytest.approx([0.4597, 0.4597], abs=1e-4)
    assert table["description"].tolist() == ["red", "blue"]
    assert len(table.attrs["notes"]) == 2  # six concepts are too few to tell


def test_dead_units_are_never_found(result: Result) -> None:
    assert sorted(result.find("yellow")["unit"]) == [0, 1, 2]


def test_images_find_units(result: Result, images: Path) -> None:
    green = images / "green0.png"
    table = result.find(image=green, top=1)
    assert table["unit"].tolist() == [1]
    assert table["score"].tolist() == pytest.approx([1], abs=1e-4)
    assert table["p_value"].tolist() == pytest.approx([5 / 25])  # 4 of 24 images are as green
    mixed = result.find(image=[green, Image.new("RGB", (9, 9), (255, 0, 0))])
    assert mixed["score"].tolist() == pytest.approx([2**-0.5, 2**-0.5, 0], abs=1e-4)


def test_a_saved_run_finds_the_same(result: Result, saved: Path) -> None:
    for query in ({"text": "red"}, {"image": Image.new("RGB", (8, 8), (0, 0, 255))}):
        expected, found = (
            result.find(**query),
            clipdissect.load(saved).find(**query, encoder=ColourEncoder()),
        )
        pd.testing.assert_frame_equal(found, expected, atol=1e-2, check_dtype=False)


@pytest.mark.parametrize("query", [{"text": "red"}, {"image": Image.new("RGB", (8, 8))}])
def test_another_encoder_is_refused(saved: Path, query: dict[str, Any]) -> None:
    loaded = clipdissect.load(saved)
    with pytest.raises(DissectError, match="use the run's encoder"):
        loaded.find(**query, encoder=ColourEncoder(version="2"))
    with pytest.raises(DissectError, match="find needs the run's encoder, colours"):
        loaded.find(**query)


def test_mistakes_are_explained(result: Result, tmp_path: Path) -> None:
    for arguments in ({}, {"text": "red", "image": Image.new("RGB", (8, 8))}):
        with pytest.raises(DissectError, match="either a text or an image"):
            result.find(**arguments)
    with pytest.raises(DissectError, match="must not be blank"):
        result.find(" ")
    with pytest.raises(MissingResource, match="the image to find"):
        result.find(image=tmp_path / "none.png")
    (tmp_path / "broken.png").write_text("no image")
    with pytest.raises(DissectError, match=r"can't read the image .*broken\.png"):
        result.find(image=tmp_path / "broken.png")


def test_runs_without_vectors_say_why(result: Result, saved: Path) -> None:
    without = Result(result.descriptions, result.top_images, result.run)
    with pytest.raises(DissectError, match="of an earlier version"):
        without.find("red", encoder=ColourEncoder())
    with pytest.raises(DissectError, match="a file of labels, or a run that isn't complete"):
        Result(result.descriptions, result.top_images, {}).find("red")
    masks = Result(result.descriptions, result.top_images, {"method": {"name": "milan"}})
    with pytest.raises(DissectError, match="milan uses no encoder"):
        masks.find("red")


def test_files_of_vectors(result: Result, tmp_path: Path) -> None:
    path = tmp_path / FILE
    assert read_vectors(path) is None
    assert result.vectors
    result.vectors.write(path)
    read = read_vectors(path)
    assert read
    assert torch.allclose(read.layers["head"], result.vectors.layers["head"], atol=4e-3)
    assert not read.layers["head"][3].any()
    assert (read.encoder, read.text_digest) == ("colours", "colour names 1")
    assert read.texts.names == tuple(COLOURS)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DissectError, match=r"vectors\.safetensors can't be read .*: run again"):
        read_vectors(path)


def test_rows_of_bytes() -> None:
    rows, scales = quantised(torch.tensor([[0.5, -1.27], [0, 0]]))
    assert rows.tolist() == [[50, -127], [0, 0]]
    assert scales[0] == pytest.approx(0.01)


def test_the_command(saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(command, "_encoder", lambda folder: ColourEncoder())
    monkeypatch.setattr(sys, "argv", ["find", str(saved), "green", "--top", "1"])
    command.main()
    printed = capsys.readouterr().out
    assert re.search(r"head/1 +green", printed)
    assert "note: whether any unit answers 'green' is unknown" in printed
    monkeypatch.setattr(sys, "argv", ["find", str(saved)])
    with pytest.raises(SystemExit):
        command.main()
    assert capsys.readouterr().err == "error: find needs either a text or an image\n"
