"""The runner of scores, on a tiny network and coloured squares."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from score_runs import CLASSES, WORDS, OtherEncoder, Runner, absent, tiny_target, write_squares
from tiny import ColourEncoder

import clipdissect
from clipdissect import encoder
from clipdissect.app import build as parts
from clipdissect.app import paper
from clipdissect.app.commands import tables
from clipdissect.app.help import conf_folder
from clipdissect.app.schema import register
from clipdissect.app.scoring import sources
from clipdissect.app.scoring.labels import layers_of
from clipdissect.app.scoring.sources import merged
from clipdissect.capture.settings import Settings
from clipdissect.errors import DissectError, MissingResource
from clipdissect.results.run_files import write_text
from clipdissect.scores import summary
from experiments import score


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_squares(tmp_path / "images")
    return tmp_path / "images"


@pytest.fixture
def runner(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runner]:
    """Runs the runner in the test's folder on the tiny network."""
    register()
    monkeypatch.setattr(summary, "LEAST_UNITS", 2)
    target = tiny_target()
    monkeypatch.setitem(parts.BUILDERS, "target", lambda **_: target)
    monkeypatch.setitem(parts.BUILDERS, "encoder", lambda **_: ColourEncoder())
    monkeypatch.setattr(parts, "track", lambda *_: None)
    monkeypatch.setitem(encoder.OPTIONS, "other", lambda: OtherEncoder(version="2"))
    monkeypatch.setitem(encoder.OPTIONS, "same", ColourEncoder)
    monkeypatch.setitem(encoder.OPTIONS, "absent", absent)
    count = iter(range(9))

    def run(*own: str) -> Path:
        folder = tmp_path / f"scores{next(count)}"
        monkeypatch.setattr(score, "results_folder", lambda: folder)
        monkeypatch.setattr(sources, "identity", lambda: (None, own))
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            score.run(compose("config", overrides=[*own]))
        return folder

    yield run


@pytest.fixture
def described(images: Path, tmp_path: Path) -> Path:
    """A run of all images, with its overrides."""
    result = clipdissect.dissect(
        tiny_target(),
        probe={"name": "folder", "root": str(images), "labels": "folders"},
        concepts=list(WORDS),
        encoder=ColourEncoder(),
        similarity={"name": "soft_wpmi", "top_k": 10},
        settings=Settings(device="cpu", workers=0),
        store=tmp_path / "store",
    )
    folder = result.save(tmp_path / "run")
    overrides = (
        *("probe=folder", f"probe.root={images}", "probe.labels=folders", "similarity.top_k=10"),
        *("concepts=list", f"concepts.texts=[{','.join(WORDS)}]", "report.enabled=false"),
        *("capture.workers=0", "capture.device=cpu", f"paths.store={tmp_path}/store"),
        *("evaluation.resamples=200", "scorer.encoder=other"),
    )
    lines = "".join(f"- {override}\n" for override in overrides)
    write_text(folder / ".hydra" / "overrides.yaml", lines)
    return folder


def overrides_of(described: Path) -> list[str]:
    lines = (described / ".hydra" / "overrides.yaml").read_text().splitlines()
    return [line.removeprefix("- ") for line in lines]


def facts(folder: Path, name: str = "metrics") -> Any:
    return json.loads((folder / f"{name}.json").read_text())


