"""Do units with similar descriptions have large weights between them? (Sec. 5, Fig. 6)

Compares the weights from study.layer into study.into, a linear layer whose units are classes, with
the cosines of the units' descriptions and the class names: Pearson's r over all pairs and over the
largest weights, Spearman's rho, the mean similarity of the k largest weights, and a permutation
control. method=published_clip_dissect method.path=FILE takes published labels; then only the
weights are needed. Writes weight_similarity.csv (means by k), largest_weights.csv,
descriptions.csv, metrics.json, weight_similarity.png and .pdf, panels of the largest weights with
both units' images where there are some, and, last, run.json to
<paths.results>/weight_similarity/<date>_<time>/.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from clipdissect.app.launch import results_folder
from clipdissect.app.print_evaluation import number, with_interval
from clipdissect.app.study_job import launch_study

LARGEST = 1000  # rows of largest_weights.csv


def run(config: Any) -> None:
    """One study as configured."""
    from clipdissect import method
    from clipdissect.app import evaluation_job
    from clipdissect.app import study_job as studying
    from clipdissect.app.build import of_group
    from clipdissect.evaluation.vectors import Vectors
    from clipdissect.results.run_files import begin
    from clipdissect.studies import weight_similarity as library
    from clipdissect.studies.numbers import embedded
    from clipdissect.utils.timing import Timers

    folder, stages = results_folder(), Timers()
    with stages.stage("load"):
        study = studying.settings(config)
        chosen = of_group(method.build, config.method)
        job, truth = studying.job_of(config, chosen)
        into = study.into or str(truth.layer)
        layer = library.feeding_layer(job.target, into, study.layer)
        table = library.linear_weights(job.target.model, into)
        sentences, how = evaluation_job.sentences_of(config), evaluation_job.resampling_of(config)
    captured = _captured(job, layer, into)
    result = chosen.describe(replace(job, target=replace(job.target, layers=(layer,))))
    rows = rows_of_layer(result.descriptions, table, layer, into)
    with stages.stage("study"):
        weights = library.Weights.of(table, list(rows["description"]), truth.names)
        cosines = embedded(sentences, (truth.names, list(rows["description"])), job.store,
                           job.settings.torch_device)  # fmt: skip
        ready = {name: v for name, v in cosines.items() if isinstance(v, Vectors)}
        found = {name: library.measured(weights, v, study, how) for name, v in ready.items()}
    about = {"layer": layer, "into": into, "inputs": table.shape[1], "outputs": table.shape[0],
             "described": len(weights.units),
             "linearity": _linearity(captured, table, layer, into), **found}  # fmt: skip
    about |= {name: {"reason": v} for name, v in cosines.items() if isinstance(v, str)}
    begin(folder)
    pairs = library.largest_pairs(weights, ready, LARGEST)
    _figure(weights, ready, found, folder)
    if captured and study.panels:
        _panels(pairs.head(study.panels), captured, layer, into, study, job.probe, folder)
    _show(about, found)
    facts = {"target": replace(job.target, layers=(layer,)).facts, **result.run}
    run = studying.completed(facts, config, sentences, stages.seconds)
    tables = {"weight_similarity": _curves(found), "largest_weights": pairs, "descriptions": rows}
    studying.save(config, folder, tables, {"weight_similarity": about}, run, job.probe)


def _captured(job: Any, layer: str, into: str) -> Any:
    """Both layers' activations, in the one pass that the descriptions need too; else None."""
    from clipdissect.studies.features import features

    if None in (job.probe, job.encoder, job.concepts, job.similarity):
        return None
    return features(job, list(dict.fromkeys([layer, into]))).captured


def rows_of_layer(descriptions: Any, table: Any, layer: str, into: str) -> Any:
    """The layer's descriptions, one row a unit.

    Args:
        descriptions: of a method.
        table: the weights, `[outputs, inputs]`.
        layer: whose descriptions.
        into: the layer that it feeds, for the message.

    Raises:
        DissectError: there are none, or of more units than inputs.
    """
    from clipdissect.errors import unknown
    from clipdissect.evaluation.units import rows_of
    from clipdissect.studies.weight_similarity import check_width

    own = descriptions[descriptions["layer"] == layer]
    if not len(own):
        raise unknown("layer of the labels", layer, dict.fromkeys(descriptions["layer"]))
    check_width(table, int(own["unit"].max()) + 1, layer, into)
    return rows_of(descriptions, layer, table.shape[1])


def _linearity(captured: Any, table: Any, layer: str, into: str) -> float | None:
    from torch import Tensor

    from clipdissect.studies.weight_similarity import linearity

    if captured is None:
        return None
    q, out = captured.activations[layer], captured.activations[into]
    if not isinstance(q, Tensor) or not isinstance(out, Tensor):
        return None
    return linearity(table, q.numpy(), out.numpy())


