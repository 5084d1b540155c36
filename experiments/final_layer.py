"""Compare the labels of a last layer, whose units are classes, with the class names (Tables 1, 2).

method=clip_dissect describes the layer itself; method=published_milan method.path=FILE and
others read labels from a file and need neither weights nor images. Writes descriptions.csv,
units.csv (label, truth, rank and cosines of every unit), metrics.json (metrics with intervals and,
where the labels' concept set is known, two controls: the best constant label and random labels),
top_images.csv if there are images, and, last, run.json to
<paths.results>/final_layer/<date>_<time>/, prints a table, and writes report/index.html there.

evaluation.against=[FOLDER] adds paired intervals of the difference to an earlier run.
"""

from __future__ import annotations

from typing import Any

from clipdissect.app.launch import launch, results_folder


def run(config: Any) -> None:
    from clipdissect import method as methods
    from clipdissect.app.build import build_group, track
    from clipdissect.app.evaluation_job import Evaluator, job_and_truth, write_evaluation
    from clipdissect.app.printing import show_evaluation
    from clipdissect.app.reporting import Reporter
    from clipdissect.utils.timing import Timers

    folder, timers = results_folder(), Timers()
    with timers.stage("load"):
        reporter = Reporter.of(config)
        method = build_group(methods.build, config.method)
        job, truth = job_and_truth(config, method)
        if not job.team.leads:
            method.run_worker(job)
            return
        evaluator = Evaluator(config, truth)
    result = method.describe(job)
    with timers.stage("metrics"):
        evaluation = evaluator.evaluate(result, job)
    seconds = result.run["seconds"]
    load = seconds.get("load", 0) + timers.seconds["load"]
    result.run["seconds"] = {**seconds, "load": load, "metrics": timers.seconds["metrics"]}
    result.run.update(evaluator.facts)
    write_evaluation(folder, result, evaluation)
    show_evaluation(evaluation, result.run, folder, units=config.show)
    names = {str(evaluation.rows["layer"].iloc[0]): truth.names}
    reporter.write(folder, result, job, names, next(iter(evaluator.sentences.values()), None))
    track(config, folder, evaluation.metrics, job.probe)  # with the report


def main() -> None:
    launch(run, "final_layer")


if __name__ == "__main__":
    main()
