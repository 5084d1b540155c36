"""Results in notebooks and terminals, and what a run saved from Python contains."""

from __future__ import annotations

import html
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from tiny import COLOURS, ColourEncoder, ColourNet, preprocess, write_colours

import clipdissect
from clipdissect import Result, Settings, similarity
from clipdissect.errors import DissectError
from clipdissect.explore import result as result_module
from clipdissect.report import load as load_run
from clipdissect.report import overview
from clipdissect.results.tables import ResultTables
from clipdissect.targets import Target


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_colours(folder)
    (folder / "red0.png").rename(folder / "<b>red&0.png")
    return folder


@pytest.fixture(scope="module")
def result(images: Path) -> Result:
    target = Target("colours", ColourNet(), preprocess(), ("conv", "head"), "head", (*COLOURS,)[:4])
    return clipdissect.dissect(
        target,
        probe=images,
        concepts=[*COLOURS, "red <i>"],
        encoder=ColourEncoder(),
        settings=Settings(device="cpu", workers=0),
        similarity=similarity.build("soft_wpmi", top_k=4),
        store=None,
        images=6,
    )


@pytest.fixture(scope="module")
def saved(result: Result, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPDISSECT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield result.save(tmp_path_factory.mktemp("run") / "saved")


def test_a_result_is_one_line(result: Result, images: Path) -> None:
    assert repr(result) == f"<Result: 8 units of 2 layers; colours on {images.name}>"


def test_a_cell_shows_the_best_units_with_pictures(result: Result) -> None:
    text = result._repr_html_()
    assert text.count('class="unit"') == 4  # two per layer
    assert text.count('src="data:image/') == 20  # five per unit
    assert "conv/3" not in text  # dead
    assert "<script" not in text


def test_texts_are_escaped(result: Result) -> None:
    text = result.show("conv/0")._repr_html_()
    assert "red &lt;i&gt;" in text and "<i>" not in text.replace('<i style="width:', "")
    assert "&lt;b&gt;red&amp;0.png" in text and "<b>red" not in text


def test_a_unit_is_shown_as_text_and_as_html(result: Result) -> None:
    shown = result.show("conv/1", images=3)
    lines = repr(shown).split("\n")
    score = result.descriptions["similarity"][1]
    assert lines[:2] == ["conv/1  green", f"  green  {score:.3f}"]
    assert lines[-3:] == [
        "  1. green0.png  1.000",
        "  2. green1.png  0.902",
        "  3. green2.png  0.800",
    ]
    assert "  activation: -2 " in repr(shown)
    assert shown._repr_html_().count('src="data:image/') == 3
    assert "<svg" in shown._repr_html_()


def test_a_class_unit_says_whether_it_is_right(result: Result) -> None:
    assert "  class: green (right)" in repr(result.show("head/1")).split("\n")


def test_top_images_of_a_unit(result: Result) -> None:
    assert repr(result.images("conv/2", most=2)) == "  1. blue0.png  1.000\n  2. blue1.png  0.902"
    assert result.top_images["rank"].max() == 6  # the table of all


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("conv", "'conv' isn't a unit: write LAYER/NUMBER, such as conv/0"),
        ("cnv/0", "unknown layer 'cnv'. Did you mean conv? Valid: conv, head"),
        ("conv/4", "layer conv has no unit 4; its units are 0 to 3"),
    ],
)
def test_wrong_addresses(result: Result, address: str, message: str) -> None:
    with pytest.raises(DissectError) as error:
        result.show(address)
    assert str(error.value) == message


def test_units_by_a_part_of_their_texts(result: Result) -> None:
    found = result.units("REEN")
    assert list(found.columns) == [
        *("layer", "unit", "description", "similarity", "match", "match_rank")
    ]
    best = found[found["match_rank"] == 1]
    assert sorted(zip(best["layer"], best["unit"], strict=True)) == [("conv", 1), ("head", 1)]
    assert set(found["match"]) == {"green"}
    runners_up = result.units("yellow")  # the best of no unit
    assert {0, 1} <= set(runners_up["unit"])
    assert (runners_up["match_rank"] > 1).all() and "yellow" not in set(runners_up["description"])
    assert len(result.units("violet")) == 0
    assert len(result.units()) == 6  # the dead ones have no text
    assert len(result.units("<i>")) > 0  # no pattern


def test_scores_are_plotted_per_layer(result: Result) -> None:
    figure = result.plot()
    assert [panel.get_title(loc="left") for panel in figure.axes] == [
        "conv: 3 units",
        "head: 3 units",
    ]
    heights = [sum(patch.get_height() for patch in panel.containers[0]) for panel in figure.axes]
    assert heights == [3, 3]
    assert figure._repr_png_()[:4] == b"\x89PNG"  # type: ignore[attr-defined]