def test_labels_are_made_anew_and_scored_on_other_images(
    runner: Runner, described: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "wrong.csv"
    rows = [f"{layer},{unit},cyan" for layer in ("conv", "head") for unit in range(4)]
    wrong.write_text("layer,unit,description\n" + "\n".join(rows) + "\n")
    folder = runner(f"run={described}", f"against=[{wrong}]")
    table = pd.read_csv(folder / "scores.csv")
    assert table["description"].tolist() == [*CLASSES, *CLASSES]
    assert table["unit"].tolist() == [0, 1, 2, 3] * 2
    # A unit fires on the images of its class, more on brighter ones.
    assert (table["simulation"] > 0.5).all()
    assert (table["inverse_auprc"] > 0.85).all()  # dark yellow ones are like bright red ones
    found = facts(folder)
    assert list(found["layers"]) == ["conv", "head", "all layers"]
    simulation = found["layers"]["all layers"]["simulation"]
    assert simulation["units"] == 8
    assert simulation["value"] == pytest.approx(table["simulation"].mean())
    assert simulation["low"] <= simulation["value"] <= simulation["high"]
    assert simulation["reached_by"] == []
    assert simulation["controls"]["shuffled"]["value"] < 0.3
    # All labels occur once, so that the first is the constant.
    constant = simulation["controls"]["constant"]["difference"]
    assert constant["value"] > 0.5
    minus = found["differences"][str(wrong)]["head"]["simulation"]
    assert minus["low"] > 0.5
    assert found["against"][str(wrong)]["head"]["simulation"]["value"] < 0.2
    assert pd.read_csv(folder / "against.csv")["labels"].unique().tolist() == [str(wrong)]
    assert "50 units" in found["confidence"]["missing"]["conv"]
    assert "images of the texts" in found["not_scored"]["cosy"]
    parts_of = pd.read_csv(folder / "split.csv")["part"].value_counts().to_dict()
    assert parts_of == {"describe": 114, "validate": 16, "test": 32}
    run = facts(folder, "run")
    assert run["scores"]["of"] == {str(described): "anew", str(wrong): "given"}
    assert run["scores"]["images"] == {"fit": 130, "validate": 16, "test": 32}
    # The head reads the positive part of conv's maps.
    assert "head doesn't read the activations of layer head" in found["not_scored"]["ablation"]
    assert run["scores"]["scorers"]["label_metrics"]["alpha"] == 10 / 32
    assert "fitted on labels of images" in str(run["scores"]["scorers"]["simulation"])
    assert run["probe"]["used"] == 114  # of the descriptions
    top = pd.read_csv(folder / "top_images.csv")["image"]
    first = pd.read_csv(folder / "split.csv").query("part == 'describe'")["image"]
    assert set(top) <= set(first)
    printed = capsys.readouterr().out
    assert "simulation" in printed and f"minus {wrong}: all layers simulation" in printed
    assert (folder / "scores.png").is_file()
    lines = (folder / "scores.md").read_text().splitlines()
    of_wrong = next(line for line in lines if line.startswith(f"| {wrong}"))
    assert of_wrong.count("] -") >= 1  # certainly below the labels


def test_without_the_encoders_weights_other_scores_remain(runner: Runner, described: Path) -> None:
    found = facts(runner(f"run={described}", "scorer.encoder=absent"))
    assert found["not_scored"]["simulation"] == "the weights of absent: get them"
    assert "iou" in found["layers"]["head"]
    with pytest.raises(MissingResource, match="the weights of absent"):
        runner(f"run={described}", "scorer.encoder=absent", "scores=[simulation]")
    metrics_only = runner(f"run={described}", "scorer.encoder=absent", "scores=[label_metrics]")
    assert facts(metrics_only)["not_scored"] == {}


def test_given_labels_score_on_more_images_with_a_note(runner: Runner, described: Path) -> None:
    own = "scorer.labels=given", "scorer.encoder=same", "scorer.same_encoder=true"
    folder = runner(f"run={described}", *own, "scores=[simulation]")
    run = facts(folder, "run")
    assert run["scores"]["images"] == {"fit": 16, "validate": 16, "test": 146}
    assert any("its scores are too high" in note for note in run["notes"])
    assert any("scorer.same_encoder=true" in note for note in run["notes"])
    assert set(facts(folder)["layers"]["conv"]) == {"simulation", "simulation_spearman"}


def test_labels_that_may_know_the_images_get_a_note(runner: Runner, described: Path) -> None:
    folder = runner(f"run={described}", "probe.limit=160", "scores=[simulation]")
    notes = facts(folder, "run")["notes"]
    assert any("may be among those that score them" in note for note in notes)


def test_the_split_of_an_earlier_run_is_used(runner: Runner, described: Path) -> None:
    first = runner(f"run={described}", "scores=[simulation]", "scorer.seed=3")
    again = runner(f"run={described}", "scores=[simulation]", f"scorer.split={first}/split.csv")
    assert (first / "split.csv").read_bytes() == (again / "split.csv").read_bytes()
    assert (first / "scores.csv").read_bytes() == (again / "scores.csv").read_bytes()
    other = runner(f"run={described}", "scores=[simulation]")
    assert (first / "split.csv").read_bytes() != (other / "split.csv").read_bytes()


def test_labels_of_some_units_in_any_order(runner: Runner, described: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.csv"
    few.write_text("layer,unit,description\nhead,3,yellow\nhead,1,zebra\nhead,0,red\nconv,2,\n")
    folder = runner(f"run={few}", f"against=[{described}]", *overrides_of(described))
    table = pd.read_csv(folder / "scores.csv")
    # Files are sorted by unit; no score knows an empty label, and no image is labelled zebra.
    assert table["layer"].tolist() == ["head", "head", "head", "conv"]
    assert table["unit"].tolist() == [0, 1, 3, 2]
    assert table["iou"].isna().tolist() == [False, True, False, True]
    minus = facts(folder)["differences"][str(described)]
    # The first labels are those that the method found, of the units 0 and 3.
    assert minus["head"]["iou"] == {"units": 2, "value": 0.0, "low": 0.0, "high": 0.0}
    assert minus["conv"] == {}
    assert minus["all layers"]["iou"]["units"] == 2


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (["scores=[simulations]"], "Did you mean simulation"),
        (["scores=[cosy]"], "text_images=folder, labelled, rendered or diffusers"),
        (["scores=[simulation]", "scorer.encoder=null"], "scorer.encoder=NAME"),
        (["scorer.encoder=same"], "scorer.same_encoder=true"),
        (["probe.limit=100"], "100 images; scores on held-out images take at least 150"),
        (["scorer.labels=new"], "scorer.labels"),
        (["against=[nowhere]"], "the labels to score"),
        (["against=[{name: clip_dissect}]"], "describes units itself"),
        (["scorer.shares=[0.5,0.5]"], "scorer.shares"),
        (["scorer.draws=0"], "scorer.draws"),
        (["scorer.encoder={name: other, colour: red}"], "unknown parameter"),
    ],
)
def test_mistakes_are_explained(runner: Runner, described: Path, own: list[str], said: str) -> None:
    with pytest.raises(DissectError, match=said):
        runner(f"run={described}", *own)


