"""Label units whose concept no probe image shows: which get its exact name? (Sec. 4.5, Fig. 4)

study.groups=[dog.n.01,bird.n.01] names any WordNet synsets; each is judged on its own. That the
probe lacks them is shown by its labels. study.exclude_from_probe=true takes a group's images out of
a labelled probe and compares with the same probe with them in. Writes missing_concepts.csv (a row a
unit and setting), metrics.json with intervals and controls, missing_concepts.png and .pdf, panels
of the units with their top images (panels_<group>.png and .pdf) and, last, run.json to
<paths.results>/missing_concepts/<date>_<time>/.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from clipdissect.app.launch import results_folder
from clipdissect.app.print_evaluation import number, with_interval
from clipdissect.app.study_job import launch_study

log = logging.getLogger(__name__)

SETTINGS = ("missing", "present")
LABELS = {"missing": "no image of the group", "present": "with its images",
          "best_constant": "best constant label", "random": "random label"}  # fmt: skip
SHADES = dict(zip(LABELS.values(), ("0.3", "0.85", "1.0", "0.6"), strict=True))
HATCHES = dict(zip(LABELS.values(), ("", "", "////", "...."), strict=True))


def run(config: Any) -> None:
    """One study as configured."""
    import pandas as pd

    from clipdissect import method
    from clipdissect.app import evaluation_job
    from clipdissect.app import study_job as studying
    from clipdissect.app.build import of_group
    from clipdissect.datasets import wordnet
    from clipdissect.results.run_files import begin
    from clipdissect.studies.features import features
    from clipdissect.utils.timing import Timers

    folder, stages = results_folder(), Timers()
    with stages.stage("load"):
        chosen = of_group(method.build, config.method)
        study = studying.settings(config, chosen)
        job, truth = evaluation_job.job_and_truth(config, chosen)
        sentences, how = evaluation_job.sentences_of(config), evaluation_job.resampling_of(config)
        kinds = wordnet.installed() or wordnet.packaged()
        _check(study, job, truth, kinds)
    with stages.stage("images"):
        found = features(job, [str(truth.layer)])
    groups = _Groups(study, found, truth, kinds, sentences, how)
    with stages.stage("study"):
        every = {group: groups.judged(group) for group in study.groups}
    begin(folder)
    metrics = {"missing_concepts": {group: one["metrics"] for group, one in every.items()}}
    _figure(metrics["missing_concepts"], folder)
    for group, one in every.items():
        if study.panels:
            _panels(group, one, study, job.probe, folder)
    table = pd.concat([one["table"] for one in every.values()], ignore_index=True)
    for group, one in metrics["missing_concepts"].items():
        _show(group, one)
    run = studying.manifest(found, config, sentences, stages.seconds)
    studying.save(config, folder, {"missing_concepts": table}, metrics, run, job.probe)


def _check(study: Any, job: Any, truth: Any, kinds: Any) -> None:
    """Raise a DissectError where a group can't be studied; no image is read."""
    from clipdissect.studies import missing_concepts as library
    from clipdissect.studies.features import check_images, check_keep

    check_keep(job)
    for group in study.groups:
        left = library.check_group(group, study, job.probe, truth, kinds)
        check_images(job.similarity, left)


class _Groups:
    """What the groups share: features, and the labels of the whole probe."""

    def __init__(
        self, study: Any, found: Any, truth: Any, kinds: Any, sentences: Any, how: Any
    ) -> None:
        self.study, self.features, self.truth = study, found, truth
        self.kinds, self.sentences, self.how = kinds, sentences, how
        self.layer = str(truth.layer)
        self.whole = found.describe(self.layer, truth=truth.names)

    def judged(self, group: str) -> dict[str, Any]:
        """A group's `metrics`, `table` and what the panels need."""
        from clipdissect.studies import missing_concepts as library
        from clipdissect.studies.numbers import embedded

        images = self.features.captured.images
        job = self.features.job
        units = library.units_of_group(self.truth, group, self.kinds)
        absence = library.absence(job.probe, images, group, self.kinds)
        rows = self._rows(absence, len(images))
        described = {"missing": self.whole}
        if absence.images:
            described = {"missing": self.features.describe(self.layer, rows, self.truth.names),
                         "present": self.whole}  # fmt: skip
        labels = [text for table in described.values() for text in table["description"]]
        cosines = embedded(self.sentences, (self.truth.names, job.concepts.texts, labels),
                           job.store, job.settings.torch_device)  # fmt: skip
        found = {
            name: library.labels_of_group(table, units, self.truth, job.concepts, cosines)
            for name, table in described.items()
        }
        metrics = library.group_metrics(
            found["missing"], found.get("present"), job.concepts, cosines, self.how
        )
        about = {"images": len(rows), "left_out": len(absence.images),
                 "absence": absence.verdict, "meanings": absence.source}  # fmt: skip
        return {"metrics": about | metrics, "table": _table(group, found),
                "rows": rows, "features": self.features, "labels": found["missing"],
                "layer": self.layer}  # fmt: skip

    def _rows(self, absence: Any, images: int) -> list[int]:
        """Numbers of the images without the group."""
        if not absence.is_verified:
            log.warning("that the probe has no image of %s is %s", absence.group, absence.verdict)
        out = set(absence.images)
        return [i for i in range(images) if i not in out]


