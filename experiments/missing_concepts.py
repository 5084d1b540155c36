"""Label units whose concept no probe image shows: which get its exact name? (Sec. 4.5, Fig. 4)

study.groups=[dog.n.01,bird.n.01] names any WordNet synsets; each is evaluated on its own. The
probe's labels show whether it lacks them. study.exclude_from_probe=true removes a group's images
from a labelled probe and compares with the full probe. Writes missing_concepts.csv (one
row per unit and setting), metrics.json with intervals and controls, missing_concepts.png and .pdf,
panels of the units with their top images (panels_<group>.png and .pdf) and, last, run.json to
<paths.results>/missing_concepts/<date>_<time>/.
"""

from __future__ import annotations

from typing import Any

from clipdissect.app.launch import launch_study, results_folder


def run(config: Any) -> None:
    import pandas as pd

    from clipdissect.app.studies import missing_concepts as outputs
    from clipdissect.app.studies.base import StudyRun, facts_of
    from clipdissect.datasets import wordnet
    from clipdissect.studies.features import features

    study = StudyRun(config, results_folder(), own_labels=True)
    layer = str(study.truth.layer)
    study.job = study.job_of_layers(layer)
    with study.timers.stage("load"):
        hypernyms = wordnet.installed() or wordnet.packaged()
        outputs.check(study, hypernyms)
    with study.timers.stage("images"):
        captured = features(study.job, [layer])
    with study.timers.stage("study"):
        results = outputs.evaluate(study, captured, hypernyms)
    study.begin()
    outputs.draw(results, study.folder)
    for result in results:
        if study.settings.panels:
            outputs.save_panels(study, captured, result)
        outputs.print_group(result)
    metrics = {"missing_concepts": {result.group: result.metrics for result in results}}
    table = pd.concat([result.table for result in results], ignore_index=True)
    study.save({"missing_concepts": table}, metrics, facts_of(captured))


def main() -> None:
    launch_study(run, "missing_concepts")


if __name__ == "__main__":
    main()
