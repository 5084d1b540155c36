"""Reports: regions, pictures, files and pages."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from dense import write_dense
from one_outline import outline
from PIL import Image
from test_dissect import SETTINGS, dissect
from tiny import COLOURS, ColourNet, preprocess, write_colours
from torch import nn
from torchvision import transforms

from clipdissect import method, report
from clipdissect import probe as probes
from clipdissect.app import cli
from clipdissect.capture.activations import TopKActivations
from clipdissect.errors import DissectError, MissingResource
from clipdissect.masks import regions, without_crop
from clipdissect.method import Job
from clipdissect.probe.thumbnails import NetworkInputs
from clipdissect.report import ReportSettings
from clipdissect.report.overview import overview, shorten_paths
from clipdissect.report.report_data import compact_json, read_report_data
from clipdissect.report.run import unit_of
from clipdissect.results.histograms import histograms
from clipdissect.results.run_files import write_json
from clipdissect.targets import Target
from clipdissect.targets.preprocess import image_transform

EVIL = "</script><script>alert(1)</script>"


class ColourSentences:
    """Equal texts are equal; all others are at right angles."""

    name = digest = "letters"

    def embed(self, texts: list[str], device: str = "cpu") -> torch.Tensor:
        return torch.eye(64)[[sorted(COLOURS).index(t) if t in COLOURS else 63 for t in texts]]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_colours(tmp_path / "images")
    return tmp_path / "images"


def run_of(folder: Path, images: Path, changes: Any = None, **collected: Any) -> Path:
    """A small run with its report's files."""
    target = Target(
        "tiny",
        ColourNet(),
        preprocess(),
        ("relu", "head"),
        "head",
        ("red", "green", "yellow", "white"),
    )
    probe = probes.build("folder", root=str(images))
    result = dissect(probe, model=target, layers=None, preprocess=None, **(changes or {}))
    result.save(folder)
    arguments = {"truth": {"head": target.class_names}, "settings": SETTINGS, **collected}
    report.collect(folder, result, target, probe, **arguments)
    return folder


def data_of(folder: Path, file: str = "units.js") -> Any:
    text = (folder / "report" / "data" / file).read_text()
    start = text.index("{")
    return json.loads(text[start : text.rindex(")")])


def test_histograms_count_every_image_in_the_units_own_range() -> None:
    q = torch.tensor([[0.0, 5.0], [1.0, 5.0], [2.0, 5.0], [4.0, 5.0]])
    found = histograms(q, bins=4)
    assert found.counts.tolist() == [[1, 1, 1, 1], [0, 0, 0, 4]]
    assert (found.low.tolist(), found.high.tolist()) == ([0.0, 5.0], [4.0, 5.0])
    kept = histograms(TopKActivations.of(q, torch.arange(4), 2), bins=4)
    assert (kept.images, kept.whole) == (2, False)
    wide = histograms(torch.rand(50, 600))
    assert (wide.counts.sum(1) == 50).all()


def test_outline_of_one_bright_position() -> None:
    values = np.zeros((4, 4))
    values[1, 2] = 1.0
    # Half-way to the neighbours: a diamond around (62.5, 37.5), in whole numbers.
    path = outline(values, 0.5)
    corners = {tuple(map(int, p.split())) for p in path.strip("MZ").split("L")}
    assert corners == {(62, 25), (75, 38), (62, 50), (50, 38)}
    assert outline(values, 1.0) == ""
    whole = outline(np.ones((3, 3)), 0.0)
    assert {tuple(map(int, p.split())) for p in whole.strip("MZ").split("L")} == {
        (0, 0),
        (100, 0),
        (100, 100),
        (0, 100),
    }


def test_outline_has_holes() -> None:
    values = np.ones((5, 5))
    values[2, 2] = -1.0
    assert outline(values, 0.0).count("M") == 2