def test_no_scores_no_plot() -> None:
    table = pd.DataFrame({"layer": ["a"], "unit": [0], "description": ["x"], "similarity": np.nan})
    with pytest.raises(DissectError, match="have no scores"):
        Result.of(ResultTables(table, pd.DataFrame())).plot()


def test_saved_runs_have_a_report_with_pictures(saved: Path) -> None:
    run = load_run(saved)
    assert overview.why_no_pictures(run) == ""
    assert set(run.top_images_of("conv")) <= {0, 1, 2, 3}
    assert len(list((saved / "report" / "thumbnails").iterdir())) == len(run.report_data.pictures)
    assert "outlines" in run.report_data.layers["conv"]
    assert "there are no pictures" not in (saved / "report" / "index.html").read_text()


def test_runs_are_read_back(result: Result, saved: Path) -> None:
    again = clipdissect.load(saved)
    assert again.folder == saved and again.job is None and again.problem == ""
    assert repr(again) == repr(result)
    for layer, histograms in result.histograms.items():
        assert again.histograms[layer].counts.tolist() == histograms.counts.tolist()
    assert again.thresholds == {}  # those of the regions aren't the method's
    assert again._repr_html_().count('src="data:image/') == 20
    assert repr(again.show("conv/0")) == repr(result.show("conv/0"))
    assert again.units("green")["unit"].tolist() == result.units("green")["unit"].tolist()


def test_a_loaded_run_is_copied_with_its_report(saved: Path, tmp_path: Path) -> None:
    copy = clipdissect.load(saved).save(tmp_path / "copy")
    assert clipdissect.load(copy)._repr_html_().count('src="data:image/') == 20
    same = clipdissect.load(copy)
    assert same.save(copy) == copy
    assert clipdissect.load(copy)._repr_html_().count('src="data:image/') == 20


def test_without_a_report_the_reason_is_given(result: Result, tmp_path: Path) -> None:
    result.save(tmp_path, report=False)
    text = html.unescape(clipdissect.load(tmp_path)._repr_html_())
    assert "saved from Python without a report" in text
    assert "src=" not in text and "green0.png" in text


def test_saving_again_without_a_report_removes_the_old_one(result: Result, tmp_path: Path) -> None:
    result.save(tmp_path)
    result.save(tmp_path, report=False)
    assert not (tmp_path / "report" / "index.html").exists()
    assert load_run(tmp_path).report_data.facts == {}


def test_incomplete_and_old_runs(tmp_path: Path) -> None:
    (tmp_path / "descriptions.csv").write_text(
        "layer,unit,description,similarity,margin,flags\nfc,0,cat,0.5,0.1,\nfc,1,,,,dead\n"
    )
    (tmp_path / "failure.json").write_text(json.dumps({"message": "killed\nmore"}))
    old = clipdissect.load(tmp_path)
    assert repr(old) == "<Result: 2 units of 1 layer; the run isn't complete: killed>"
    assert old.descriptions["unit_flags"].tolist() == [(), ("dead",)]
    assert repr(old.show("fc/1")).startswith("fc/1  no description  [dead]")
    assert old._repr_html_().count('class="unit"') == 1
    assert "killed" in old._repr_html_()


def test_a_file_of_labels_is_read(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("layer,unit,description\nfc,0,cat\nfc,1,dog\n")
    labels = clipdissect.load(file)
    assert labels.units("dog")["unit"].tolist() == [1]
    with pytest.raises(DissectError, match="file of labels"):
        labels.report()


def test_the_report_opens_in_the_browser(result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(result_module.webbrowser, "open", opened.append)
    page = result.report()
    assert isinstance(page, Path)
    assert opened == [page.as_uri()]
    assert page.is_file()


def test_the_report_opens_in_a_cell(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shell = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))  # type: ignore[arg-type]
    before = (saved / "report" / "index.html").read_text()
    text = clipdissect.load(saved).report(height=500)._repr_html_()  # type: ignore[union-attr]
    assert text.startswith("<iframe") and "height: 500px" in text
    page = html.unescape(text.split('srcdoc="')[1].split('" style=')[0])
    assert page.startswith("<!doctype html>") and "data:image/" in page
    assert (saved / "report" / "index.html").read_text() == before


def test_inputs_are_one_line_each(result: Result) -> None:
    job = result.job
    assert job is not None and job.probe is not None and job.concepts is not None
    assert repr(job.target) == "<Target colours: layers conv, head>"
    assert repr(job.probe) == f"<Probe {job.probe.name}: 24 images>"
    assert repr(job.concepts) == f"<Concepts {job.concepts.name}: 7 texts>"
    for part in (job, job.encoder, job.similarity, job.settings, job.store, job.team):
        assert "\n" not in repr(part)


def test_public_names_are_completed() -> None:
    names = dir(clipdissect)
    assert {"dissect", "load", "Result", "probe", "sae"} <= set(names)
    assert "Any" not in names
    for name in names:
        assert getattr(clipdissect, name) is not None
