"""Build a study from its config, and write its files."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clipdissect import studies
from clipdissect.app.build import build_group, build_job, parameters, track
from clipdissect.app.evaluation_job import resampling_of, truth_of
from clipdissect.app.launch import launch_study
from clipdissect.errors import DissectError
from clipdissect.results.manifest import provenance
from clipdissect.results.run_files import write_json, write_table
from clipdissect.utils.distributed import from_environment

__all__ = ["completed", "job_of", "launch_study", "manifest", "save", "settings"]


def settings(config: Any, method: Any = None) -> Any:
    """Build the study's settings; refuse several processes and other labels than our own."""
    if from_environment().size > 1:
        raise DissectError("the studies run in one process: leave out torchrun")
    if method is not None and method.name != "clip_dissect":
        raise DissectError(
            f"{config.study.name} makes its own labels: leave out method={config.method.name}"
        )
    return build_group(studies.build, config.study)


def job_of(config: Any, method: Any, extra: Collection[str] = ("target",)) -> Any:
    """Return a method's `Job` with the target's layers and `extra` groups, and the classes."""
    job = build_job(config, method, extra)
    return job, truth_of(config, job.target)


def manifest(features: Any, config: Any, sentences: Mapping[str, Any], seconds: Any) -> Any:
    """Return `run.json` of captured features; a missing sentence encoder is its reason."""
    job = features.job
    parts = (job.target, job.probe, job.concepts, job.encoder, job.similarity, job.settings)
    return completed(provenance(*parts, features.captured), config, sentences, seconds)


def completed(
    facts: dict[str, Any], config: Any, sentences: Mapping[str, Any], seconds: Any
) -> dict[str, Any]:
    """Add the study's settings, class names, sentence encoders and bootstrap to a manifest."""
    study = {
        "study": parameters(config.study),
        # As configured: `auto` is the target's own.
        "truth": {"name": config.evaluation.truth, "layer": config.evaluation.layer},
        "sentences": {name: getattr(e, "digest", None) for name, e in sentences.items()},
        "bootstrap": {"kind": "percentile", **asdict(resampling_of(config))},
        "seconds": {**facts.get("seconds", {}), **seconds},
    }
    return {**facts, "method": facts.get("method", {"name": config.method.name}), **study}


def save(
    config: Any,
    folder: Path,
    tables: Mapping[str, Any],
    metrics: Mapping[str, Any],
    run: Any,
    probe: Any = None,
) -> None:
    """Write tables by file stem, metrics and, last, `run.json`, and track the complete run."""
    for name, table in tables.items():
        write_table(folder / f"{name}.csv", table)
    write_json(folder / "metrics.json", metrics)
    write_json(folder / "run.json", run)
    print(f"files: {folder}")
    track(config, folder, metrics, probe)
