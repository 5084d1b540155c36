"""The similarity comparison on tiny stand-ins, and the tables gathered from runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from test_final_layer import CLASSES, ColourSentences
from tiny import ColourEncoder, ColourNet, preprocess, write_colours

from clipdissect import concepts, sentence, similarity
from clipdissect.app import build as parts
from clipdissect.app import paper
from clipdissect.app.commands import tables
from clipdissect.app.comparison import table as comparing
from clipdissect.app.comparison.cells import concept_set
from clipdissect.app.help import conf_folder
from clipdissect.app.schema import register
from clipdissect.concepts import of_list
from clipdissect.errors import DissectError
from clipdissect.evaluation import Resampling, Units
from clipdissect.probe import Probe
from clipdissect.probe.unions import join
from clipdissect.targets import Target
from experiments import similarity_comparison


def test_comparison_of_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register()
    write_colours(tmp_path / "images")
    network = ColourNet()
    target = Target("tiny", network, preprocess(), ("conv",), "head", CLASSES)
    monkeypatch.setitem(parts.BUILDERS, "target", lambda **_: target)
    monkeypatch.setitem(parts.BUILDERS, "encoder", lambda **_: ColourEncoder())
    monkeypatch.setitem(sentence.OPTIONS, "mpnet", lambda path=None: ColourSentences())
    words = lambda: of_list(["red", "green", "blue", "cyan"])  # noqa: E731
    monkeypatch.setitem(concepts.OPTIONS, "google_20k", words)
    monkeypatch.setattr(parts, "track", lambda *_: None)
    monkeypatch.setattr(similarity_comparison, "results_folder", lambda: tmp_path / "run")
    root = f"{{name: folder, root: {tmp_path}/images}}"
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose(
            "config",
            overrides=[
                f"+comparison.probes={{one: {root}, two: {root}}}",
                "comparison.concepts=[google_20k,{name: list, texts: [red, cyan]}]",
                "similarity.a=3",
                "comparison.similarities=[soft_wpmi,cosine]",
                "comparison.top_k=[2,4]",
                "capture.workers=0",
                "capture.device=cpu",
                "capture.batch_size=24",
                "+profile.top_k=4",
                "evaluation.resamples=200",
            ],
        )
    similarity_comparison.run(config)
    folder = tmp_path / "run"
    assert network.calls == 2 + 3 + 1  # features are shared: one batch, after trials
    table = pd.read_csv(folder / "comparison.csv")
    assert set(table["concepts"]) == {"google_20k", "list"}
    table = table[table["concepts"] == "google_20k"]
    whole = table[(table["setting"] == "default") & (table["metric"] == "top1")]
    assert set(whole["probe"]) == {"one", "two", "average"}
    # Red and green of the four classes are concepts; see test_final_layer.
    assert set(whole["value"]) == {0.5}
    assert set(whole["minus_best"]) == {0.0}
    same = table[table["setting"] == comparing.UNSEARCHED]
    assert set(table[table["setting"] == "best"]["units"]) == set(same["units"]) == {2}
    assert set(same["probe"]) == {"one", "two", "average"}
    assert "soft_wpmi" in (folder / "comparison.md").read_text()
    for name in ("comparison.png", "comparison.pdf"):
        assert (folder / name).stat().st_size > 1000
    facts = json.loads((folder / "run.json").read_text())
    assert facts["top_k_tried"] == [2, 4]
    assert facts["truth"] == {"name": "tiny", "layer": "head", "classes": 4}
    used = {one["name"]: one for one in facts["similarities"]}
    assert used["soft_wpmi"]["a"] == 3.0


def test_the_best_is_the_default_where_nothing_is_better() -> None:
    def cell(parameters: str, *cosines: float | None) -> comparing.Cell:
        table = pd.DataFrame({"unit": range(len(cosines)), "x_cos": cosines}, dtype=float)
        return comparing.Cell("p", "c", "wpmi", "default", parameters, 9, Units(table, {}))

    tuning, report = np.array([0, 1]), np.array([2, 3])
    default, level = cell("", 0.5, 0.5, 0.1, 0.3), cell("top_k=2", 0.5, 0.5, 0.9, 0.9)
    undefined = cell("top_k=3", None, None, 0.9, 0.9)
    for candidates in ([default, level], [undefined, default]):
        best = comparing.best_of(candidates, "x_cos", tuning, report)
        assert (best.setting, best.parameters) == ("best", "")
        same = comparing.unsearched(default, report)
        pd.testing.assert_frame_equal(best.units.table, same.units.table)
        assert same.setting == comparing.UNSEARCHED


def cell(name: str, similarity: str, right: list[float], cosines: list[float]) -> comparing.Cell:
    names = [f"class {i}" for i in range(len(right))]
    units = pd.DataFrame(
        {
            "unit": range(len(right)),
            "truth": names,
            "right": right,
            "right_any_synonym": right,
            "x_cos": cosines,
        }
    )
    return comparing.Cell(name, "c", similarity, "default", "", 9, Units(units, {}))


def test_an_average_without_the_union_stands_beside_the_papers() -> None:
    shares = {"a": [1.0, 0, 0, 0], "b": [0.0, 0, 0, 0], "a+b": [1.0, 1, 1, 1]}
    cells = [cell(name, "soft_wpmi", right, right) for name, right in shares.items()]
    found = comparing.table(cells, Resampling(100), ["a+b"]).set_index(["metric", "probe"])["value"]
    assert found["top1", "average"] == pytest.approx(1.25 / 3)  # as the paper's
    assert found["top1", "average without unions"] == pytest.approx(0.125)
    plain = comparing.table(cells[:2], Resampling(100))
    assert "average without unions" not in set(plain["probe"])
    nothing = comparing.table([cell("a", "s", [0.0] * 4, [0.0] * 4)] * 2, Resampling(100))
    wide = nothing[(nothing["metric"] == "top1")]
    assert (wide["high"] > 0.4).all()  # no share of four units is known to be 0


def test_the_papers_average_counts_the_union() -> None:
    numbers = paper.values()["table3"]
    for metric in ("mpnet_cos", "top1"):
        for name in ("rank_reorder", "wpmi", "soft_wpmi"):
            *probes, average = numbers[metric][name]
            assert average == pytest.approx(sum(probes) / 4, abs=1e-3)
            assert average != pytest.approx(sum(probes[:3]) / 3, abs=1e-3)


def test_a_function_that_leaves_units_out_does_not_lead_by_it() -> None:
    nan = float("nan")
    cells = [
        cell("a", "every", [1.0, 0, 0, 0], [0.9, 0.8, 0.1, 0.1]),
        cell("a", "some", [1.0, 0, 0, 0], [0.9, 0.8, nan, nan]),
    ]
    found = comparing.table(cells, Resampling(100)).set_index(["metric", "similarity", "probe"])
    assert found.loc[("x_cos", "every", "a"), "best"] == "some"
    assert found.loc[("x_cos", "every", "a"), "minus_best"] == 0.0  # over the two they share


def test_unions_are_told_by_their_parts() -> None:
    a, b = (Probe.of(name, [f"{name}1"], lambda i: None, name) for name in "ab")
    both = join("both", [a, b])
    assert comparing.overlapping_unions({"x": a, "y": both}) == ["y"]
    assert comparing.overlapping_unions({"y": both}) == []


def test_concept_sets_by_their_config(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wordfreq", reason="needs the extra `offline`")
    name, found = concept_set("wordfreq_3k")
    assert name == "wordfreq_3k" and 2000 < len(found.texts) <= 3000
    with pytest.raises(DissectError, match="unknown concepts 'wordfrek'"):
        concept_set("wordfrek")


OWN: dict[str, Any] = {
    "date": "2026-01-01",
    "method": {"name": "clip_dissect"},
    "encoder": "clip_vit_b16",
    "target": {"name": "resnet50", "layers": ["fc"], "weights": "IMAGENET1K_V1"},
    "truth": {"name": "resnet50", "layer": "fc", "classes": 1000},
    "probe": {"name": "imagenet_val", "images": 50_000},
    "concepts": {"name": "google_20k"},
    "similarity": {"name": "soft_wpmi", **paper.values()["hyperparameters"]["soft_wpmi"]},
    "summary": {"kind": "auto", "layout": "auto"},
}
MILAN, NETDISSECT, PLACES = (
    "milan/m_base_resnet50_imagenet.csv",
    "netdissect/resnet50_imagenet_layer4.csv",
    "netdissect/resnet18_places365_fc.csv",
)
CLIP_DISSECT = "clip_dissect/resnet50_imagenet_broden.csv"


def published(file: str, **options: Any) -> dict[str, Any]:
    """The manifest's facts on labels of a published file."""
    config = compose_method(paper.PRESETS[file.partition("/")[0]])
    digest = paper.values()["label_files"][file]
    return {"method": config | {"path": file} | options, "digests": {"labels": digest}}


