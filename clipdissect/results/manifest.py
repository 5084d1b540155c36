"""The run manifest: everything that a result depends on."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from copy import deepcopy
from datetime import datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from clipdissect._version import __version__
from clipdissect.capture.features import CapturedFeatures
from clipdissect.capture.sae_fit import SaeFit
from clipdissect.capture.settings import Settings
from clipdissect.concepts import Concepts
from clipdissect.encoder import Encoder
from clipdissect.probe import Probe
from clipdissect.similarity import Similarity
from clipdissect.targets import Target

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "open_clip_torch",
    "sentence-transformers",
    "numpy",
    "pandas",
    "pillow",
    "scipy",
    "numba",
)
REPOSITORY = Path(__file__).parents[2]


def environment() -> dict[str, Any]:
    """Return date, versions, machine and Git state: the head of every manifest."""
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": dict(_loaded_versions()),
        "machine": machine(),
        "git": deepcopy(_loaded_git_state()),
    }


def run_manifest(
    target: Target,
    probe: Probe,
    settings: Settings,
    *,
    images_used: int,
    skipped: Mapping[str, str],
    notes: Iterable[str],
    digests: Mapping[str, Any],
    computed: Iterable[str],
    fits: Mapping[str, SaeFit],
    **facts: Any,
) -> dict[str, Any]:
    """Return the JSON-able manifest of a run of a target on a probe, with further `facts`."""
    saes = {layer: sae.description for layer, sae in target.saes.items()}
    for layer, fit in fits.items():
        saes[layer]["fit"] = fit.facts
    return {
        **environment(),
        "target": target.facts,
        **({"saes": saes} if saes else {}),
        "probe": {
            "name": probe.name,
            "images": len(probe),
            "used": images_used,
            "skipped": dict(skipped),
        },
        **facts,
        "precision": settings.numeric,
        "notes": list(notes),
        "digests": dict(digests),
        "computed": list(computed),
    }


def provenance(
    target: Target,
    probe: Probe,
    concepts: Concepts,
    encoder: Encoder,
    similarity: Similarity,
    settings: Settings,
    captured: CapturedFeatures,
) -> dict[str, Any]:
    return run_manifest(
        target,
        probe,
        settings,
        images_used=len(captured.images),
        skipped=captured.skipped,
        notes=[
            *target.notes,
            *encoder.notes,
            *similarity.notes,
            *probe.notes,
            *captured.notes,
        ],
        digests={**captured.digests, "concepts": concepts.digest},
        computed=captured.computed,
        fits=captured.fits,
        concepts={
            "name": concepts.name,
            "texts": len(concepts),
            "dropped": {reason: list(texts) for reason, texts in concepts.dropped.items()},
        },
        encoder=encoder.name,
        similarity={"name": similarity.name, **similarity.parameters},
        summary={"kind": settings.summary.kind, "layout": settings.summary.layout},
        readings={
            layer: {"rule": reading.describe(), **reading.facts}
            for layer, reading in captured.readings.items()
        },
    )


def versions() -> dict[str, str]:
    result = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "clipdissect": __version__,
    }
    for package in PACKAGES:
        try:
            result[package] = version(package)
        except PackageNotFoundError:
            continue
    return result


# A process runs the code that it loaded first, whatever is installed or edited later.
_loaded_versions = cache(versions)
_loaded_git_state = cache(lambda: git_state())


def machine() -> dict[str, Any]:
    """Return the usable cores, torch's threads, and the GPUs' names."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    return {
        "cores": len(usable) if usable else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(gpu) for gpu in range(torch.cuda.device_count())],
    }


def git_state(root: Path = REPOSITORY) -> dict[str, Any] | None:
    """Return commit and dirty state (without results/); None if `root` isn't its top."""
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root.resolve():
        return None  # installed, perhaps inside another repository
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return None
    # Results are excluded: writing them again does not change the code.
    status = _git(root, "status", "--porcelain", "-uno", "--", ".", ":(exclude)results")
    return {"commit": commit, "changed": None if status is None else bool(status)}


def _git(root: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
