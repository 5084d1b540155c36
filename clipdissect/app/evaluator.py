"""Evaluate labels of the layer of classes, and write the results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipdissect.app import evaluation_job
from clipdissect.evaluation import ClassLabels, Evaluation, difference, evaluate, places365
from clipdissect.method import Job
from clipdissect.results.result import Result
from clipdissect.results.run_files import begin, write_json, write_table


class Evaluator:
    """The parts of an evaluation besides the labels, built before any image is read."""

    def __init__(self, config: Any, truth: ClassLabels) -> None:
        self.truth = truth
        self.resampling = evaluation_job.resampling_of(config)
        self.earlier = evaluation_job.earlier(config)
        self.scenes = evaluation_job.scenes_of(config)
        self.sentences = evaluation_job.sentences_of(config)

    def evaluate(self, result: Result, job: Job) -> Evaluation:
        """Return the metrics, with paired differences to the earlier runs."""
        texts = result.vocabulary.texts if result.vocabulary else None
        table, device = result.descriptions, job.settings.torch_device
        truth, resampling = self.truth, self.resampling
        evaluation = evaluate(table, truth, texts, self.sentences, job.store, resampling, device)
        if truth.is_places:
            scenes = places365(evaluation.rows, truth.names, self.scenes, resampling)
            evaluation.metrics["places365"] = scenes
        for name, units in self.earlier.items():
            minus = difference(evaluation.units, units, resampling)
            evaluation.metrics["differences"][name] = minus
        return evaluation

    @property
    def facts(self) -> dict[str, Any]:
        truth = self.truth
        digests = {name: getattr(e, "digest", None) for name, e in self.sentences.items()}
        about = {"name": truth.name, "layer": truth.layer, "classes": len(truth.names)}
        return {"truth": about, "sentences": digests}


def write_evaluation(folder: Path, result: Result, evaluation: Evaluation) -> None:
    """Write the tables and metrics, then `run.json`, which marks the run as complete."""
    begin(folder)
    write_table(folder / "descriptions.csv", result.descriptions)
    write_table(folder / "units.csv", evaluation.units.table)
    if len(result.top_images):
        write_table(folder / "top_images.csv", result.top_images)
    write_json(folder / "metrics.json", evaluation.metrics)
    write_json(folder / "run.json", result.run)