def test_thresholds_are_the_quantile_over_the_sampled_positions() -> None:
    torch.manual_seed(0)
    maps = torch.randn(40, 3, 5, 5)
    is_sampled = torch.arange(40) % 4 != 0
    gathered = regions.RegionAccumulator(torch.tensor([[0, 7], [7, -1], [3, 1]]), 30)
    for start in range(0, 40, 16):
        batch = slice(start, start + 16)
        gathered.add(torch.arange(40)[batch], maps[batch], is_sampled[batch])
    values = maps[is_sampled].transpose(0, 1).flatten(1)
    slow = values.sort(1, descending=True).values[:, int(0.005 * values.shape[1])]
    assert torch.equal(gathered.threshold(), slow)
    assert ((values > gathered.threshold()[:, None]).float().mean(1) <= 0.005).all()
    assert gathered.maps is not None
    assert torch.equal(gathered.maps[0, 1], maps[7, 0])
    assert torch.equal(gathered.maps[2, 0], maps[3, 2])
    assert gathered.maps[1, 1].isnan().all()


def test_plan_takes_random_images_and_the_best_ranks_first() -> None:
    images = [str(i) for i in range(1000)]
    table = pd.DataFrame({"rank": [1, 1, 1, 2], "image": ["900", "901", "901", "902"]})
    numbers, drawn = regions.choose_images(table, images, 4)
    assert len(drawn) == 2 and len(numbers) == 4
    assert set(numbers) == {*drawn, 900, 901}
    assert regions.choose_images(table, images, 4) == (numbers, drawn)


def test_thumbnails_show_what_the_network_saw(tmp_path: Path) -> None:
    picture = Image.new("RGB", (40, 20), (255, 0, 0))
    picture.paste((0, 0, 200), (10, 0, 30, 20))
    picture.save(tmp_path / "a.png")
    blue_first = transforms.Compose(
        [
            transforms.Resize(20),
            transforms.CenterCrop(20),
            transforms.ToTensor(),
            transforms.Normalize([0.4, 0.5, 0.6], [0.2, 0.3, 0.1]),
            lambda x: x[[2, 1, 0]],
        ]
    )
    seen = NetworkInputs(probes.build("folder", root=str(tmp_path)), blue_first, 16)
    made = seen.made(picture)
    assert made.size == (16, 16)
    assert made.getpixel((8, 8)) == pytest.approx((0, 0, 200), abs=2)
    to_grey = transforms.Compose([transforms.Grayscale(), transforms.ToTensor()])
    grey = NetworkInputs(seen.probe, to_grey, 8)
    assert grey.made(picture).size == (8, 8)


def test_a_run_leaves_what_its_page_needs(tmp_path: Path, images: Path) -> None:
    folder = run_of(tmp_path / "run", images)
    page = report.build(folder)
    assert page == folder / "report" / "index.html"
    thumbnails = list((folder / "report" / "thumbnails").iterdir())
    table = pd.read_csv(folder / "top_images.csv")
    assert len(thumbnails) == table[table["rank"] <= 5]["image"].nunique()
    start = data_of(folder)
    relu, head = start["layers"]
    assert [start["texts"][own[0]] for own in head["sides"][0]["d"][:3]] == ["red", "green", "blue"]
    assert head["sides"][0]["d"][3] == [] and head["sides"][0]["f"][3] == 1
    assert head["r"] == [1, 1, 0, 0] and "r" not in relu
    null = head["sides"][0]["n"]
    assert null[3] is None and all(own is not None for own in null[:3])
    unit = data_of(folder, "0-0-0.js")["units"][0]
    assert len(unit["i"]) == 5 and sum(unit["h"]) == 24
    # Constant maps: above the threshold everywhere or nowhere, never a part.
    assert {p for p in unit["p"] if p} <= {outline(np.ones((8, 8)), 0.0)}
    assert "p" not in data_of(folder, "0-1-0.js")["units"][0]  # a vector has no positions
    found = overview(report.load(folder))
    assert [(layer.dead, layer.right) for layer in found] == [(1, None), (1, 2)]
    assert found[1].coverage == 3 / 6
    assert found[1].null_95 is not None and 0 <= (found[1].above_null or 0) <= 1
    assert "above chance" in (folder / "report" / "index.html").read_text()


