"""What the studies' runners share: how they start, and how they leave their files."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from clipdissect.app.jobs import Run
from clipdissect.app.launch import launch


def launch_study(run: Run, name: str) -> None:
    """As `launch`, with the config group `study` set to the runner's.

    Args:
        run: does one job.
        name: of the runner, and of the study.
    """
    if not {"--help", "-h"} & set(sys.argv[1:]):
        sys.argv.append(f"study={name}")
    launch(run, name)


def settings(config: Any, method: Any = None) -> Any:
    """The study's settings, after checks that need nothing but the config.

    Args:
        config: the run's.
        method: the method, where the study is of our own labels alone.

    Raises:
        DissectError: several processes, or a method that the study can't take.
    """
    from clipdissect import studies
    from clipdissect.app.build import of_group
    from clipdissect.errors import DissectError
    from clipdissect.utils.distributed import from_environment

    if from_environment().size > 1:
        raise DissectError("the studies run in one process: leave out torchrun")
    if method is not None and method.name != "clip_dissect":
        raise DissectError(
            f"{config.study.name} makes its own labels: leave out method={config.method.name}"
        )
    return of_group(studies.build, config.study)


def job_of(config: Any, method: Any, extra: Collection[str] = ("target",)) -> Any:
    """A method's job, with its target's own layers, and the target's classes.

    Args:
        config: the run's.
        method: whose parts are built.
        extra: groups that the study needs besides; `target` among them.

    Returns:
        The `Job` and the `ClassLabels`.

    Raises:
        DissectError: a mistake in the config, or one message on all that is missing.
    """
    from clipdissect import similarity, tracking
    from clipdissect.app import evaluation_job as judging
    from clipdissect.app.build import build_groups, of_group, settings_of, store_of
    from clipdissect.method import Job

    of_group(tracking.build, config.tracking)  # a mistake there must not wait for the end
    parts: dict[str, Any] = {}
    if "similarity" in method.needs:
        parts["similarity"] = of_group(similarity.build, config.similarity)
    parts |= build_groups(config, {*method.needs, *extra})
    job = Job(settings=settings_of(config), store=store_of(config), top=config.top,
              images=config.images, **parts)  # fmt: skip
    return job, judging.truth_of(config, job.target)


def manifest(features: Any, config: Any, sentences: Mapping[str, Any], seconds: Any) -> Any:
    """JSON-able facts on a run of captured features: what the numbers depend on.

    Args:
        features: of `clipdissect.studies.features`.
        config: the run's.
        sentences: sentence encoders, or why they can't be had, by name.
        seconds: stage to seconds.
    """
    from clipdissect.results.provenance import provenance

    job = features.job
    facts = provenance(job.target, job.probe, job.concepts, job.encoder, job.similarity,
                       job.settings, features.captured)  # fmt: skip
    return completed(facts, config, sentences, seconds)


def completed(
    facts: dict[str, Any], config: Any, sentences: Mapping[str, Any], seconds: Any
) -> dict[str, Any]:
    """Facts with the study's settings, class names, sentence encoders and bootstrap."""
    from dataclasses import asdict

    from clipdissect.app import evaluation_job as judging
    from clipdissect.app.build import parameters

    facts.setdefault("method", {"name": config.method.name})
    return facts | {
        "study": parameters(config.study),
        # As configured: `auto` is the target's own.
        "truth": {"name": config.evaluation.truth, "layer": config.evaluation.layer},
        "sentences": {name: getattr(one, "digest", None) for name, one in sentences.items()},
        "bootstrap": {"kind": "percentile", **asdict(judging.resampling_of(config))},
        "seconds": {**facts.get("seconds", {}), **seconds},
    }


def save(
    config: Any, folder: Path, tables: Mapping[str, Any], metrics: Mapping[str, Any], run: Any,
    probe: Any = None,
) -> None:  # fmt: skip
    """The tables and metrics, then `run.json`, which marks the folder as complete; then track it.

    Figures must lie in the folder already.

    Args:
        config: the run's.
        folder: where to.
        tables: file's name without ending to a table.
        metrics: JSON-able.
        run: of `manifest`.
        probe: for trackers that show top images.
    """
    from clipdissect.app.build import track
    from clipdissect.results.run_files import write_json, write_table

    for name, table in tables.items():
        write_table(folder / f"{name}.csv", table)
    write_json(folder / "metrics.json", metrics)
    write_json(folder / "run.json", run)
    print(f"files: {folder}")
    track(config, folder, metrics, probe)
