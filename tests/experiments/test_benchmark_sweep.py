"""The benchmark of multiruns, and what the jobs of one process share."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from hydra import compose, initialize_config_dir
from tiny import write_colours
from tiny_encoders import write_hf

from clipdissect import dissection
from clipdissect.app import build
from clipdissect.app.help import conf_folder
from clipdissect.app.schema import register
from clipdissect.capture.text_embeddings import text_embeddings
from clipdissect.evaluation.vectors import learn_stored, vectors
from clipdissect.results import layer_summaries
from clipdissect.sentence import CachedSentenceEncoder
from clipdissect.store import Store

TINY = """
from tiny import LiveNet, preprocess
from clipdissect.targets import Target


def target():
    return Target("tiny", LiveNet(), preprocess(), ("conv", "relu"))
"""


def overrides(folder: Path) -> list[str]:
    """A config of tiny networks and images below a folder, whose module must be importable."""
    write_colours(folder / "images")
    (folder / "tiny_sweep.py").write_text(TINY)
    return [
        "target=module",
        "target.factory=tiny_sweep:target",
        "target.layers=[conv,relu]",
        "probe=folder",
        f"probe.root={folder}/images",
        "concepts=list",
        "concepts.texts=[cat,dog,photo]",
        "encoder=hf",
        f"encoder.model={write_hf(folder / 'clip')}",
        "similarity.top_k=4",
        "images=4",
        "capture.workers=0",
        "capture.device=cpu",
    ]


def test_the_script_prints_seconds_and_their_ratio(tmp_path: Path) -> None:
    given = [*overrides(tmp_path), f"paths.store={tmp_path / 'store'}"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "benchmark_sweep"), "--jobs", "3", *given],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'support'}:{tmp_path}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, rest = done.stdout.splitlines()
    assert re.fullmatch(r"first job: [\d.]+ s, scoring [\d.]+ s", first)
    found = re.match(r"next 2 jobs: ([\d.]+) s a job, scoring ([\d.]+) s; ratio ([\d.]+)", rest)
    assert found
    job, scoring, ratio = map(float, found.groups())
    assert 0 < scoring < job
    assert ratio == pytest.approx(job / scoring, rel=0.5)  # of rounded milliseconds


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function from overrides to a job's parts, all of one process with empty memories."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tiny_sweep", raising=False)
    monkeypatch.setattr(build, "_parts", {name: build.Memo(2) for name in build._parts})
    monkeypatch.setattr(build, "_features", build.Memo(2))
    monkeypatch.setattr(layer_summaries, "_summaries", build.Memo(16))
    given = [*overrides(tmp_path), f"paths.store={tmp_path / 'store'}"]
    register()

    def job(*changes: str) -> build.DissectionJob:
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            return build.DissectionJob.build(compose("config", [*given, *changes]))

    return job


def test_jobs_share_parts_with_equal_parameters(jobs: Any) -> None:
    first, second, other = jobs(), jobs("similarity.top_k=3"), jobs("concepts.texts=[cat,dog]")
    for part in ("target", "probe", "encoder", "concepts"):
        assert getattr(first, part) is getattr(second, part)
    assert other.concepts.texts == ("cat", "dog")
    assert first.similarity.top_k != second.similarity.top_k


def test_a_probe_is_listed_again_after_a_change(jobs: Any, tmp_path: Path) -> None:
    before = jobs().probe
    image = tmp_path / "images" / "red0.png"
    image.write_bytes((tmp_path / "images" / "blue1.png").read_bytes())
    changed = jobs().probe
    assert changed.digest != before.digest
    image.unlink()
    assert len(jobs().probe) == len(changed) - 1


def test_stored_features_are_captured_once(
    jobs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipdissect.store import shards

    monkeypatch.setattr(shards, "SETTLED_S", 0.0)
    calls = []
    plain = dissection.capture
    monkeypatch.setattr(dissection, "capture", lambda *a, **k: calls.append(a) or plain(*a, **k))
    results = [jobs(f"similarity.top_k={k}").dissect() for k in (4, 3, 2)]
    assert len(calls) == 1
    assert [bool(result.run["computed"]) for result in results] == [True, False, False]
    assert results[0].top_images.equals(results[2].top_images)
    alone = jobs("similarity.top_k=2", f"paths.store={tmp_path / 'other'}").dissect()
    assert alone.descriptions.equals(results[2].descriptions)
    assert json.dumps(alone.run["digests"]) == json.dumps(results[2].run["digests"])


def test_damaged_features_are_computed_again(
    jobs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipdissect.store import shards

    monkeypatch.setattr(shards, "SETTLED_S", 0.0)
    expected = [jobs().dissect(), jobs().dissect()][1].descriptions
    for path in (tmp_path / "store").rglob("*.safetensors"):
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    result = jobs().dissect()
    assert result.run["computed"]
    assert result.descriptions.equals(expected)
    for path in (tmp_path / "store").rglob("*.safetensors"):
        path.unlink()
    assert jobs().dissect().descriptions.equals(expected)


def test_a_search_takes_its_labels_embeddings_from_the_store(tmp_path: Path) -> None:
    texts, calls = ["cat", "dog", "photo"], []

    class Encoder:
        name, digest = "own", "0123"

        def embed(self, some: Any, device: str = "cpu") -> torch.Tensor:
            calls.append(list(some))
            return torch.tensor([[float(len(text)), 1.0] for text in some])

    store = Store(tmp_path)
    sentences: Any = CachedSentenceEncoder(Encoder())  # type: ignore[arg-type]
    learn_stored(sentences, texts, store)  # absent: nothing is computed
    assert calls == []
    text_embeddings(Encoder().embed, "0123", texts, store)
    learn_stored(sentences, texts, store)
    found = vectors(sentences, [["dog", "photo"]], store)
    assert calls == [texts]
    assert found.of(["photo"]).tolist() == [[5.0, 1.0]]