def compose_method(name: str) -> dict[str, Any]:
    register()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("config", overrides=[f"method={name}", "method.path=x.csv"])
    return parts.parameters(config.method)


def write(folder: Path, run: Any, metrics: Any) -> None:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "metrics.json").write_text(json.dumps(metrics))


def final(**values: float) -> dict[str, Any]:
    """Metrics of final_layer."""
    spans = {name: {"low": value - 0.02, "high": value + 0.02} for name, value in values.items()}
    return {"final_layer": values, "controls": {}, "intervals": spans}


def write_run(folder: Path, **other: Any) -> None:
    write(folder, OWN | other, final(mpnet_cos=0.5207))


def filled(found: dict[str, list[Any]]) -> dict[tuple[str, str, str], float]:
    return {
        (table, row["row"], row["metric"]): row["ours"]
        for table, rows in found.items()
        for row in rows
        if row["ours"] is not None
    }


def test_tables_tell_rows_by_what_was_run(tmp_path: Path) -> None:
    write_run(tmp_path / "a" / "anything")
    write_run(tmp_path / "b", encoder="conse")
    found = tables.gather(tmp_path)
    row = "clip_dissect imagenet_val google_20k soft_wpmi"
    assert list(filled(found)) == [("table1", row, "mpnet_cos"), ("table3", row, "mpnet_cos")]
    ours = next(r for r in found["table1"] if r["ours"])
    assert ours["difference"] == pytest.approx(-0.005)
    assert ours["verdict"] == "agrees"
    others = [r for rows in found.values() for r in rows if not r["ours"]]
    assert all(r["difference"] is None for r in others)
    assert all(r["command"].startswith("clipdissect ") for rows in found.values() for r in rows)
    assert [len(rows) for rows in found.values()] == [20, 6, 30, 11, 3]


