"""What a result depends on: versions, digests, parameters, and the state of the code."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from clipdissect._version import __version__
from clipdissect.capture.features import CapturedFeatures
from clipdissect.capture.settings import Settings
from clipdissect.concepts import Concepts
from clipdissect.encoder import Encoder
from clipdissect.probe import Probe
from clipdissect.similarity import Similarity
from clipdissect.targets import Target

PACKAGES = ("torch", "torchvision", "timm", "open_clip_torch", "sentence-transformers", "numpy",
            "pandas", "pillow", "scipy", "numba")  # fmt: skip


def provenance(
    target: Target, probe: Probe, concepts: Concepts, encoder: Encoder, similarity: Similarity,
    settings: Settings, captured: CapturedFeatures,
) -> dict[str, Any]:  # fmt: skip
    """JSON-able facts on a run."""
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": versions(),
        "machine": machine(),
        "git": git_state(Path(__file__).parents[2]),
        "target": target.facts,
        "probe": {"name": probe.name, "images": len(probe), "used": len(captured.images),
                  "skipped": captured.skipped},
        "concepts": {"name": concepts.name, "texts": len(concepts),
                     "dropped": {why: list(texts) for why, texts in concepts.dropped.items()}},
        "encoder": encoder.name,
        "similarity": {"name": similarity.name, **similarity.parameters},
        "summary": {"kind": settings.summary.kind, "layout": settings.summary.layout},
        "readings": {layer: {"rule": reading.describe(), **reading.facts}
                     for layer, reading in captured.readings.items()},
        "precision": settings.numeric,
        "notes": [*target.notes, *encoder.notes, *probe.notes, *captured.notes],
        "digests": {**captured.digests, "concepts": concepts.digest},
        "computed": list(captured.computed),
    }  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of Python, the platform, this project and what its numbers come from."""
    found = {"python": platform.python_version(), "platform": platform.platform(),
             "clipdissect": __version__}  # fmt: skip
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Cores that this process may use, its threads of torch, and the GPUs' names."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    gpus = range(torch.cuda.device_count())
    return {
        "cores": len(usable) if usable else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(gpu) for gpu in gpus],
    }


def git_state(root: Path) -> dict[str, Any] | None:
    """Commit of the repository whose top is `root`, and whether code differs from it; or None.

    Results that are tracked may differ: a run that writes them again is no change of the code.
    """
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root.resolve():
        return None  # installed, perhaps inside somebody else's repository
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return None
    status = _git(root, "status", "--porcelain", "-uno", "--", ".", ":(exclude)results")
    return {"commit": commit, "changed": None if status is None else bool(status)}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