@pytest.mark.parametrize("view", ["whole", "target"])
def test_pictures_and_regions_are_of_the_view_that_the_method_used(
    tmp_path: Path, view: str
) -> None:
    write_dense(tmp_path / "set")
    probe = probes.build("broden", root=str(tmp_path / "set"))
    torch.manual_seed(0)
    target = Target("crop", nn.Sequential(nn.Conv2d(3, 2, 1)), image_transform(8), ("0",))
    job = Job(target=target, probe=probe, images=2, settings=SETTINGS)
    result = method.build("network_dissection", view=view, quantile=0.1).describe(job)
    result.save(tmp_path / "run")
    report.collect(tmp_path / "run", result, target, probe, SETTINGS)
    material = read_report_data(tmp_path / "run")
    transform = without_crop(target.preprocess)[0] if view == "whole" else target.preprocess
    seen = NetworkInputs(probe, transform, ReportSettings().thumbnail)
    for name, (file, _) in material.pictures.items():
        made = seen.file(name)
        assert made is not None and file is not None
        shown = tmp_path / "run" / "report" / "thumbnails" / file
        assert shown.read_bytes() == made.read_bytes()
    layer = material.layers["0"]
    assert layer["thresholds"] == pytest.approx(result.descriptions["threshold"], rel=1e-3)
    for row in result.top_images.itertuples():
        picture = Image.open(tmp_path / "set" / "images" / row.image)
        with torch.no_grad():
            maps = target.model(seen.preprocess(picture)[None])[0, row.unit].double().numpy()
        threshold = float(result.thresholds["0"][row.unit])
        assert layer["outlines"][row.unit][row.rank - 1] == outline(maps, threshold) != ""
    page = report.build(tmp_path / "run").read_text()
    assert "(column threshold)" in page and "99.5 % quantile" not in page


def test_second_report_runs_no_network(tmp_path: Path, images: Path, own_cache: Path) -> None:
    from clipdissect.store import Store

    store = Store(own_cache / "store")
    first = run_of(tmp_path / "one", images, store=store)
    model = ColourNet()
    target = Target("tiny", model, preprocess(), ("relu", "head"))
    probe = probes.build("folder", root=str(images))
    result = dissect(probe, model=target, layers=None, preprocess=None)
    calls = model.calls
    result.save(tmp_path / "two")
    report.collect(tmp_path / "two", result, target, probe, SETTINGS, store)
    assert model.calls == calls
    assert read_report_data(tmp_path / "two").layers == read_report_data(first).layers


def test_texts_and_names_cannot_become_code(tmp_path: Path, images: Path) -> None:
    (images / "red0.png").rename(images / "<script>x<.png")
    texts = [EVIL, "green", "blue"]
    folder = run_of(tmp_path / "run", images, {"concepts": texts, "top": 3})
    for single in (False, True):
        page = report.build(folder, single_file=single).read_text()
        assert EVIL not in page and "<script>x<" not in page
    report.build(folder)
    for path in (folder / "report" / "data").iterdir():
        assert "<" not in path.read_text()
    assert EVIL in data_of(folder)["texts"]
    assert json.loads(compact_json({"a": EVIL})) == {"a": EVIL}


