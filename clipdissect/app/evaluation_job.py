"""Build the parts of an evaluation: job, ground truth, sentence encoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from clipdissect import sentence, targets
from clipdissect.app.build import build_job, parameters
from clipdissect.datasets.places365 import scene_labels
from clipdissect.errors import DissectError, MissingResource
from clipdissect.evaluation import (
    ClassLabels,
    Evaluation,
    Resampling,
    Units,
    difference,
    evaluate,
    places365,
)
from clipdissect.evaluation.truth import of_source, of_target
from clipdissect.method import Job, Method
from clipdissect.results.run_files import begin, write_json, write_table
from clipdissect.results.tables import ResultTables
from clipdissect.sentence import SentenceEncoder
from clipdissect.utils.paths import data_places

Sentences = dict[str, SentenceEncoder | MissingResource]


def job_and_truth(config: Any, method: Method) -> tuple[Job, ClassLabels]:
    """Build the job, with the layer of classes as its only layer, and the class names."""
    job = build_job(config, method)
    truth = truth_of(config, job.target)
    if job.target is not None:
        layer = str(truth.layer)
        target = replace(job.target, layers=(layer,))
        job = replace(job, target=target, truth={layer: truth.names})
    return job, truth


def truth_of(config: Any, target: targets.Target | None) -> ClassLabels:
    """Return the classes of `evaluation.truth`, of the target, or implied by its name."""
    source, layer = config.evaluation.truth, config.evaluation.layer
    if source == "auto" and target is not None:
        return of_target(target, layer)
    layer = layer or (target.class_layer if target else None)
    if target is not None and layer is None:
        raise DissectError(
            f"target {target.name} doesn't say which layer's units are classes: set "
            "evaluation.layer"
        )
    options = config.target
    if source == "auto":
        implied = "places365" if "places365" in options.name else "imagenet"
        source = options.get("classes") or implied
    return of_source(source, layer, options.get("categories"))


def sentences_of(config: Any) -> Sentences:
    """Build sentence encoders by name; a missing encoder is replaced by the reason."""
    encoders: Sentences = {}
    for entry in (config.sentence, *config.evaluation.sentences):
        values = {"name": entry} if isinstance(entry, str) else parameters(entry)
        if "name" not in values:
            raise DissectError(f"evaluation.sentences: {values} has no name")
        try:
            encoder = sentence.build(**values)
            encoders[encoder.name] = encoder
        except MissingResource as error:
            name, path = str(values["name"]), values.get("path")
            if name == "clip_text":
                name = str(values.get("encoder", "clip_vit_b16"))
            encoders[Path(path).name if name == "local" and path else name] = error
    return encoders


def resampling_of(config: Any) -> Resampling:
    options = config.evaluation
    return Resampling(options.resamples, options.confidence, options.seed)


def scenes_of(config: Any) -> Sequence[str] | None:
    """Return Broden's scene labels; None if Broden is neither configured nor installed."""
    if config.evaluation.broden:
        return scene_labels(config.evaluation.broden)
    for folder in data_places():
        try:
            return scene_labels(folder / "broden1_224")
        except MissingResource:
            continue
    return None


def earlier(config: Any) -> dict[str, Units]:
    """Read the units of the runs in `evaluation.against`, by folder."""
    units = {}
    for folder in parameters(config.evaluation)["against"]:
        path = Path(folder).expanduser()
        if not (path / "run.json").is_file() or not (path / "units.csv").is_file():
            raise MissingResource(
                "the run to compare with",
                [str((path / "units.csv").absolute())],
                "evaluation.against lists folders of complete runs of final_layer",
            )
        table = pd.read_csv(path / "units.csv", keep_default_na=False, dtype=str)
        if "truth" not in table:
            raise DissectError(
                f"evaluation.against: {path} is no run of final_layer: its units.csv has no column "
                f"truth"
            )
        texts = {"layer", "truth", "description"}
        numbers = {str(c): pd.to_numeric(table[c]) for c in table if c not in texts}
        units[str(folder)] = Units(table.assign(**numbers), {})
    return units


class Evaluator:
    """The parts of an evaluation besides the labels, built before any image is read."""

    def __init__(self, config: Any, truth: ClassLabels) -> None:
        self.truth = truth
        self.resampling = resampling_of(config)
        self.earlier = earlier(config)
        self.scenes = scenes_of(config)
        self.sentences = sentences_of(config)

    def evaluate(self, result: ResultTables, job: Job) -> Evaluation:
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


def write_evaluation(folder: Path, result: ResultTables, evaluation: Evaluation) -> None:
    """Write the tables and metrics, then `run.json`, which marks the run as complete."""
    begin(folder)
    write_table(folder / "descriptions.csv", result.descriptions)
    write_table(
        folder / "units.csv", _with_unit_numbers(evaluation.units.table, result.unit_metrics)
    )
    if len(result.top_images):
        write_table(folder / "top_images.csv", result.top_images)
    write_json(folder / "metrics.json", evaluation.metrics)
    write_json(folder / "run.json", result.run)


def _with_unit_numbers(table: pd.DataFrame, units: pd.DataFrame) -> pd.DataFrame:
    return table if units.empty else table.merge(units, "left", on=["layer", "unit"])
