"""Tell an image's class from the description of the unit behind its prediction (appendix A.6).

For every labelled image of the probe, the unit of study.layer with the largest contribution (weight
times activation) to the class that study.into predicts; the class whose name is most similar to
the unit's description; and how often that is the image's class, and the predicted one. With
method=published_clip_dissect method.path=FILE and its like, for published labels. Writes
class_from_descriptions.csv (a row an image), metrics.json, class_from_descriptions.png and .pdf,
panels.png and .pdf and, last, run.json to <paths.results>/class_from_descriptions/<date>_<time>/.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from clipdissect.app.launch import results_folder
from clipdissect.app.print_evaluation import number, with_interval
from clipdissect.app.study_job import launch_study

PARTS = ("target", "probe", "encoder", "concepts")


def run(config: Any) -> None:
    """One study as configured."""
    from clipdissect import method, similarity
    from clipdissect.app import evaluation_job
    from clipdissect.app import study_job as studying
    from clipdissect.app.build import of_group
    from clipdissect.evaluation.vectors import Vectors
    from clipdissect.results.run_files import begin
    from clipdissect.studies import class_from_descriptions as library
    from clipdissect.studies import weight_similarity as weighing
    from clipdissect.studies.features import features
    from clipdissect.studies.numbers import embedded
    from clipdissect.utils.timing import Timers
    from experiments.weight_similarity import rows_of_layer

    folder, stages = results_folder(), Timers()
    with stages.stage("load"):
        study = studying.settings(config)
        chosen = of_group(method.build, config.method)
        job, truth = studying.job_of(config, chosen, PARTS)
        job = replace(job, similarity=of_group(similarity.build, config.similarity))
        into = study.into or str(truth.layer)
        layer = weighing.feeding_layer(job.target, into, study.layer)
        weights = weighing.linear_weights(job.target.model, into)
        _check(job, weights, into, truth.names)
        sentences, how = evaluation_job.sentences_of(config), evaluation_job.resampling_of(config)
    with stages.stage("images"):
        found = features(job, list(dict.fromkeys([layer, into])))
    result = chosen.describe(replace(job, target=replace(job.target, layers=(layer,))))
    with stages.stage("study"):
        rows = rows_of_layer(result.descriptions, weights, layer, into)
        images = _Images(found, weights, layer, into, rows, truth.names)
        cosines = embedded(sentences, (truth.names, images.labels), job.store,
                           job.settings.torch_device)  # fmt: skip
        nearest = {name: library.nearest_classes(v, images.labels, truth.names)
                   for name, v in cosines.items() if isinstance(v, Vectors)}  # fmt: skip
        judged = {name: library.measured(images.units, own, images.truth, images.predicted, study,
                                         how) for name, own in nearest.items()}  # fmt: skip
    metrics = {"layer": layer, "into": into, "images": len(images.names),
               "accuracy": float((images.truth == images.predicted).mean()),
               "chance": 1 / len(truth.names), "units_used": len(set(images.units.tolist())),
               **judged}  # fmt: skip
    metrics |= {name: {"reason": v} for name, v in cosines.items() if isinstance(v, str)}
    table = library.table(images.names, images.truth, images.predicted, images.units,
                          images.labels, nearest, truth.names)  # fmt: skip
    begin(folder)
    _show(metrics, judged)
    _figure(judged, metrics, folder)
    if study.panels:
        _panels(table, found, layer, study, folder)
    captured = studying.manifest(found, config, sentences, {})
    facts = _facts(captured, chosen, result.run, job.encoder.notes)
    run = studying.completed(facts, config, sentences, stages.seconds)
    tables = {"class_from_descriptions": table, "descriptions": rows}
    studying.save(config, folder, tables, {"class_from_descriptions": metrics}, run, job.probe)


def _check(job: Any, weights: Any, into: str, names: Any) -> None:
    """Raise a DissectError where no image can be judged; none is read."""
    from clipdissect.errors import DissectError
    from clipdissect.studies.class_from_descriptions import label_numbers
    from clipdissect.studies.features import check_keep

    check_keep(job)
    if len(names) != len(weights):
        raise DissectError(f"{into} has {len(weights)} units, but {len(names)} class names")
    label_numbers(job.probe, job.probe.images, names)


def _facts(
    captured: dict[str, Any], method: Any, described: dict[str, Any], of_encoder: Any
) -> dict[str, Any]:
    """The manifest: how the images were run, and how the labels were made.

    Args:
        captured: facts on the images' features, which take an encoder and concepts.
        method: of the labels; what it doesn't use had no part in them.
        described: facts on the labels.
        of_encoder: the encoder's notes.
    """
    unused = {"encoder", "concepts", "similarity"} - set(method.needs)
    digests = {key: value for key, value in captured["digests"].items()
               if key.split()[0] not in unused}  # fmt: skip
    facts = {key: value for key, value in captured.items() if key not in unused}
    idle = set(of_encoder) if "encoder" in unused else set()
    notes = [note for note in captured["notes"] if note not in idle]
    notes += [note for note in described["notes"] if note not in notes]
    return facts | described | {"digests": digests | described["digests"], "notes": notes}


class _Images:
    """The labelled images: names, true and predicted classes, and the unit behind each."""

    def __init__(
        self, found: Any, weights: Any, layer: str, into: str, rows: Any, names: Any
    ) -> None:
        import numpy as np

        from clipdissect.errors import DissectError
        from clipdissect.studies import class_from_descriptions as library

        images = found.captured.images
        truth = library.label_numbers(found.job.probe, images, names)
        known = (truth >= 0).nonzero()[0]
        self.names = [images[i] for i in known]
        self.truth = truth[known]
        self.predicted = found.activations(into).numpy()[known].argmax(1)
        self.labels = list(rows["description"])
        described = np.array([i for i, text in enumerate(self.labels) if text], dtype=int)
        if not len(described):
            raise DissectError(f"no unit of layer {layer} is described")
        self.units = library.largest_contributions(
            weights, found.activations(layer).numpy()[known], self.predicted, described
        )


def _show(metrics: dict[str, Any], judged: dict[str, Any]) -> None:
    print(f"{metrics['layer']} -> {metrics['into']}: {metrics['images']} labelled images, the "
          f"network is right on {number(metrics['accuracy'])}")  # fmt: skip
    for name, one in judged.items():
        for what in ("truth", "prediction"):
            control = one["controls"][what]
            print(f"  {name}, {what}: {with_interval(one[what]['value'], one[what])}; descriptions "
                  f"shuffled {number(control['shuffled']['mean'])} (most "
                  f"{number(control['shuffled']['most'])}), best constant "
                  f"{number(control['best_constant'])}")  # fmt: skip


def _figure(judged: dict[str, Any], metrics: dict[str, Any], folder: Path) -> None:
    """Bars of both agreements beside their controls."""
    from clipdissect.studies import figures

    if not judged:
        return
    drawn, axes = figures.plot(3.2 + 3.6 * len(judged), 3.4, len(judged))
    looks = {"description": ("0.3", ""), "shuffled descriptions": ("0.85", ""),
             "best constant": ("1.0", "////")}  # fmt: skip
    for axis, (name, one) in zip(axes, judged.items(), strict=True):
        for shift, (label, (shade, hatch)) in enumerate(looks.items()):
            at = [place + 0.27 * (shift - 1) for place in range(2)]
            values = [_value(one, what, label) for what in ("truth", "prediction")]
            ends = figures.bar_errors(values) if shift == 0 else None
            axis.bar(at, figures.heights(values), 0.27, yerr=ends, color=shade, hatch=hatch,
                     edgecolor="black", linewidth=0.6, label=label, capsize=2)  # fmt: skip
        axis.axhline(metrics["chance"], color="0.4", linestyle="--", linewidth=0.8, label="chance")
        axis.set_xticks([0, 1], ["true class", "predicted class"])
        axis.set_ylabel(f"share of images ({name})", fontsize="small")
    figures.legend_below(drawn, axes[0])
    figures.save_figure(drawn, folder, "class_from_descriptions")


def _value(one: dict[str, Any], what: str, label: str) -> dict[str, Any]:
    controls = one["controls"][what]
    values: dict[str, dict[str, Any]] = {
        "description": one[what],
        "shuffled descriptions": {"value": controls["shuffled"]["mean"]},
        "best constant": {"value": controls["best_constant"]},
    }
    return values[label]


def _panels(table: Any, found: Any, layer: str, study: Any, folder: Path) -> None:
    """Images, each before the top images of its unit."""
    from clipdissect.results.describe import top_images_of_layer
    from clipdissect.studies import figures

    top = top_images_of_layer(layer, found.captured.activations[layer], found.captured.images,
                              study.panel_images)  # fmt: skip
    units = []
    for _, row in table.iloc[:: max(1, len(table) // study.panels)].head(study.panels).iterrows():
        lines = ((f"{row['truth']}; predicted: {row['predicted']}", False),
                 (f"{layer}, unit {row['unit']}: {row['description']}", True))  # fmt: skip
        own = top[top["unit"] == row["unit"]]["image"]
        units.append(figures.Panel(lines, (row["image"], *own)))
    title = "images, and the units that contribute most to their predictions"
    figures.save_figure(figures.panels(units, found.job.probe, title=title), folder, "panels")


def main() -> None:
    """Entry point of `python -m experiments.class_from_descriptions`."""
    launch_study(run, "class_from_descriptions")


if __name__ == "__main__":
    main()
