"""The runtime benchmark: plain pipeline, processes in turn, pieces, tables, the whole runner."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tiny import COLOURS, ColourEncoder, LiveNet, preprocess, write_colours

from clipdissect import probe, similarity
from clipdissect.api import dissect
from clipdissect.app import build as parts
from clipdissect.app.help import conf_folder
from clipdissect.app.runtime import microbenchmarks as runtime_pieces
from clipdissect.app.runtime import report as runtime_report
from clipdissect.app.runtime import rounds, time_slicing
from clipdissect.app.runtime.baseline import PlainPipeline, soft_wpmi
from clipdissect.app.runtime.microbenchmarks import synthetic_inputs
from clipdissect.app.schema import register
from clipdissect.capture.settings import Settings
from clipdissect.dissection import Job
from clipdissect.errors import DissectError
from clipdissect.targets import Target
from clipdissect.utils import timing
from experiments import runtime

WORDS = list(COLOURS)


def plain_of(folder: Path, images: Path, network: LiveNet, **changes: Any) -> PlainPipeline:
    target = Target("tiny", network, preprocess(), ("conv", "head"))
    chosen: dict[str, Any] = {"similarity": similarity.build("soft_wpmi", top_k=4)} | changes
    settings = Settings(device="cpu", workers=0, batch_size=5)
    return PlainPipeline(
        target,
        probe.build("folder", root=str(images)),
        WORDS,
        ColourEncoder(),
        chosen["similarity"],
        settings,
        folder,
    )


def test_plain_pipeline_gives_our_descriptions(tmp_path: Path) -> None:
    write_colours(tmp_path / "images")
    network = LiveNet()
    plain = plain_of(tmp_path / "kept", tmp_path / "images", network)
    found = plain.describe()
    calls = network.calls
    assert calls == 5  # batches of 5 of 24 images, both layers in one pass
    ours = dissect(
        plain.target,
        probe=plain.probe,
        concepts=WORDS,
        encoder=ColourEncoder(),
        similarity=plain.similarity,
        settings=plain.settings,
        store=None,
        images=4,
    ).descriptions
    assert list(found["layer"]) == list(ours["layer"])
    assert list(found["description"]) == list(ours["description"])
    assert list(found["description"])[:3] == ["red", "green", "blue"]
    np.testing.assert_allclose(found["similarity"], ours["similarity"], atol=1e-4)
    assert set(plain.timers.seconds) == {"texts", "decode", "forward", "similarity"}
    calls = network.calls
    again = plain_of(tmp_path / "kept", tmp_path / "images", network).describe()
    pd.testing.assert_frame_equal(again, found)
    assert network.calls == calls  # from its files


def test_plain_pipeline_has_one_similarity(tmp_path: Path) -> None:
    write_colours(tmp_path / "images")
    with pytest.raises(DissectError, match=r"runtime\.baseline=false"):
        plain_of(tmp_path, tmp_path / "images", LiveNet(), similarity=similarity.build("cosine"))


@pytest.mark.parametrize("rows", ["gather", "index"])
@pytest.mark.parametrize("results", ["list", "array"])
def test_plain_scores_are_ours(rows: str, results: str) -> None:
    factors, q = synthetic_inputs(images=40, units=5, concepts=30, dims=8)
    function: Any = similarity.build("soft_wpmi", top_k=7)
    ours = function(factors.dense(), q)
    found = soft_wpmi(factors.dense(), q, top_k=7, rows=rows, results=results)
    torch.testing.assert_close(found, ours, atol=1e-4, rtol=1e-4)


SIDE = """
import json, sys, time
from pathlib import Path
from clipdissect.app.runtime.time_slicing import PausedClock, end_with_parent
end_with_parent()
clock = PausedClock(Path(sys.argv[1]))
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    start, wanted = clock(), float(json.loads(line)["work"])
    if wanted < 0:
        print(json.dumps({"error": "less than nothing"}), flush=True)
    while clock() - start < wanted:
        time.sleep(0.002)
    print(json.dumps({"seconds": clock() - start}), flush=True)