@pytest.mark.parametrize(
    "facts",
    [
        {"encoder": "conse"},
        {"probe": {"name": "imagenet_val", "images": 100}},
        {"target": OWN["target"] | {"weights": "random"}},
        {"target": OWN["target"] | {"weights": "IMAGENET1K_V2"}},
        {"target": {"name": "resnet50", "layers": ["fc"]}},  # as older manifests have it
        {"target": "resnet50"},
        {"summary": {"kind": "max", "layout": "auto"}},
        {"summary": None},
        {"truth": {"name": "short_names", "layer": "fc", "classes": 1000}},
        {"truth": None},
        {"similarity": OWN["similarity"] | {"top_k": 20}},
        {"similarity": OWN["similarity"] | {"membership": "line"}},
    ],
)
def test_no_number_without_the_right_run(tmp_path: Path, facts: dict[str, Any]) -> None:
    write_run(tmp_path / "c", **facts)
    found = tables.gather(tmp_path)
    assert not filled(found)
    tables.write("table1", found["table1"], tmp_path / "out")
    assert "not run: needs ImageNet val" in (tmp_path / "out" / "table1.md").read_text()


def test_published_labels_fill_their_own_rows(tmp_path: Path) -> None:
    truth = {"name": "imagenet", "layer": None, "classes": 1000}
    milan = {"date": "1", "truth": truth, **published(MILAN)}
    write(tmp_path / "a", milan, final(mpnet_cos=0.2788, clip_vit_b16_cos=0.6))
    # Another column, ending, layer or file is another set of labels.
    for number, other in enumerate(
        (
            published(MILAN, description_column="unit"),
            published(MILAN, layers=["layer4"]),
            published(MILAN, strip=["s"]),
            published(NETDISSECT),
            published(CLIP_DISSECT),
        )
    ):
        write(tmp_path / f"other{number}", milan | {"date": "2"} | other, final(mpnet_cos=0.1))
    places = {
        "date": "1",
        **published(PLACES, strip=["-s", "-c"]),
        "truth": {"name": "places365", "layer": None, "classes": 365},
    }
    span = {"low": 0.37, "high": 0.5}
    of_scenes = {"places365": {"released": {"top1": 0.4382, "top1_interval": span}}}
    write(tmp_path / "places", places, final(mpnet_cos=0.6697, top1=0.32) | of_scenes)
    found = tables.gather(tmp_path)
    milan_row, places_row = "milan_base imagenet_val", "network_dissection broden broden"
    assert filled(found) == {
        ("table1", milan_row, "clip_vit_b16_cos"): 0.6,
        ("table1", milan_row, "mpnet_cos"): 0.2788,
        ("table2", places_row, "top1"): 0.4382,
        ("table2", places_row, "mpnet_cos"): 0.6697,
    }
    cosine = next(r for r in found["table2"] if r["metric"] == "mpnet_cos")
    assert cosine["verdict"].startswith("differs, but agrees with what the released notebook")