def test_no_absolute_path_in_a_report(tmp_path: Path, images: Path) -> None:
    folder = run_of(tmp_path / "run", images)
    facts = json.loads((folder / "run.json").read_text())
    facts["notes"].append(f"weights from {tmp_path}/weights.pth, C:\\Users\\me\\w.pth, ~/x/y.bin")
    (folder / "run.json").write_text(json.dumps(facts))
    report.build(folder)
    written = [p for p in (folder / "report").rglob("*") if p.suffix in (".html", ".js", ".json")]
    assert all(str(tmp_path) not in p.read_text() for p in written)
    page = (folder / "report" / "index.html").read_text()
    assert "weights from …/weights.pth, …/w.pth, …/y.bin" in page
    linked = run_of(tmp_path / "own", images, look=ReportSettings(paths="absolute"))
    report.build(linked)
    assert str(images / "red0.png") in (linked / "report" / "data" / "0-0-0.js").read_text()


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("/home/me/a.pth is old", "…/a.pth is old"),
        ("see https://a.org/b/c", "see https://a.org/b/c"),
        ("a/b/c.png", "a/b/c.png"),
        ("1/2", "1/2"),
        ("'/data/x y/z'", "'…/x y/z'"),
        ("/home/john doe/images/a b.csv", "…/a b.csv"),
        ("file:///home/me/x/y.csv", "…/y.csv"),
        ("file:///C:/Users/john doe/y.csv", "…/y.csv"),
        (r"\\server\me\x", "…/x"),
        ("//server/me/x", "…/x"),
        (r"C:\Users\john doe\x.csv", "…/x.csv"),
        ("D:/x/y.csv", "…/y.csv"),
        (r"'C:\\Users\\me\\x.csv'", "'…/x.csv'"),
        ("~me/x/y.csv", "…/y.csv"),
        ("in:/a/b.csv", "in:…/b.csv"),
        ("s3://bucket/a/b.csv", "s3://bucket/a/b.csv"),
        ("/a//b.csv", "…/b.csv"),
    ],
)
def test_absolute_paths_are_cut(text: str, cut: str) -> None:
    assert shorten_paths(text) == cut


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("of /mnt/big disk/x y/a b.csv", "of …/x y/a b.csv"),
        ("/mnt/big disk", "…"),
        ("file:///mnt/big disk/a b.csv", "…/a b.csv"),
        ("/mnt/big disks/a", "…/big disks/a"),
        (r"D:\my data\a b.csv", "…/a b.csv"),
        (r"'D:\\my data\\a b.csv'", "'…/a b.csv'"),
        ("D:/my data/a b.csv", "…/a b.csv"),
        ("x/mnt/big disk/a", "x/mnt/big disk/a"),
        ("C:/a, ~ 5", "C:/a, ~ 5"),
    ],
)
def test_known_folders_are_cut_literally(text: str, cut: str) -> None:
    assert shorten_paths(text, ["/mnt/big disk", "D:\\my data", "/", "C:\\", "~"]) == cut


def test_folders_around_a_run_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a home", "a job", "some runs/run"):
        (tmp_path / name).mkdir(parents=True)
    folder = tmp_path / "some runs" / "run"
    labels_of(folder / "descriptions.csv", "fc,0,cat")
    monkeypatch.setenv("HOME", str(tmp_path / "a home"))
    monkeypatch.chdir(tmp_path / "a job")
    method = {"name": "published", "path": "/mnt/big disk/all labels.csv"}
    known = [tmp_path / "a home", tmp_path / "a job", tmp_path / "some runs", "/mnt/big disk"]
    notes = ["/a sentence/that is no path", *(f"see {place}/b c.txt" for place in known)]
    write_json(folder / "run.json", {"method": method, "notes": notes})
    page = report.build(folder).read_text()
    assert page.count("see …/b c.txt") == 4 and "published (path …/all labels.csv" in page
    assert "big disk" not in page and str(tmp_path) not in page


def test_interrupted_runs_can_be_looked_at(tmp_path: Path, images: Path) -> None:
    folder = run_of(tmp_path / "run", images)
    for name in ("run.json", "report/material/facts.json"):
        (folder / name).unlink()
    (folder / "failure.json").write_text(json.dumps({"message": "killed\nmore"}))
    page = report.build(folder).read_text()
    assert "the run isn&#39;t complete: killed" in page and "there are no pictures" in page
    (folder / "descriptions.csv").unlink()
    with pytest.raises(MissingResource, match=r"killed"):
        report.build(folder)


