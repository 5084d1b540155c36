"""A run on stored features builds no network, also in another process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import sae_files
from conftest import ROOT
from sealed import START
from test_cli import NO_NETWORK
from tiny import write_colours
from tiny_encoders import write_hf

# Without and with an autoencoder.
SCRIPT = (
    f"{START}\nfrom clipdissect import Settings, dissect\n"
    + """
name = sys.argv.pop(1)
for sae in (None, {"layer4": "sae"}):
    result = dissect(
        {"name": "timm", "model": "test_resnet", "weights": "random"},
        ["layer1", "layer4"],
        probe="images",
        concepts=["cat", "dog", "caf\\u00e9", "a " * 40],
        encoder={"name": "hf", "model": "encoder"},
        similarity={"name": "soft_wpmi", "top_k": 3},
        sae=sae,
        store="store",
        settings=Settings(device="cpu"),
    )
    print(result.run["computed"], result.run["notes"])
    result.descriptions.to_csv(f"{name}-{'latents' if sae else 'neurons'}.csv")
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


def test_the_library(tmp_path: Path) -> None:
    write_colours(tmp_path / "images", shades=4)
    write_hf(tmp_path / "encoder")
    sae_files.saelens(tmp_path / "sae", tensors=sae_files.weights(96, 40))
    run(tmp_path, SCRIPT, "free", "first")
    said = run(tmp_path, SCRIPT, "sealed", "second")
    assert [line[:2] for line in said.splitlines() if line.startswith("[")] == ["[]", "[]"]
    assert said.count("1 of 4 texts are longer than") >= 2
    for units in ("neurons", "latents"):
        first, second = (tmp_path / f"{name}-{units}.csv" for name in ("first", "second"))
        assert ("layer4{sae}" in first.read_text("utf-8")) == (units == "latents")
        assert first.read_bytes() == second.read_bytes()
