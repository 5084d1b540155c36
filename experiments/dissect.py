"""Describe the units of a network's layers, by CLIP-Dissect or another method that needs a network.

sae=auto sae.path=FOLDER sae.layer=LAYER describes the latents of a sparse autoencoder.
method=network_dissection and method=compositional compare units with the masks of a densely
labelled probe (probe=broden, probe=synthetic_broden) and need neither concepts nor an encoder.

Writes descriptions.csv, top_images.csv, metrics.json and, last, run.json to
<paths.results>/dissect/<date>_<time>/, prints a table, and writes report/index.html there. Methods
with an encoder also write units.csv: numbers about units that need no label.
"""

from __future__ import annotations

from typing import Any

from clipdissect.app.launch import ONLY_SCORE, launch, results_folder


def run(config: Any) -> float | None:
    """Run one dissection; return the objective on the tuning half, if set."""
    from clipdissect import evaluation
    from clipdissect.app.build import DissectionJob, track
    from clipdissect.app.printing import show_run
    from clipdissect.app.reporting import Reporter
    from clipdissect.errors import DissectError
    from clipdissect.evaluation import half_split
    from clipdissect.evaluation.vectors import learn_stored
    from clipdissect.report import truth_of
    from clipdissect.results.run_files import begin, write_json, write_tables
    from clipdissect.utils.timing import Timers

    reporter = Reporter.of(config)
    parts = DissectionJob.build(config)
    folder = results_folder()
    if not parts.team.leads:
        parts.run_worker()
        return None
    if config.objective:
        if parts.concepts is None:
            raise DissectError(f"objective={config.objective} needs a method with concepts")
        half_split.check(config.objective, parts.target, parts.concepts, parts.sentences)
    result = parts.dissect()
    begin(folder)
    tables = result.descriptions, result.top_images, result.unit_metrics, result.meanings
    write_tables(folder, *tables, result.vectors)
    timers = Timers()
    with timers.stage("metrics"):
        if config.objective and parts.concepts:
            texts, device = parts.concepts.texts, parts.settings.torch_device
            learn_stored(parts.sentences, texts, parts.store, device)
        metrics = evaluation.metrics(
            result.descriptions,
            parts.target,
            result.vocabulary,
            parts.sentences,
            parts.store,
            result.unit_metrics,
        )
        if config.objective and parts.concepts:
            networks = parts.target, parts.concepts, parts.sentences, parts.store
            metrics["objective"] = half_split.objective(
                config.objective, result.descriptions, *networks, config.objective_seed
            )
    result.run["seconds"] |= timers.seconds
    write_json(folder / "metrics.json", metrics)
    write_json(folder / "run.json", result.run)
    show_run(result, metrics, folder, units=config.show)
    sentences, truth = reporter.sentences(config, parts.sentences), truth_of(parts.target)
    reporter.write(folder, result, parts, truth, sentences)
    track(config, folder, metrics, parts.probe)  # with the report
    return metrics["objective"]["tuning"] if config.objective else None


def main() -> None:
    launch(run, "dissect", unused=ONLY_SCORE)


if __name__ == "__main__":
    main()