def test_single_file_is_capped_and_says_so(tmp_path: Path, images: Path) -> None:
    folder = run_of(tmp_path / "run", images)
    whole = report.build(folder, single_file=True).read_text()
    assert whole.count("data:image/") == len(list((folder / "report/thumbnails").iterdir()))
    assert 'src="assets' not in whole and "This single file holds" not in whole
    cut = report.build(folder, single_file=True, megabytes=0.0004).read_text()
    assert "This single file holds" in cut
    assert 0 < cut.count("data:image/") < whole.count("data:image/")


def test_labels_of_others_and_agreement(tmp_path: Path, images: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("layer,unit,description\nhead,0,red\nhead,1,blue\nhead,9,x\n")
    others = {"milan": report.read_labels("milan", str(labels))}
    folder = run_of(tmp_path / "run", images, others=others, sentences=ColourSentences())
    report.build(folder)
    start = data_of(folder)
    head = start["layers"][1]
    assert [start["texts"][n] if n >= 0 else "" for n in head["o"][0]] == ["red", "blue", "", ""]
    # red: class and label agree; green: the class does; blue: class yellow; dead: nothing.
    assert head["a"] == [1, 0.5, 0, None]
    again = report.read_labels("again", str(folder))
    report.set_others(folder, {"again": again})
    report.build(folder)
    assert data_of(folder)["others"] == ["again"] and "a" not in data_of(folder)["layers"][1]
    with pytest.raises(MissingResource, match=r"report\.against"):
        report.read_labels("milan", str(tmp_path / "nowhere.csv"))
    with pytest.raises(DissectError, match="describes units itself"):
        report.read_labels("it", {"name": "clip_dissect"})


def test_compare_puts_two_runs_side_by_side(tmp_path: Path, images: Path) -> None:
    first = run_of(tmp_path / "one", images)
    labels = tmp_path / "labels.csv"
    labels.write_text("layer,unit,description\nhead,0,red\nhead,1,cyan\nhead,2,sea\nfc,0,x\n")
    page = report.compare([first, labels], tmp_path / "out", sentences=ColourSentences())
    text = page.read_text()
    assert "<b>33.3 %</b> of 3 units" in text and "Only in A, and not compared: relu." in text
    start = json.loads((page.parent / "data/units.js").read_text()[len("dissect.start(") : -3])
    (head,) = start["layers"]
    assert (head["same"], head["near"], head["units"]) == ([1, 0, 0], [1, 0, 0], [0, 1, 2])
    assert start["slots"] == [5, 0] and not start["shared"]
    assert (page.parent / "thumbnails").is_dir()
    second = run_of(tmp_path / "two", images)
    report.compare([first, second], tmp_path / "both")
    both = json.loads((tmp_path / "both/data/units.js").read_text()[len("dissect.start(") : -3])
    assert both["shared"] and all(set(layer["same"]) == {1} for layer in both["layers"])
    alone = tmp_path / "fc.csv"
    alone.write_text("layer,unit,description\nfc,0,x\n")
    with pytest.raises(DissectError, match="no described unit in common"):
        report.compare([first, alone], tmp_path / "none")


def test_compare_takes_several_runs_and_multiruns(tmp_path: Path) -> None:
    multirun = tmp_path / "sweep"
    texts = (("cat", "dog"), ("cat", "cow"), ("cat", ""))
    for number, (first, second) in enumerate(texts):
        job = multirun / str(number)
        (job / ".hydra").mkdir(parents=True)
        (job / ".hydra" / "overrides.yaml").write_text(
            f"- images=5\n- similarity.a={number}\n- report.enabled=False\n"
        )
        labels_of(job / "descriptions.csv", f"fc,0,{first}", f"fc,1,{second}")
    (multirun / "failed" / ".hydra").mkdir(parents=True)
    (multirun / "failed" / ".hydra" / "overrides.yaml").write_text("- images=5\n")
    task = ["images=5", "similarity.a=0,1,2", "report.enabled=false"]  # Hydra's jobs have False
    listed = {"hydra": {"overrides": {"task": task}}}
    (multirun / "multirun.yaml").write_text(json.dumps(listed))
    compared = report.Comparison.of([multirun])
    assert compared.names == ["similarity.a=0", "similarity.a=1", "similarity.a=2"]
    assert (compared.units, compared.same) == (2, 1)
    assert report.undescribed_jobs(multirun) == [multirun / "failed"]
    assert report.undescribed_jobs(multirun / "0") == []
    assert [[same for same, _ in row] for row in compared.pairs()] == [
        [2, 1, 1],
        [1, 2, 1],
        [1, 1, 2],
    ]
    text = report.compare([multirun], tmp_path / "out").read_text()
    assert "<b>50.0 %</b> of 2 units have the same description in all 3 runs" in text
    with pytest.raises(DissectError, match="takes 2 to 12 runs; got 1"):
        report.compare([multirun / "0"], tmp_path / "none")
    with pytest.raises(DissectError, match="takes 2 to 12 runs; got 15"):
        report.compare([multirun] * 5, tmp_path / "none")


def test_runs_next_to_a_file_are_named_by_their_own_differences(tmp_path: Path) -> None:
    file = labels_of(tmp_path / "labels.csv", "fc,0,cat")
    for network in ("resnet18", "resnet50"):
        folder = tmp_path / f"of_{network}"
        folder.mkdir()
        labels_of(folder / "descriptions.csv", "fc,0,cat")
        facts = {"target": {"name": network}, "encoder": "conse"}
        (folder / "run.json").write_text(json.dumps(facts))
    compared = report.Comparison.of([tmp_path / "of_resnet18", tmp_path / "of_resnet50", file])
    assert compared.names == ["resnet18", "resnet50", "labels.csv"]


def labels_of(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(["layer,unit,description", *rows]) + "\n")
    return path


def test_a_page_takes_away_only_what_a_report_wrote(tmp_path: Path) -> None:
    one = labels_of(tmp_path / "one.csv", "fc,0,cat")
    many = labels_of(tmp_path / "many.csv", *(f"fc,{unit},cat" for unit in range(101)))
    out = tmp_path / "out"
    kept = [out / "data" / name for name in ("words/mine.txt", "2024-01-02.js", "units.json")]
    for path in kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    report.compare([many, many], out)
    assert (out / "data" / "0-0-1.js").is_file()
    report.compare([one, one], out)
    assert all(path.read_text() == "mine" for path in kept)
    assert not (out / "data" / "0-0-1.js").exists()
    for path in kept:
        path.unlink()
    (out / "data" / "words").rmdir()
    report.compare([one, one], out, single_file=True)
    assert not (out / "data").exists()


@pytest.mark.parametrize("single", [False, True])
def test_a_page_of_something_else_is_kept(tmp_path: Path, single: bool) -> None:
    labels = labels_of(tmp_path / "labels.csv", "fc,0,cat")
    index = tmp_path / "site" / "index.html"
    index.parent.mkdir()
    index.write_text("<p>made by clipdissect's friends")
    with pytest.raises(DissectError, match="isn't a report"):
        report.compare([labels, labels], index.parent, single_file=single)
    assert [path.name for path in index.parent.iterdir()] == ["index.html"]
    assert index.read_text().endswith("friends")
    with pytest.raises(DissectError, match="is a file"):
        report.compare([labels, labels], labels)


def test_units_that_are_not_compared_are_counted(tmp_path: Path) -> None:
    one = [*(f"fc,{unit},cat" for unit in range(10)), "conv,0,cat", "conv,1,"]
    other = [*(f"fc,{unit},cat" for unit in range(5, 15)), "conv,0,cat", "conv,1,", "conv,2,dog"]
    files = [labels_of(tmp_path / f"{i}.csv", *rows) for i, rows in enumerate([one, other])]
    page = report.compare(files, tmp_path / "out").read_text()
    # fc: 0 to 4 and 10 to 14; conv: 1, that neither describes, and 2.
    assert "<p>12 units that a run lacks" in page.replace(' class="muted"', "")


def test_a_unit_by_its_address(tmp_path: Path, images: Path) -> None:
    run = report.load(run_of(tmp_path / "run", images))
    unit = unit_of(run, "head/1")
    assert unit.descriptions[0][0] == unit.truth == "green"
    assert [image.name for image in unit.images[:2]] == ["green0.png", "green1.png"]
    assert unit.images[0].file is not None and sum(unit.counts) == 24
    assert unit_of(run, "head/3").descriptions == []
    for address, says in (
        ("head", "isn't a unit"),
        ("haed/1", "Did you mean head"),
        ("head/4", "no unit 4; its units are 0 to 3"),
    ):
        with pytest.raises(DissectError, match=says):
            unit_of(run, address)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs `clipdissect` with arguments; returns what it printed."""

    def run(*arguments: Any) -> str:
        monkeypatch.setattr(sys, "argv", ["clipdissect", *map(str, arguments)])
        cli.main()
        return capsys.readouterr().out

    return run


def test_commands(tmp_path: Path, images: Path, command: Any) -> None:
    folder = run_of(tmp_path / "run", images)
    labels = labels_of(tmp_path / "labels.csv", "head,0,crimson")
    assert "index.html" in command("report", folder, "--against", f"milan={labels}")
    said = command("show", folder, "head/0")
    for part in ("head/0  red", "red (right)", "milan", "crimson", "red0.png"):
        assert part in said
    assert "crimson" in command("show", folder, "head/00")
    page = Path(command("compare", folder, labels, "--sentence", "none").split()[-1])
    assert page == tmp_path / "compare" / "run" / "index.html" and page.is_file()


def test_mistakes_are_told_without_a_traceback(
    tmp_path: Path, command: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, blocked = tmp_path / "run", tmp_path / "run" / "report" / "assets"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("")
    labels = labels_of(tmp_path / "labels.csv", "head,0,crimson")
    shutil.copy(labels, folder / "descriptions.csv")
    others, none = ("--against", f"x={labels}"), ("--sentence", "none")
    for says, *arguments in (
        ("Did you mean head", "show", folder, "haed/0"),
        ("isn't a unit", "show", folder, "head/²"),
        ("missing: a run's descriptions", "report", tmp_path),
        ("missing: a run's descriptions", "report", tmp_path / "no", *others),
        ("missing: a run's descriptions", "compare", folder, "no", *none),
        ("labels.csv is a file", "report", labels),
        ("labels.csv is a file", "report", labels, *others),
        (f"{blocked}: ", "report", folder),
        (f"{labels}/page", "compare", labels, labels, "--out", labels / "page", *none),
    ):
        with pytest.raises(SystemExit) as stopped:
            command(*arguments)
        assert stopped.value.code == 2
        assert re.match(f"error: .*{says}", capsys.readouterr().err)
    assert not (tmp_path / "no").exists()


def test_settings_are_checked() -> None:
    for changes in ({"images": 0}, {"regions": -1}, {"thumbnail": 8}, {"paths": "some"}):
        with pytest.raises(DissectError, match=f"report.{next(iter(changes))}"):
            ReportSettings(**changes)


def test_layers_that_have_no_map_are_left_out(tmp_path: Path, images: Path) -> None:
    class Tokens(ColourNet):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.tokens(torch.rand(len(x), 6, 3))  # no square of patches
            return super().forward(x)

    target = Target("tiny", Tokens(), preprocess(), ("tokens", "relu"))
    probe = probes.build("folder", root=str(images))
    layers, units = ["tokens"] * 3 + ["relu"] * 4, [*range(3), *range(4)]
    table = pd.DataFrame({"layer": layers, "unit": units, "rank": 1, "image": "red0.png"})
    found = regions.find_regions(target, probe, SETTINGS, table, 10, None)
    assert list(found) == ["relu"]
    assert regions.find_regions(target, probe, SETTINGS, table, 0, None) == {}