def test_runs_that_cannot_be_scored(
    runner: Runner, described: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DissectError, match="score needs labels: run=FOLDER"):
        runner()
    file, own = described.parent / "labels.csv", overrides_of(described)
    file.write_text("layer,unit,description\nhead,4,red\n")
    with pytest.raises(DissectError, match="unit 4, but the layer has 4 units"):
        runner(f"run={file}", *own)
    file.write_text("layer,unit,description\nhead,0,zebra\n")
    with pytest.raises(DissectError, match="none of the 1 descriptions, such as 'zebra'"):
        runner(f"run={file}", *own, "scores=[label_metrics]")
    target = tiny_target(0.1)
    monkeypatch.setitem(parts.BUILDERS, "target", lambda **_: target)
    parts._parts["target"]._results.clear()
    with pytest.raises(DissectError, match="is of another network"):
        runner(f"run={described}")
    write_text(described / ".hydra" / "overrides.yaml", "- run=other\n")
    with pytest.raises(DissectError, match="is a run of score"):
        runner(f"run={described}")
    labels = described / "descriptions.csv"
    with pytest.raises(DissectError, match="by which its labels could be made anew"):
        root = f"probe.root={described.parent}/images"
        runner(f"run={labels}", "probe=folder", root, "scorer.labels=anew")
    (described / ".hydra" / "overrides.yaml").unlink()
    with pytest.raises(DissectError, match=r"no config \(.hydra\)"):
        runner(f"run={described}", "probe=folder", f"probe.root={described.parent}/images")
    (described / "run.json").unlink()
    with pytest.raises(DissectError, match="can't be scored: the run isn't complete"):
        runner(f"run={described}")


def test_layers_that_all_labels_have_and_own_options_choose() -> None:
    first, second = (
        pd.DataFrame({"layer": layers}) for layers in (["a", "a", "b", "c"], ["c", "b"])
    )
    assert layers_of([first, second], None) == ["b", "c"]
    assert layers_of([first, second], ("c", "d")) == ["c"]
    with pytest.raises(DissectError, match="among those chosen, d: a, b, c; c, b"):
        layers_of([first, second], ("d",))


def test_own_options_replace_those_of_the_run() -> None:
    theirs = ["probe=stamps", "probe.fallback=false", "similarity.top_k=5", "+profile.x=1"]
    assert merged(theirs, ["probe=folder", "probe.root=x"]) == [
        *("similarity.top_k=5", "+profile.x=1", "probe=folder", "probe.root=x")
    ]
    assert merged(theirs, ["similarity.top_k=7"]) == [*theirs, "similarity.top_k=7"]


