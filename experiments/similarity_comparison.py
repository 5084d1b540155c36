"""Compare similarity functions on several probes by the layer of classes (Table 3).

Compares the labels of every function, probe and concept set of `comparison` with the class names,
with intervals over units and the paired difference to the best function. Features are
computed once. With comparison.top_k=[5,20] it also tunes each function that has a top_k on half
of the units, and evaluates the best and the default on the held-out half.
Writes comparison.csv, comparison.md, comparison.png and .pdf, metrics.json and, last, run.json to
<paths.results>/similarity_comparison/<date>_<time>/.
"""

from __future__ import annotations

from typing import Any

from clipdissect.app.launch import ONLY_DISSECT, launch, results_folder

# Groups that the runner doesn't read, and their replacements.
UNUSED = {
    **ONLY_DISSECT,
    "probe": "add '+comparison.probes.NAME={name: folder, root: /path}', once for each probe",
    "concepts": "set 'comparison.concepts=[google_20k, imagenet]'",
    "method": "it compares similarity functions of clip_dissect",
    "evaluation.against": "use final_layer, or clipdissect compare",
    "evaluation.sentences": "set sentence=NAME, the one that it judges by",
}


def run(config: Any) -> None:
    from clipdissect.app.build import track
    from clipdissect.app.comparison import table as outputs
    from clipdissect.app.comparison.cells import Comparison
    from clipdissect.results.run_files import begin, write_json, write_table
    from clipdissect.utils.files import write_text
    from clipdissect.utils.timing import Timers

    folder, timers = results_folder(), Timers()
    with timers.stage("load"):
        comparison = Comparison(config)
    with timers.stage("scores"):
        cells = list(comparison.cells())
    with timers.stage("metrics"):
        unions = outputs.overlapping_unions(comparison.probes)
        scores = outputs.table(cells, comparison.resampling, unions)
    begin(folder)
    write_table(folder / "comparison.csv", scores)
    text = outputs.markdown(scores, config.similarity.name)
    write_text(folder / "comparison.md", text)
    outputs.figure(scores, folder)
    write_json(folder / "metrics.json", outputs.metrics(scores))
    write_json(folder / "run.json", comparison.manifest(timers.seconds))
    print(text, f"files: {folder}", sep="\n")
    track(config, folder, outputs.tracked(scores))


def main() -> None:
    launch(run, "similarity_comparison", UNUSED)


if __name__ == "__main__":
    main()
