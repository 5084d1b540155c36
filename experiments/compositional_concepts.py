"""Describe units by phrases of their best concepts (Sec. 4.6, Fig. 5), and test the gain.

Candidates per unit: ordered pairs of its study.words best concepts in study.templates and, with
study.length=3 or more, longer phrases by beam search. Words and phrases are scored against the same
set, the concepts, unless study.normaliser=candidates. On the layer of classes the phrases are
compared with the words by sentence cosine, with paired intervals over all units, and with two
controls: the two best words joined, and two of the unit's words drawn at random. Writes
compositional_concepts.csv, metrics.json, compositional_concepts_<encoder>.png and .pdf of a layer
of classes, panels_<layer>.png and .pdf and, last, run.json to
<paths.results>/compositional_concepts/<date>_<time>/.
"""

from __future__ import annotations

from typing import Any

from clipdissect.app.launch import launch_study, results_folder


def run(config: Any) -> None:
    import pandas as pd

    from clipdissect.app.studies import compositional_concepts as outputs
    from clipdissect.app.studies.base import StudyRun, facts_of
    from clipdissect.studies.features import features

    study = StudyRun(config, results_folder(), own_labels=True)
    with study.timers.stage("images"):
        captured = features(study.job, study.job.target.layers)
    tables, metrics = [], {}
    study.begin()
    for layer in study.job.target.layers:
        with study.timers.stage(f"search {layer}"):
            table, metrics[layer] = outputs.search_layer(study, captured, layer)
        if layer == study.truth.layer:
            with study.timers.stage("metrics"):
                metrics[layer]["judged"] = outputs.evaluate(study, table)
            outputs.draw(metrics[layer]["judged"], study.folder)
        outputs.print_layer(layer, metrics[layer])
        tables.append(table)
        if study.settings.panels:
            outputs.save_panels(study, captured, table, layer)
    table = pd.concat(tables, ignore_index=True)
    name = "compositional_concepts"
    study.save({name: table}, {name: metrics}, facts_of(captured))


def main() -> None:
    launch_study(run, "compositional_concepts")


if __name__ == "__main__":
    main()