def _table(group: str, found: dict[str, Any]) -> Any:
    """One row a unit and setting."""
    import pandas as pd

    parts = []
    for name, labels in found.items():
        part = labels.units.table.assign(in_group=labels.in_group.astype(float))
        others = [c for c in labels.rows if str(c).startswith("description_")]
        part = pd.concat([part, labels.rows[others]], axis=1)
        part.insert(0, "setting", name)
        part.insert(0, "group", group)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _show(group: str, metrics: dict[str, Any]) -> None:
    print(f"{group}: {metrics['units']} units, {metrics['images']} images "
          f"({metrics['left_out']} taken out); absence {metrics['absence']}")  # fmt: skip
    for name in SETTINGS:
        if name in metrics:
            one = metrics[name]
            right = with_interval(one["top1"], one["intervals"].get("top1"))
            inside = with_interval(one["in_group"]["value"], one["in_group"])
            exact = f"{one.get('top1_right', 0)} ({right})"
            print(f"  {name}: exact name {exact}, any of the group {inside}")
    controls = metrics["controls"]
    exact_names = {name: one["top1"] for name, one in controls.items()}
    any_names = {name: one["in_group"]["value"] for name, one in controls.items()}
    for what, values in (("exact name", exact_names), ("any of the group", any_names)):
        said = ", ".join(f"{name.replace('_', ' ')} {number(v)}" for name, v in values.items())
        print(f"  controls, {what}: {said}")


def _figure(groups: dict[str, Any], folder: Path) -> None:
    """Bars of the share with the exact name, and with any name of the group."""
    from clipdissect.studies import figures

    drawn, axes = figures.plot(7.2, 3.4, 2)
    for axis, what in zip(axes, ("exact", "group"), strict=True):
        bars = [(g, label, value) for g, m in groups.items() for label, value in _bars(m, what)]
        names = list(dict.fromkeys(label for _, label, _ in bars))
        for place, label in enumerate(names):
            at = [list(groups).index(g) + 0.8 * ((place + 0.5) / len(names) - 0.5)
                  for g, own, _ in bars if own == label]  # fmt: skip
            found = [value for _, own, value in bars if own == label]
            axis.bar(at, figures.heights(found), 0.8 / len(names), label=label,
                     yerr=figures.bar_errors(found), capsize=2, edgecolor="black", linewidth=0.6,
                     error_kw={"linewidth": 0.8}, color=SHADES[label],
                     hatch=HATCHES[label])  # fmt: skip
        axis.set_xticks(range(len(groups)), list(groups))
        axis.set_ylim(0, 1)
        wanted = {"exact": "the exact class name", "group": "any name of the group"}[what]
        axis.set_title(f"units with {wanted}", fontsize="small")
    figures.legend_below(drawn, axes[0])
    figures.save_figure(drawn, folder, "missing_concepts")


def _bars(metrics: dict[str, Any], what: str) -> list[tuple[str, dict[str, Any]]]:
    found = [(LABELS[name], _bar(metrics[name], what)) for name in SETTINGS if name in metrics]
    # A constant label of the group is in the group for every unit, which says nothing.
    for name in ("best_constant", "random") if what == "exact" else ("random",):
        found.append((LABELS[name], _bar(metrics["controls"][name], what)))
    return found


def _bar(one: dict[str, Any], what: str) -> dict[str, Any]:
    if what == "group":
        inside: dict[str, Any] = one["in_group"]
        return inside
    return {"value": one["top1"], **(one["intervals"].get("top1") or {})}


def _panels(group: str, one: dict[str, Any], study: Any, probe: Any, folder: Path) -> None:
    """Units with truth, description and top images of the probe without the group."""
    from clipdissect.results.describe import top_images_of_layer
    from clipdissect.studies import figures

    rows, features, labels = one["rows"], one["features"], one["labels"]
    q = features.activations(one["layer"])[rows]
    images = [features.captured.images[i] for i in rows]
    top = top_images_of_layer(one["layer"], q, images, study.panel_images)
    units = []
    for _, row in _chosen(labels.units.table, study.panels).iterrows():
        own = top[top["unit"] == row["unit"]]["image"]
        right = row.get("right") == 1
        units.append(figures.Panel(
            ((f"unit {row['unit']}: {row['truth']}", False),
             (f"{'right' if right else 'labelled'}: {row['description'] or '(none)'}", right)),
            tuple(own),
        ))  # fmt: skip
    drawn = figures.panels(units, probe, title=f"{group}, {len(images)} images, none of it")
    figures.save_figure(drawn, folder, f"panels_{group}")


def _chosen(table: Any, count: int) -> Any:
    """Half of them right where there are as many, else the first ones."""
    import pandas as pd

    right = table[table.get("right", pd.Series(0.0, table.index)) == 1]
    wrong = table.drop(right.index)
    half = min(len(right), max(count // 2, count - len(wrong)))
    return pd.concat([right.head(half), wrong.head(count - half)])


def main() -> None:
    """Entry point of `python -m experiments.missing_concepts`."""
    launch_study(run, "missing_concepts")


if __name__ == "__main__":
    main()
