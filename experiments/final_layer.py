"""Judge the labels of a last layer, whose units are classes, against the class names (Tables 1, 2).

method=clip_dissect describes the layer itself; method=published_milan method.path=FILE, and its
like, read labels from a file and need neither weights nor images. Writes descriptions.csv,
units.csv (label, truth, rank and cosines of every unit), metrics.json (metrics with intervals, and,
where it is known what labels were chosen from, two controls: the best constant label and random
ones), top_images.csv where there
are images, and, last, run.json to <paths.results>/final_layer/<date>_<time>/, prints a table, and
makes report/index.html there.

evaluation.against=[FOLDER] adds paired intervals of the difference to an earlier run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipdissect.app.launch import launch, results_folder


def run(config: Any) -> None:
    """One evaluation as configured."""
    from clipdissect import method as methods
    from clipdissect.app import evaluation_job
    from clipdissect.app.build import of_group, track
    from clipdissect.app.print_evaluation import show
    from clipdissect.app.reporting import Reporter
    from clipdissect.utils.timing import Timers

    folder, stages = results_folder(), Timers()
    with stages.stage("load"):
        reporter = Reporter.of(config)
        method = of_group(methods.build, config.method)
        job, truth = evaluation_job.job_and_truth(config, method)
        if not job.team.leads:
            method.run_worker(job)
            return
        ready = (
            evaluation_job.resampling_of(config),
            evaluation_job.earlier(config),
            evaluation_job.scenes_of(config),
        )
        sentences = evaluation_job.sentences_of(config)
    result = method.describe(job)
    with stages.stage("metrics"):
        found = _judge(result, job, truth, sentences, ready)
    seconds = result.run["seconds"]
    result.run["seconds"] = {**seconds, "load": seconds.get("load", 0) + stages.seconds["load"],
                             "metrics": stages.seconds["metrics"]}  # fmt: skip
    result.run["truth"] = {"name": truth.name, "layer": truth.layer, "classes": len(truth.names)}
    result.run["sentences"] = {
        name: getattr(encoder, "digest", None) for name, encoder in sentences.items()
    }
    _write(folder, result, found)
    show(found, result.run, folder, units=config.show)
    reporter.write(
        folder, result, job.target, job.probe, job.settings, job.store,
        {str(found.rows["layer"].iloc[0]): truth.names}, next(iter(sentences.values()), None),
    )  # fmt: skip
    track(config, folder, found.metrics, job.probe)  # with the report


def main() -> None:
    """Entry point of `python -m experiments.final_layer` and `clipdissect final_layer`."""
    launch(run, "final_layer")


def _judge(result: Any, job: Any, truth: Any, sentences: Any, ready: Any) -> Any:
    from clipdissect.evaluation import difference, evaluate, places365

    how, earlier, scenes = ready
    concepts = result.vocabulary.texts if result.vocabulary else None
    found = evaluate(result.descriptions, truth, concepts, sentences, job.store, how,
                     job.settings.torch_device)  # fmt: skip
    if truth.is_places:
        found.metrics["places365"] = places365(found.rows, truth.names, scenes, how)
    for name, units in earlier.items():
        found.metrics["differences"][name] = difference(found.units, units, how)
    return found


def _write(folder: Path, result: Any, found: Any) -> None:
    """The tables, then `run.json`, which marks the folder as complete."""
    from clipdissect.results.run_files import begin, write_json, write_table

    begin(folder)
    write_table(folder / "descriptions.csv", result.descriptions)
    write_table(folder / "units.csv", found.units.table)
    if len(result.top_images):
        write_table(folder / "top_images.csv", result.top_images)
    write_json(folder / "metrics.json", found.metrics)
    write_json(folder / "run.json", result.run)


if __name__ == "__main__":
    main()
