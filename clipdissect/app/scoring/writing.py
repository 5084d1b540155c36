"""Write a score run's files, those of a complete run of its labels among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from clipdissect.app.scoring.job import ScoringJob
from clipdissect.app.scoring.output import markdown
from clipdissect.results.describe import top_images_of_layer
from clipdissect.results.histograms import histograms
from clipdissect.results.manifest import run_manifest
from clipdissect.results.run_files import begin, write_json, write_table, write_tables
from clipdissect.results.tables import ResultTables
from clipdissect.scores.held_out import HeldOut
from clipdissect.scores.scoring import Labels, Scored
from clipdissect.scores.splits import write_split
from clipdissect.utils.files import write_text


def write(
    folder: Path,
    job: ScoringJob,
    scored: Scored,
    held_out: HeldOut,
    metrics: Mapping[str, Any],
    seconds: Mapping[str, float],
) -> ResultTables:
    """Write tables, split and metrics, then `run.json`; return the first labels' result."""
    result = _result(job, scored.labels[0], held_out)
    result.run["scores"] = facts_of(job, scored, held_out)
    result.run["notes"] = _notes(result.run["notes"], scored)
    result.run["seconds"] = dict(seconds)
    begin(folder)
    tables = result.descriptions, result.top_images, result.unit_metrics, result.meanings
    write_tables(folder, *tables, result.vectors)
    for name, table in scored.tables().items():
        write_table(folder / f"{name}.csv", table)
    write_text(folder / "scores.md", markdown(metrics))
    scored.confidences.write(folder)
    write_split(folder, job.probe.images, job.split)
    write_json(folder / "metrics.json", metrics)
    write_json(folder / "run.json", result.run)
    return result


def _result(job: ScoringJob, labels: Labels, held_out: HeldOut) -> ResultTables:
    layers = held_out.target.layers
    table = labels.descriptions
    table = table[table["layer"].isin(layers)].reset_index(drop=True)
    if labels.result is not None:
        return replace(labels.result, descriptions=table)
    features, settings = held_out.features, held_out.settings
    count, names = job.job.images, features.images
    activations = {layer: features.activations[layer] for layer in layers}
    top_images = [top_images_of_layer(n, a, names, count) for n, a in activations.items()]
    run = run_manifest(
        held_out.target,
        held_out.probe,
        settings,
        images_used=len(features.images),
        skipped=features.skipped,
        notes=[*held_out.target.notes, *held_out.probe.notes, *features.notes],
        digests=features.digests,
        computed=features.computed,
        fits=features.fits,
    )
    of_layers = {layer: histograms(a) for layer, a in activations.items()}
    return ResultTables(table, pd.concat(top_images, ignore_index=True), run, of_layers)


def _notes(own: Sequence[str], scored: Scored) -> list[str]:
    """Return the notes of the run, of the labels and of the scorers, each once."""
    of_labels = [labels.note for labels in scored.labels if labels.note]
    of_scorers = [note for scorer in scored.scorers for note in scorer.facts.get("notes", ())]
    return list(dict.fromkeys([*own, *of_labels, *of_scorers]))


def facts_of(job: ScoringJob, scored: Scored, held_out: HeldOut) -> dict[str, Any]:
    """Return what was scored, on which images and by which scorers, for a manifest."""
    rows = {"fit": held_out.fit, "validate": held_out.validate, "test": held_out.test}
    return {
        "of": {s.name: "anew" if s.result else "given" for s in scored.labels},
        "digests": {source.name: source.digests for source in job.sources},
        "images": {name: len(part) for name, part in rows.items()},
        "split": job.config.scorer.split or {"seed": job.config.scorer.seed},
        "scorers": {scorer.name: scorer.facts for scorer in scored.scorers},
        "not_scored": scored.not_scored,
    }