def comparison(values: dict[str, float], **facts: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A run of similarity_comparison of SoftWPMI by mpnet, with the values of its probes."""
    rows = []
    for setting in ("default", "best"):
        for probe, value in values.items():
            own = value if setting == "default" else 0.9
            rows.append(
                {
                    "concepts": "google_20k",
                    "setting": setting,
                    "similarity": "soft_wpmi",
                    "probe": probe,
                    "metric": "mpnet_cos",
                    "value": own,
                    "low": own - 0.01,
                    "high": own + 0.01,
                }
            )
    probes = {name: {"name": name, "images": paper.IMAGES.get(name, 9)} for name in values}
    probes.pop("average", None)
    keys = ("date", "encoder", "target", "truth", "summary")
    run = {key: OWN[key] for key in keys} | {
        "probes": probes,
        "concepts": {"google_20k": OWN["concepts"]},
        "similarities": [OWN["similarity"], OWN["similarity"] | {"top_k": 5}],
    }
    return run | facts, {"comparison": rows}


def test_comparison_fills_table_3_and_its_averages(tmp_path: Path) -> None:
    values = {"cifar100_train": 0.35, "broden": 0.39, "imagenet_val": 0.52, "imagenet_broden": 0.5}
    write(tmp_path / "a", *comparison(values | {"average": 0.44}))
    write(tmp_path / "b", *comparison({"broden": 0.7}, target={"name": "resnet50"}))
    found = tables.gather(tmp_path)
    rows = {
        row.split()[1]: ours for (table, row, _), ours in filled(found).items() if table == "table3"
    }
    assert rows == pytest.approx(values | {"average": 0.44})
    average = next(r for r in found["table3"] if "average" in r["row"] and r["ours"])
    assert (average["paper"], average["low"], average["high"]) == (0.4525, 0.43, 0.45)
    assert average["difference"] == pytest.approx(-0.0125)
    # A later run of one cell changes the average, of which no interval is known then.
    write_run(tmp_path / "c", date="2027", probe={"name": "broden", "images": 9})
    average = next(
        r for r in tables.gather(tmp_path)["table3"] if "average" in r["row"] and r["ours"]
    )
    assert average["ours"] == pytest.approx(0.44 + (0.5207 - 0.39) / 4)
    assert (average["low"], average["high"]) == (None, None)


def test_no_average_of_some_of_the_probes(tmp_path: Path) -> None:
    write(tmp_path / "a", *comparison({"broden": 0.4, "average": 0.4}))
    assert not any("average" in row for _, row, _ in filled(tables.gather(tmp_path)))


def of_study(name: str, values: Any, **facts: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A run of a study of layer4 into fc."""
    layers = {"layer": "layer4", "into": "fc"}
    run = OWN | {"study": {"name": name, **layers, "top_pairs": 50_000}} | facts
    return {key: value for key, value in run.items() if value is not None}, {
        name: {**layers, **values}
    }


AGREEMENT = {
    "mpnet": {
        "truth": {"value": 0.0987, "low": 0.09, "high": 0.11},
        "prediction": {"value": 0.1, "low": 0.0, "high": 0.3},
    }
}
CORRELATION = {
    "clip_vit_b16": {
        part: {"pearson_r": -0.1, "interval": {"low": -0.3, "high": 0.0}}
        for part in ("all_pairs", "top_pairs")
    }
}
NO_PARTS = dict.fromkeys(("encoder", "concepts", "similarity"))


@pytest.mark.parametrize(
    ("facts", "row"),
    [
        ({}, "clip_dissect"),
        (published(CLIP_DISSECT) | NO_PARTS, "clip_dissect"),
        (published(MILAN, layers=["layer4"]) | NO_PARTS, "milan_base"),
        (published(NETDISSECT, layers=["layer4"]) | NO_PARTS, "network_dissection"),
        ({"method": {"name": "published"}}, None),  # labels of who knows what
        (published(MILAN) | NO_PARTS, None),  # of layer fc
        (published(MILAN, layers=["layer4"]) | {"probe": {"name": "stamps", "images": 9}}, None),
        (published(MILAN, layers=["layer4"]) | {"summary": {"kind": "max"}}, None),
        ({"probe": {"name": "stamps", "images": 9}}, None),
        ({"method": {"name": "network_dissection"}}, None),
        ({"target": OWN["target"] | {"weights": "random"}}, None),
    ],
)
def test_labels_fill_only_their_rows_of_the_studies(
    tmp_path: Path, facts: dict[str, Any], row: str | None
) -> None:
    write(tmp_path / "a", *of_study("class_from_descriptions", AGREEMENT, **facts))
    found = filled({"studies": tables.gather(tmp_path)["studies"]})
    assert {name.rpartition(": ")[2] for _, name, _ in found} == ({row} if row else set())


@pytest.mark.parametrize(
    ("facts", "rows"),
    [
        ({"probe": {"name": "imagenet_broden", "images": 9}}, 2),
        (published(CLIP_DISSECT) | NO_PARTS | {"probe": None, "summary": None}, 2),  # weights alone
        (
            {
                "probe": {"name": "imagenet_broden", "images": 9},
                "study": {"name": "weight_similarity", "top_pairs": 10},
            },
            1,
        ),
        ({"probe": {"name": "stamps", "images": 9}}, 0),
        (
            {
                "probe": {"name": "imagenet_broden", "images": 9},
                "similarity": {"name": "lp", "p": 1},
            },
            0,
        ),
        ({"probe": {"name": "imagenet_broden", "images": 9}, "summary": {"kind": "max"}}, 0),
        (published(MILAN, layers=["layer4"]), 0),
    ],
)
def test_weight_similarity_in_the_papers_setting(
    tmp_path: Path, facts: dict[str, Any], rows: int
) -> None:
    run, metrics = of_study("weight_similarity", CORRELATION, **facts)
    write(tmp_path / "a", run, metrics)
    found = [row for row in tables.gather(tmp_path)["studies"] if row["ours"] is not None]
    assert len(found) == rows
    # An interval that ends at 0 is no interval without an end.
    assert all(row["verdict"] == "differs" for row in found)
    metrics["weight_similarity"]["layer"] = "layer3"
    (tmp_path / "a" / "metrics.json").write_text(json.dumps(metrics))
    assert not filled({"studies": tables.gather(tmp_path)["studies"]})


def test_a_lower_end_of_zero_is_an_end(tmp_path: Path) -> None:
    write(tmp_path / "a", *of_study("class_from_descriptions", AGREEMENT))
    rows = tables.gather(tmp_path)["studies"]
    verdicts = {row["metric"]: row["verdict"] for row in rows if row["ours"]}
    assert verdicts == dict.fromkeys(("truth", "prediction"), "the paper's is in our interval")


def test_commands_of_published_labels_give_runs_that_fit() -> None:
    rows = tables.gather(Path("nowhere"))["studies"]
    said = {row["row"].rpartition(": ")[2]: row["command"] for row in rows}
    assert "method=published_netdissect" in said["network_dissection"]
    assert f"FOLDER/{NETDISSECT} 'method.layers=[layer4]'" in said["network_dissection"]
    assert f"method.path=FOLDER/{CLIP_DISSECT}" in said["layer4 to fc, 50000 weights"]


def test_every_function_is_compared_by_default() -> None:
    register()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("config")
    assert set(config.comparison.similarities) == set(similarity.OPTIONS)


@pytest.mark.parametrize("name", ["table1", "table1_probes", "table2", "table3", "offline_tables"])
def test_presets_compose(name: str) -> None:
    register()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("config", overrides=[f"experiment={name}"])
    assert config.sentence.name == "mpnet"
