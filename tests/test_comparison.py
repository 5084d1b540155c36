"""The similarity comparison on tiny stand-ins, and the tables gathered from runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from test_final_layer import CLASSES, ColourSentences
from tiny import ColourEncoder, ColourNet, preprocess, write_colours

from clipdissect import concepts, sentence
from clipdissect.concepts import of_list
from clipdissect.errors import DissectError
from clipdissect.target import Target
from experiments import parts, similarity_comparison, tables
from experiments.help import conf_folder
from experiments.schema import register


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
        config = compose("config", overrides=[
            f"+comparison.probes={{one: {root}, two: {root}}}",
            "comparison.concepts=[google_20k,{name: list, texts: [red, cyan]}]", "similarity.a=3",

            "comparison.similarities=[soft_wpmi,cosine]", "comparison.top_k=[2,4]",
            "capture.workers=0", "capture.device=cpu", "capture.batch_size=24",
            "+profile.top_k=4",
            "evaluation.resamples=200",
        ])  # fmt: skip
    similarity_comparison.run(config)
    folder = tmp_path / "run"
    assert network.calls == 1  # features are shared: one batch
    table = pd.read_csv(folder / "comparison.csv")
    assert set(table["concepts"]) == {"google_20k", "list"}
    table = table[table["concepts"] == "google_20k"]
    whole = table[(table["setting"] == "default") & (table["metric"] == "top1")]
    assert set(whole["probe"]) == {"one", "two", "average"}
    # Red and green of the four classes are concepts; see test_final_layer.
    assert set(whole["value"]) == {0.5}
    assert set(whole["minus_best"]) == {0.0}
    assert set(table[table["setting"] == "best"]["units"]) == {2}
    assert "soft_wpmi" in (folder / "comparison.md").read_text()
    for name in ("comparison.png", "comparison.pdf"):
        assert (folder / name).stat().st_size > 1000
    facts = json.loads((folder / "run.json").read_text())
    assert facts["top_k_tried"] == [2, 4]
    used = {one["name"]: one for one in facts["similarities"]}
    assert used["soft_wpmi"]["a"] == 3.0


def test_concept_sets_by_their_config(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wordfreq", reason="needs the extra `offline`")
    name, found = similarity_comparison._concept_set("wordfreq_3k")
    assert name == "wordfreq_3k" and 2000 < len(found.texts) <= 3000
    with pytest.raises(DissectError, match="unknown concepts 'wordfrek'"):
        similarity_comparison._concept_set("wordfrek")


def write_run(folder: Path, encoder: str = "clip_vit_b16", **other: Any) -> None:
    run = {"date": "2026-01-01", "target": {"name": "resnet50"}, "encoder": encoder,
           "probe": {"name": "imagenet_val", "images": 50_000}, "concepts": {"name": "google_20k"},
           "similarity": {"name": "soft_wpmi", "a": 10.0, "lam": 1.0,
                          "top_k": 100, "p_start": 0.998, "p_end": 0.97}, "method": {"name": "clip_dissect"}}  # fmt: skip  # noqa: E501
    metrics = {"final_layer": {"mpnet_cos": 0.5207}, "controls": {},
               "intervals": {"mpnet_cos": {"low": 0.5, "high": 0.54}}}  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(run | other))
    (folder / "metrics.json").write_text(json.dumps(metrics))


def test_tables_tell_rows_by_what_was_run(tmp_path: Path) -> None:
    write_run(tmp_path / "a" / "anything")
    write_run(tmp_path / "b", encoder="conse")
    found = tables.gather(tmp_path)
    filled = [(t, r["row"], r["metric"]) for t, rows in found.items() for r in rows if r["ours"]]
    row = "clip_dissect imagenet_val google_20k soft_wpmi"
    assert filled == [("table1", row, "mpnet_cos"), ("table3", row, "mpnet_cos")]
    ours = next(r for r in found["table1"] if r["ours"])
    assert ours["difference"] == pytest.approx(-0.005)
    assert ours["verdict"] == "agrees"
    others = [r for rows in found.values() for r in rows if not r["ours"]]
    assert all("clipdissect" in r["verdict"] and r["difference"] is None for r in others)
    assert [len(rows) for rows in found.values()] == [20, 6, 24, 11]


def test_no_number_without_the_right_run(tmp_path: Path) -> None:
    write_run(tmp_path / "b", encoder="conse")
    write_run(tmp_path / "c", probe={"name": "imagenet_val", "images": 100})
    found = tables.gather(tmp_path)
    assert not any(row["ours"] for rows in found.values() for row in rows)
    tables.write("table1", found["table1"], tmp_path / "out")
    assert "not run: needs ImageNet val" in (tmp_path / "out" / "table1.md").read_text()


@pytest.mark.parametrize("name", ["table1", "table1_probes", "table2", "table3", "offline_tables"])
def test_presets_compose(name: str) -> None:
    register()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("config", overrides=[f"experiment={name}"])
    assert config.sentence.name == "mpnet"