"""


@pytest.fixture
def two_sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "sleeper.py").write_text(SIDE)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    sides = [
        time_slicing.PausedProcess(name, "sleeper", [], tmp_path / f"{name}.clock")
        for name in ("a", "b")
    ]
    yield sides
    for side in sides:
        side.close()


def test_sides_take_turns_and_pauses_do_not_count(two_sides: Any) -> None:
    for side in two_sides:
        assert side.turn(None) == {"ready": True}
        side.pause()
    messages = [{"work": 0.3}, {"work": 0.9}]
    for _ in range(2):
        start = time.perf_counter()
        answers = time_slicing.alternate(two_sides, messages, 0.05)
        took = time.perf_counter() - start
        assert [answer["seconds"] for answer in answers] == pytest.approx([0.3, 0.9], abs=0.15)
        assert took >= 1.15  # one at a time
    paused = [side.clock.paused for side in two_sides]
    assert paused[0] > 1.0  # while the other worked
    assert paused[1] > 0.4
    two_sides[1].ask({"work": -1})
    with pytest.raises(DissectError, match="less than nothing"):
        two_sides[1].turn(None)
    os.kill(two_sides[0].process.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="process of a ended"):
        two_sides[0].turn(5)


def test_stages_go_by_the_clock_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([1.0, 3.5])
    monkeypatch.setattr(timing, "clock", lambda: next(ticks))
    spent = timing.Timers()
    with spent.stage("x"):
        pass
    assert spent.seconds == {"x": 2.5}


def made_pieces(ours: float, plain: float) -> pd.DataFrame:
    """Pieces that follow the model exactly: `1e-9 (2 images + 3 units) concepts + 0.5`, times."""
    rows = []
    for axis, sizes in {
        "images": (500, 1000),
        "units": (64, 256),
        "concepts": (5000, 20000),
    }.items():
        for size in sizes:
            point = {"images": 1000, "units": 256, "concepts": 20000} | {axis: size}
            seconds = 1e-7 * (2 * point["images"] + 3 * point["units"]) * point["concepts"] + 0.5
            rows += [
                {"axis": axis, **point, "repeat": r, "side": side, "seconds": factor * seconds}
                for side, factor in (("clip_dissect", ours), ("plain", plain))
                for r in range(3)
            ]
    return pd.DataFrame(rows)


def test_model_and_exponents_are_found_again() -> None:
    pieces = made_pieces(1.0, 10.0)
    assert runtime_pieces.model(pieces, "clip_dissect") == pytest.approx((2e-7, 3e-7, 0.5))
    assert runtime_pieces.model(pieces, "plain") == pytest.approx((2e-6, 3e-6, 5.0))
    square = pd.DataFrame(
        {"axis": "pass", "images": [10, 20, 40], "side": "plain", "seconds": [1.0, 4.0, 16.0]}
    )
    found = runtime_pieces.exponents(square)
    assert found["exponent"].tolist() == pytest.approx([2.0])
    assert (found["from"][0], found["to"][0]) == (10, 40)


def made_rounds() -> pd.DataFrame:
    rows = []
    for store in ("cold", "warm"):
        for number, drift in enumerate((1.0, 2.0, 1.5), 1):
            for name, seconds in (("clip_dissect", 10.0), ("plain", 40.0)):
                rows.append(
                    {
                        "method": name,
                        "store": store,
                        "round": number,
                        "images": 100,
                        "units": 50,
                        "seconds": seconds * drift,
                        "ram": 2e9,
                        "gpu": None,
                        "stage_texts": 1.0,
                        "stage_decode": 1.0,
                        "stage_forward": seconds / 10 * drift,
                        "stage_similarity": seconds / 2 * drift,
                    }
                )
    return pd.DataFrame(rows)


def facts() -> dict[str, Any]:
    side = {
        "names": {"target": "t"},
        "layers": ["a"],
        "notes": ["random"],
        "images": 100,
        "concepts": 1000,
        "batch_size": 32,
        "memory_kept": True,
    }
    return {
        "sides": {"clip_dissect": side, "plain": side | {"memory_kept": False}},
        "not_run": {"captioner": "no checkpoint"},
        "machine": {"processor": "p", "cores": 2, "threads": 2, "gpus": []},
        "device": "cpu",
        "precision": "fp32-cpu",
        "date": "2026-01-01T00:00",
        "similarity": {"top_k": 100},
        "runtime": {"rounds": 3, "slice": 1.0, "base": {"images": 1000}},
    }


def test_report_of_rounds_and_the_papers_job() -> None:
    metrics = runtime_report.metrics(made_rounds(), made_pieces(1.0, 10.0), facts(), 1.0)
    ours = metrics["methods"]["clip_dissect"]["cold"]
    assert ours["seconds"]["median"] == 15.0
    assert (ours["seconds"]["least"], ours["seconds"]["most"]) == (10.0, 20.0)
    assert ours["units_per_s"] == pytest.approx(50 / 15, rel=1e-3)
    assert metrics["ratios"]["cold"]["each"] == [4.0, 4.0, 4.0]  # the drift is in both
    assert metrics["ratios"]["scoring (cold)"]["median"] == 4.0
    job = metrics["extrapolated"]["clip_dissect"]
    assert job["texts"] == pytest.approx(20.0)
    assert job["passes"] == pytest.approx((1.0 + 1.5) / 100 * 50_000)
    assert job["scoring"] == pytest.approx(20_000 * (2e-7 * 50_000 + 3e-7 * 3904) + 0.5, abs=0.1)
    cosine = runtime_report.metrics(
        made_rounds(), made_pieces(1.0, 10.0), facts() | {"similarity": {"name": "cosine"}}, 1.0
    )["extrapolated"]
    assert cosine["clip_dissect"] == job  # every image counts there too
    text = runtime_report.markdown(metrics, facts())
    for said in (
        "clip_dissect: batches of 32, freed memory kept, plain: batches of 32;",
        "Extrapolated, not measured",
        "15.0 [10.0, 20.0]",
        "Not run here: captioner",
        "- random",
        "Tesla P100",
    ):
        assert said in text
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


def test_pieces_measure_every_size_and_side() -> None:
    sizes = {"images": [20, 30], "units": [4], "concepts": [10]}
    base = {"images": 20, "units": 4, "concepts": 10}
    table = runtime_pieces.scoring(similarity.build("soft_wpmi", top_k=5), sizes, base, 8, 2, True)
    counts = table.groupby(["axis", "side"]).size()
    assert counts["images", "plain"] == 4
    assert set(table.query("axis == 'variants'")["side"]) == {
        "clip_dissect",
        *runtime_pieces.VARIANTS,
    }
    assert (table["seconds"] > 0).all()


def test_groups() -> None:
    register()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose(
            "config",
            overrides=[
                "runtime.methods=[clip_dissect,{name: captioner, model: x}]",
            ],
        )
    assert rounds.groups_of(config.runtime) == [
        {"clip_dissect": "0", "plain": "plain"},
        {"captioner": "1"},
    ]
    config.runtime.methods = ["clip_dissect", "clip_dissect"]
    with pytest.raises(DissectError, match="each once"):
        rounds.groups_of(config.runtime)


@pytest.mark.parametrize(("kept", "expected"), [(False, 4), (True, 16)])
def test_batches_of_the_plain_pipeline_suit_its_memory(
    monkeypatch: pytest.MonkeyPatch, kept: bool, expected: int
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr(rounds, "memory_is_kept", lambda: kept)
    config = OmegaConf.create({"runtime": {"baseline_batch": None}})
    job = rounds.with_baseline_batch(config, Job(settings=Settings(device="cpu")))
    assert job.settings.batch_size == expected


TINY = """
from tiny import LiveNet, preprocess
from clipdissect.targets import Target