def _curves(found: dict[str, Any]) -> Any:
    """Fig. 6b's numbers, of every sentence encoder."""
    import pandas as pd

    rows = [{"sentence": name, **row} for name, one in found.items() for row in one["by_top_k"]]
    return pd.DataFrame(rows, columns=["sentence", "k", "value", "low", "high"])


def _show(about: dict[str, Any], found: dict[str, Any]) -> None:
    print(f"{about['layer']} -> {about['into']}: {about['inputs']} x {about['outputs']} weights, "
          f"{about['described']} described units, linearity {about['linearity']}")  # fmt: skip
    for name, one in found.items():
        for which in ("all_pairs", "top_pairs"):
            of = one[which]
            r = with_interval(of["pearson_r"], of["interval"])
            print(f"  {name}, {of['pairs']} pairs: r {r}, log10 p {number(of['log10_p'])}, "
                  f"rho {number(of['spearman_rho'])}")  # fmt: skip
        control = one["permutation"]
        print(f"  {name}, descriptions shuffled {control['permutations']} times: r "
              f"{with_interval(control['mean_r'], control)}, p {control['p']:.4g}")  # fmt: skip
        best = one["best_of_unit"]
        print(f"  {name}, unit's best cosine and largest weight: r {number(best['pearson_r'])}, "
              f"log10 p {number(best['log10_p'])}")  # fmt: skip


def _figure(weights: Any, ready: Any, found: dict[str, Any], folder: Path) -> None:
    """Fig. 6b, and each unit's best similarity against its largest weight; a row an encoder."""
    from clipdissect.studies import figures
    from clipdissect.studies.weight_similarity import similarities

    for place, (name, one) in enumerate(found.items()):
        drawn, (curve, cloud) = figures.plot(7.6, 3.4, 2)
        rows = one["by_top_k"]
        at = [row["k"] for row in rows]
        curve.plot(at, [row["value"] for row in rows], color="black", marker="o", markersize=3,
                   label="k largest weights")  # fmt: skip
        curve.fill_between(at, *([row[end] for row in rows] for end in ("low", "high")),
                           color="0.85", linewidth=0)  # fmt: skip
        curve.axhline(one["mean_similarity"], color="0.4", linestyle="--", label="all pairs")
        curve.set_xscale("log", base=2)
        curve.set_xlabel("k")
        curve.set_ylabel(f"mean cosine of texts ({name})")
        curve.legend(fontsize="small", frameon=False)
        cloud.scatter(weights.table.max(0), similarities(weights, ready[name]).max(0), s=5,
                      color="0.3", alpha=0.5, linewidths=0)  # fmt: skip
        cloud.set_xlabel("unit's largest weight")
        cloud.set_ylabel("its description's best cosine")
        cloud.set_title(f"r = {number(one['best_of_unit']['pearson_r'])}", fontsize="small")
        curve.set_title(f"r = {number(one['all_pairs']['pearson_r'])} over all pairs, "
                        f"{number(one['top_pairs']['pearson_r'])} over the top "
                        f"{one['top_pairs']['pairs']:,}", fontsize="small")  # fmt: skip
        figures.save_figure(drawn, folder, "weight_similarity" if place == 0 else f"by_{name}")


def _panels(
    pairs: Any, captured: Any, layer: str, into: str, study: Any, probe: Any, folder: Path
) -> None:
    """Fig. 6a: the largest weights, the unit at the left and the class at the right."""
    from clipdissect.results.describe import top_images_of_layer
    from clipdissect.studies import figures

    top = {name: top_images_of_layer(name, captured.activations[name], captured.images,
                                     study.panel_images) for name in (layer, into)}  # fmt: skip
    units = []
    for _, pair in pairs.iterrows():
        for name, unit, text in ((layer, pair["unit"], pair["description"]),
                                 (into, pair["class_unit"], pair["class"])):  # fmt: skip
            images = top[name][top[name]["unit"] == unit]["image"]
            said = "class" if name == into else "labelled"
            head = f"{name}, unit {unit}" + (
                "" if name == into else f", weight {pair['weight']:.3f}"
            )
            units.append(figures.Panel(((head, False), (f"{said}: {text}", True)), tuple(images)))
    drawn = figures.panels(units, probe, title=f"largest weights from {layer} into {into}")
    figures.save_figure(drawn, folder, "panels")


def main() -> None:
    """Entry point of `python -m experiments.weight_similarity`."""
    launch_study(run, "weight_similarity")


if __name__ == "__main__":
    main()
