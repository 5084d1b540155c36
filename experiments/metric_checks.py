"""Check which metrics of labels notice wrong labels, on ideal units and on a network's.

A metric passes if almost every unit's score falls when half of the labels of its concept are
removed, and when as many are added. Checks NeuronEval's metrics and the similarity functions. The
probe needs classes or masks; no encoder is used. A unit's concept is its class, in the target's
layer of classes on a probe with classes, else the one with the largest IoU. Writes checks.csv,
checks.md, checks.png and .pdf, metrics.json and, last, run.json to
<paths.results>/metric_checks/<date>_<time>/, and prints a table.
"""

from __future__ import annotations

from typing import Any

from clipdissect.app.launch import ONLY_DISSECT, launch, results_folder

# Groups that the runner doesn't read, and their replacements.
_NO_DESCRIPTIONS = "it describes no units, and takes the concepts of the probe's labels"
_DESCRIPTIONS = ("concepts", "encoder", "method", "sentence", "null_similarity", "top", "show")
UNUSED = {
    **ONLY_DISSECT,
    **dict.fromkeys((*_DESCRIPTIONS, "images", "report", "study"), _NO_DESCRIPTIONS),
    **dict.fromkeys(("comparison", "runtime"), "these are settings of the runner of that name"),
    "similarity": "set 'checks.metrics=[similarity.soft_wpmi]'; top_k is set by the probe's size",
    "evaluation": "set checks.seed, checks.alphas and others",
}


def run(config: Any) -> None:
    from clipdissect.app.build import save
    from clipdissect.app.metric_checks import Checks, figure, markdown, metrics, show
    from clipdissect.results.run_files import begin
    from clipdissect.utils.files import write_text
    from clipdissect.utils.timing import Timers

    folder, timers = results_folder(), Timers()
    with timers.stage("load"):
        checks = Checks.of(config)
    with timers.stage("images"):
        checks.capture()
    with timers.stage("ideal units"):
        theoretical = checks.theoretical()
    with timers.stage("layers"):
        experimental = checks.experimental()
    begin(folder)
    write_text(folder / "checks.md", markdown(theoretical, experimental))
    figure(theoretical, experimental, folder)
    show(theoretical, experimental)
    table = checks.table(theoretical, experimental)
    run = checks.manifest(timers.seconds)
    save(config, folder, {"checks": table}, metrics(theoretical, experimental), run)


def main() -> None:
    launch(run, "metric_checks", UNUSED)


if __name__ == "__main__":
    main()