def target():
    return Target("tiny", LiveNet(), preprocess(), ("conv",))
"""


def composed(tmp_path: Path, methods: str) -> Any:
    """A config of tiny stand-ins, for this process and others."""
    from tiny_encoders import write_hf

    write_colours(tmp_path / "images")
    (tmp_path / "tiny_target.py").write_text(TINY)
    register()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return compose(
            "config",
            overrides=[
                "target=module",
                "target.factory=tiny_target:target",
                "target.layers=[conv]",
                "probe=folder",
                f"probe.root={tmp_path}/images",
                "concepts=list",
                "concepts.texts=[cat,dog,photo]",
                "encoder=hf",
                f"encoder.model={write_hf(tmp_path / 'clip')}",
                "similarity.top_k=4",
                "images=4",
                "capture.workers=0",
                "capture.device=cpu",
                "runtime.rounds=1",
                "runtime.slice=0.1",
                f"runtime.methods={methods}",
                "runtime.repeats=1",
                "runtime.images=[10,20]",
                "runtime.units=[2,4]",
                "runtime.concepts=[5,10]",
                "runtime.base={images: 10, units: 4, concepts: 10}",
                "runtime.pass_images=[8,1000]",
            ],
        )


@pytest.fixture
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join(map(str, (tmp_path, ROOT / "tests" / "support", ROOT)))
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tiny_target", raising=False)


@pytest.mark.usefixtures("importable")
def test_a_worker_runs_any_method(tmp_path: Path) -> None:
    from test_captioner import write_captioner

    captioner = f"{{name: captioner, model: {write_captioner(tmp_path / 'captions')}}}"
    config = composed(tmp_path, f"[{captioner},{{name: published, path: none.csv}}]")
    do, about = rounds.build_side(config, "0")
    assert about["names"] == {"target": "tiny", "probe": "images"}
    assert about["images"] == 24
    (tmp_path / "store").mkdir()
    first, second = (rounds.timed(do, tmp_path / "store") for _ in range(2))
    assert {"load", "captions", "digests", "decode", "forward"} <= set(first["stages"])
    assert "decode" not in second["stages"]  # from the store
    assert first["units"] == 4
    assert first["ram"] > 1e7
    assert (tmp_path / "store" / "descriptions.csv").is_file()
    do, _ = rounds.build_side(config, "1")
    with pytest.raises(DissectError, match="the file of labels"):
        rounds.timed(do, tmp_path / "store")


@pytest.mark.usefixtures("importable")
def test_the_runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "results_folder", lambda: tmp_path / "run")
    monkeypatch.setattr(parts, "track", lambda *_: None)
    runtime.run(composed(tmp_path, "[clip_dissect]"))
    folder = tmp_path / "run"
    table = pd.read_csv(folder / "runtime.csv")
    assert list(table["method"]) == ["clip_dissect", "plain"] * 2
    assert list(table["store"]) == ["cold"] * 2 + ["warm"] * 2
    assert (table["seconds"] > 0).all()
    assert (table["units"] == 4).all()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["same_descriptions"] == 1.0
    growth = [one for one in metrics["exponents"] if one["axis"] == "pass"]
    assert {one["to"] for one in growth} == {8}  # the probe hasn't more: no slope, and no fault
    assert {one["exponent_reason"] for one in growth} == {"only one size was measured"}
    assert set(metrics["extrapolated"]) == {"clip_dissect", "plain"}
    assert json.loads((folder / "run.json").read_text())["not_run"] == {}
    for name in ("runtime.png", "runtime.pdf", "runtime.md", "pieces.csv"):
        assert (folder / name).stat().st_size > 300