def test_the_library_scores_a_result_on_other_images(images: Path, tmp_path: Path) -> None:
    probe = clipdissect.probe.build("folder", root=str(images), labels="folders")
    first = probe.subset(range(0, 162, 3))
    second = probe.subset([i for i in range(162) if i % 3])
    options: dict[str, Any] = {
        "settings": Settings(device="cpu", workers=0),
        "store": tmp_path / "store",
    }
    result = clipdissect.dissect(
        tiny_target(),
        probe=first,
        concepts=list(WORDS),
        encoder=ColourEncoder(),
        similarity={"name": "soft_wpmi", "top_k": 10},
        **options,
    )
    other = OtherEncoder(version="2")
    scored = clipdissect.scores.score(result, tiny_target(), probe=second, encoder=other, **options)
    table = scored.tables()["scores"]
    assert table["description"].tolist() == [*CLASSES, *CLASSES]
    assert (table["simulation"] > 0.5).all()
    assert scored.metrics()["layers"]["conv"]["simulation"]["reached_by"] == []
    without_first = result.descriptions.assign(
        description=[None, *result.descriptions["description"][1:]]
    )
    of_table = clipdissect.scores.score(
        without_first,
        tiny_target(),
        probe=second,
        encoder=OtherEncoder(version="2"),
        **options,
    )
    pd.testing.assert_frame_equal(of_table.tables()["scores"].iloc[1:], table.iloc[1:])
    # An empty cell, read by pandas, is no label.
    first_unit = of_table.tables()["scores"].iloc[0]
    assert first_unit["description"] == "" and pd.isna(first_unit["simulation"])
    with pytest.raises(DissectError, match="made from these images"):
        clipdissect.scores.score(result, tiny_target(), probe=first, **options)
    with pytest.raises(DissectError, match="score them by another encoder"):
        clipdissect.scores.score(
            result, tiny_target(), probe=second, encoder=ColourEncoder(), **options
        )
    with pytest.raises(DissectError, match="no column description"):
        clipdissect.scores.score(
            result.descriptions[["layer", "unit"]], tiny_target(), probe=second, **options
        )


def test_published_means_stand_beside_ours(tmp_path: Path) -> None:
    missing = tables.gather(tmp_path)["scores"]
    assert [row["paper"] for row in missing] == [0.1871, 0.092, 0.1242]
    assert all("experiment=scores_published" in row["command"] for row in missing)
    digests = paper.values()["label_files"]
    files = {
        "clip_dissect.csv": digests["clip_dissect/resnet50_imagenet_broden.csv"],
        "milan.csv": digests["milan/m_base_resnet50_imagenet.csv"],
    }
    means = {"clip_dissect.csv": 0.19, "milan.csv": 0.12}
    scores = {
        name: {"layer4": {"simulation": {"value": mean, "low": 0.1, "high": 0.2}}}
        for name, mean in means.items()
    }
    run = {
        "target": {"name": "resnet50", "weights": "IMAGENET1K_V1"},
        "probe": {"name": "imagenet_val", "images": 50_000},
        "scores": {
            "digests": {name: {"labels": digest} for name, digest in files.items()},
            "scorers": {"simulation": {"encoder": paper.values()["simulation"]["encoder"]}},
        },
    }
    metrics = {
        "layers": scores["clip_dissect.csv"],
        "against": {"milan.csv": scores["milan.csv"]},
    }
    for name, values in (("run", run), ("metrics", metrics)):
        write_text(tmp_path / "score" / f"{name}.json", json.dumps(values))
    found = tables.gather(tmp_path)["scores"]
    assert [row["ours"] for row in found] == [0.19, 0.12, None]
    assert [row["verdict"][:7] for row in found] == ["agrees", "differs", "not run"]
    run["probe"] = {"name": "imagenet_val", "images": 1000}
    write_text(tmp_path / "score" / "run.json", json.dumps(run))
    assert tables.gather(tmp_path)["scores"][0]["ours"] is None


def test_reranked_labels_are_made_anew(
    runner: Runner, described: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    third = ColourEncoder(version="3")
    monkeypatch.setitem(encoder.OPTIONS, "third", lambda: third)
    rerank = "method.rerank=encoder", "method.reranker=third", "scores=[simulation]"
    folder = runner(f"run={described}", *rerank)
    table = pd.read_csv(folder / "scores.csv")
    assert table["description"].tolist() == [*CLASSES, *CLASSES]
    run = facts(folder, "run")
    assert run["method"]["rerank"] == "encoder"
    assert run["probe"]["used"] == 114
    assert third.images_seen > 0
    with pytest.raises(DissectError, match="has the network of images that the labels were made"):
        runner(f"run={described}", *rerank, "method.reranker=other")
