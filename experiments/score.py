"""Score descriptions by what they predict on images that they weren't made from.

clipdissect score run=results/dissect/RUN
clipdissect score run=RUN against=[OTHER,labels.csv] scores=[simulation,cosy] scorer.encoder=NAME

The target, the images and the method are those of the run; options change them. The labels are
made anew from 70 % of the images and scored on 20 %, next to a constant label, random labels and
labels shuffled among the units. Writes descriptions.csv, scores.csv (and against.csv),
metrics.json, split.csv, a figure and, last, run.json to <paths.results>/score/<date>_<time>/,
prints a table, and writes report/index.html there.
"""

from __future__ import annotations

from typing import Any

from clipdissect.app.launch import launch, results_folder


def run(config: Any) -> None:
    from clipdissect.app.build import track
    from clipdissect.app.reporting import Reporter
    from clipdissect.app.scoring.job import ScoringJob
    from clipdissect.app.scoring.output import draw, show_scores
    from clipdissect.app.scoring.writing import write
    from clipdissect.report import truth_of
    from clipdissect.scores.scoring import score_labels
    from clipdissect.utils.timing import Timers

    folder, timers = results_folder(), Timers()
    with timers.stage("load"):
        job = ScoringJob.build(config)
        config = job.config
        reporter, options = Reporter.of(config), job.options()
    with timers.stage("labels"):
        labels = job.labels()
    with timers.stage("images"):
        held_out = job.held_out(labels)
    with timers.stage("scores"):
        scored = score_labels(labels, held_out, options)
    with timers.stage("metrics"):
        metrics = scored.metrics()
    result = write(folder, job, scored, held_out, metrics, timers.seconds)
    draw(metrics, folder)
    show_scores(metrics, result.run["notes"], folder)
    reporter.write(folder, result, job.job, truth_of(held_out.target), None)
    track(config, folder, metrics, job.probe)


def main() -> None:
    launch(run, "score", unused={"objective": "only dissect has one"})


if __name__ == "__main__":
    main()
