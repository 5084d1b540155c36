"""Compare similarity functions on several probes by the layer of classes (Table 3).

Judges the labels of every function, probe and concept set of `comparison` against the class names,
with intervals over units and the paired difference to the best function. Features are
computed once. With comparison.top_k=[5,20] it also gives each function that has a top_k its best
one, chosen on half of the units and judged on the other half, beside the default on that half.
Writes comparison.csv, comparison.md, comparison.png and .pdf, metrics.json and, last, run.json to
<paths.results>/similarity_comparison/<date>_<time>/.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

from clipdissect.app.launch import NO_OBJECTIVE, launch, results_folder

log = logging.getLogger("clipdissect.similarity_comparison")  # also when run as __main__

PAPER_PROBES = ("cifar100_train", "broden", "imagenet_val", "imagenet_broden")
# What this runner doesn't read, and what to set instead.
UNUSED = {
    **NO_OBJECTIVE,
    "probe": "add '+comparison.probes.NAME={name: folder, root: /path}', once for each probe",
    "concepts": "set 'comparison.concepts=[google_20k, imagenet]'",
    "method": "it compares similarity functions of clip_dissect",
    "evaluation.against": "use final_layer, or clipdissect compare",
    "evaluation.sentences": "set sentence=NAME, the one that it judges by",
}


def run(config: Any) -> None:
    """One comparison as configured."""
    from clipdissect import sentence
    from clipdissect.app import evaluation_job as judging
    from clipdissect.app.build import of_group, track
    from clipdissect.app.comparison import table as comparing
    from clipdissect.app.comparison.report import figure, markdown, metrics, tracked
    from clipdissect.results.run_files import begin, write_json, write_table
    from clipdissect.utils.files import write_text
    from clipdissect.utils.timing import Timers

    folder, stages = results_folder(), Timers()
    with stages.stage("load"):
        sentences = sentence.CachedSentenceEncoder(of_group(sentence.build, config.sentence))
        how = judging.resampling_of(config)
        job = _Job(config, sentences)
    with stages.stage("scores"):
        cells = list(job.cells())
    with stages.stage("metrics"):
        table = comparing.table(cells, how, comparing.unions_beside_parts(job.probes))
    begin(folder)
    write_table(folder / "comparison.csv", table)
    text = markdown(table, config.similarity.name)
    write_text(folder / "comparison.md", text)
    figure(table, folder)
    write_json(folder / "metrics.json", metrics(table))
    write_json(folder / "run.json", job.manifest(config, sentences, how, stages.seconds))
    print(text, f"files: {folder}", sep="\n")
    track(config, folder, tracked(table))


class _Job:
    """The parts, built once, and the cells they give."""

    def __init__(self, config: Any, sentences: Any) -> None:
        from dataclasses import replace

        from clipdissect import probe, similarity
        from clipdissect.app import evaluation_job as judging
        from clipdissect.app.build import build_groups, parameters, settings_of, store_of
        from clipdissect.app.comparison.features import SharedFeatures
        from clipdissect.errors import DissectError, unknown
        from clipdissect.utils import registry as options

        own = parameters(config.comparison)
        own["probes"] = own["probes"] or {name: name for name in PAPER_PROBES}
        for name in ("concepts", "similarities"):
            if not own[name]:
                raise DissectError(f"comparison.{name} is empty")
        for name in own["similarities"]:
            if name not in similarity.OPTIONS:
                raise unknown("similarity", name, similarity.OPTIONS)
        self.sentences, self.own = sentences, own
        self.chosen = parameters(config.similarity)  # with what the command line says of it
        self.top_k = config.profile.get("top_k")
        self.seed, self.objective = config.objective_seed, f"{sentences.name}_cos"
        self.concepts = dict(_concept_set(what) for what in own["concepts"])
        self.probes = {
            name: options.named(f"comparison.probes.{name}", probe.build, what)
            for name, what in own["probes"].items()
        }
        built = build_groups(config, ("target", "encoder"))
        self.truth = judging.truth_of(config, built["target"])
        target = replace(built["target"], layers=(str(self.truth.layer),))
        self.features = SharedFeatures(
            target, built["encoder"], settings_of(config), store_of(config)
        )
        self.runs: list[dict[str, Any]] = []
        self.known: dict[tuple[Any, ...], Any] = {}

    def cells(self) -> Iterator[Any]:
        from clipdissect.app.comparison.table import unsearched
        from clipdissect.evaluation.half_split import halves

        tuning, report = halves(len(self.truth.names), self.seed)
        for probe in self.probes:
            for concepts in self.concepts:
                for name in self.own["similarities"]:
                    own = name == self.chosen["name"]
                    top_k = self.chosen.get("top_k") if own else self.top_k
                    default = self._cell(probe, concepts, name, top_k)
                    yield default
                    if self.own["top_k"]:
                        yield self._best(default, tuning, report)
                        yield unsearched(default, report)

    def _best(self, default: Any, tuning: Any, report: Any) -> Any:
        """The best top_k's cell, the default's among them; of a function without one, that."""
        from clipdissect.app.comparison.table import best_of

        tried = [default]
        if _has_top_k(default.similarity):
            tried += [
                self._cell(default.probe, default.concepts, default.similarity, k)
                for k in self.own["top_k"]
                if k <= default.images
            ]
        return best_of(tried, self.objective, tuning, report)

    def _cell(self, probe: str, concepts: str, name: str, top_k: int | None) -> Any:
        key = (probe, concepts, name, top_k)
        if key not in self.known:
            self.known[key] = self._scored(*key)
        return self.known[key]

    def _scored(self, probe: str, concepts: str, name: str, top_k: int | None) -> Any:
        from clipdissect import similarity
        from clipdissect.app.comparison.table import Cell, judged
        from clipdissect.evaluation import unit_table
        from clipdissect.evaluation.units import rows_of
        from clipdissect.evaluation.vectors import vectors

        chosen = {"top_k": top_k} if _has_top_k(name) and top_k is not None else {}
        given = self.chosen if name == self.chosen["name"] else {"name": name}
        start = time.perf_counter()
        result = self.features.describe(
            self.probes[probe], self.concepts[concepts], similarity.build(**{**given, **chosen})
        )
        self.runs.append({"cell": [probe, concepts, name], **result.run})
        rows = rows_of(result.descriptions, str(self.truth.layer), len(self.truth.names))
        labels = sorted({text for text in rows["description"] if text} - set(self.truth.names))
        embedded = vectors(self.sentences, [list(self.truth.names), labels], None)
        units = unit_table(rows, self.truth.names, self.concepts[concepts].texts,
                           {self.sentences.name: embedded})  # fmt: skip
        log.info("%s, %s, %s: %.1f s", probe, concepts, name, time.perf_counter() - start)
        said = ", ".join(f"{k}={v}" for k, v in chosen.items())
        used = result.run["probe"]["used"]
        return Cell(probe, concepts, name, "default", said, used, judged(units))

    def manifest(self, config: Any, sentences: Any, how: Any, seconds: Any) -> dict[str, Any]:
        """What was run on what."""
        from dataclasses import asdict

        first = self.runs[0]
        shared = ("date", "versions", "machine", "git", "target", "encoder", "summary", "precision")
        digests = {" + ".join(r["cell"][:2]): r["digests"] for r in self.runs}
        return {
            **{key: first[key] for key in shared},
            "probes": {r["cell"][0]: r["probe"] for r in self.runs},
            "concepts": {r["cell"][1]: r["concepts"] for r in self.runs},
            "similarities": _distinct([r["similarity"] for r in self.runs]),
            "notes": list(dict.fromkeys(note for r in self.runs for note in r["notes"])),
            "sentence": {"name": sentences.name, "digest": sentences.digest},
            "truth": {"name": self.truth.name, "layer": self.truth.layer,
                      "classes": len(self.truth.names)},
            "bootstrap": asdict(how), "tuning_seed": self.seed, "top_k_tried": self.own["top_k"],
            "digests": digests, "seconds": dict(seconds),
        }  # fmt: skip


def main() -> None:
    """Entry point of `python -m experiments.similarity_comparison`."""
    launch(run, "similarity_comparison", UNUSED)


def _concept_set(what: Any) -> tuple[str, Any]:
    """A concept set and its name in the tables, from its config's name or its parameters."""
    from clipdissect import concepts
    from clipdissect.utils import registry as options

    built = options.named("a part of comparison.concepts", concepts.build, what)
    return what if isinstance(what, str) else built.name, built


def _has_top_k(name: str) -> bool:
    from clipdissect import similarity

    return similarity.build(name).images_per_unit is not None


def _distinct(values: list[Any]) -> list[Any]:
    return [v for i, v in enumerate(values) if v not in values[:i]]


if __name__ == "__main__":
    main()
