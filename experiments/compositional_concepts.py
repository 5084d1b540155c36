"""Describe units by phrases of their best concepts (Sec. 4.6, Fig. 5), and ask if it helps.

For every unit, ordered pairs of its study.words best concepts, in study.templates, and from
study.length=3 on longer ones by beam search. Words and phrases are scored against the same set, the
concepts, unless study.normaliser=candidates. On the layer of classes the phrases are judged against
the words by sentence cosine, with paired intervals over all units, and beside two controls: the
two best words put together, and two of the unit's words drawn at random. Writes
compositional_concepts.csv, metrics.json, compositional_concepts_<encoder>.png and .pdf of a layer
of classes, panels_<layer>.png and .pdf and, last, run.json to
<paths.results>/compositional_concepts/<date>_<time>/.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipdissect.app.launch import results_folder
from clipdissect.app.print_evaluation import with_interval
from clipdissect.app.study_job import launch_study

LABELS = {"words": "best word", "phrases": "best phrase", "either": "better scored\nof both",
          "joined": "two best\nwords", "random": "two random\nof its words"}  # fmt: skip
TRIES = {"phrases": "phrase", "either": "either", "joined": "joined", "random": "random"}


def run(config: Any) -> None:
    """One study as configured."""
    import pandas as pd

    from clipdissect import method
    from clipdissect.app import evaluation_job
    from clipdissect.app import study_job as studying
    from clipdissect.app.build import of_group
    from clipdissect.results.run_files import begin
    from clipdissect.studies.features import features
    from clipdissect.utils.timing import Timers

    folder, stages = results_folder(), Timers()
    with stages.stage("load"):
        chosen = of_group(method.build, config.method)
        study = studying.settings(config, chosen)
        job, truth = studying.job_of(config, chosen)
        sentences, how = evaluation_job.sentences_of(config), evaluation_job.resampling_of(config)
    with stages.stage("images"):
        found = features(job, job.target.layers)
    tables, metrics = [], {}
    begin(folder)
    for layer in job.target.layers:
        with stages.stage(f"search {layer}"):
            table, metrics[layer] = _searched(layer, study, found, how)
        if layer == truth.layer:
            with stages.stage("metrics"):
                metrics[layer]["judged"] = _judge(table, truth, sentences, job, how)
            _figure(metrics[layer]["judged"], folder)
        _show(layer, metrics[layer])
        tables.append(table)
        if study.panels:
            _panels(table, layer, study, found, folder)
    run = studying.manifest(found, config, sentences, stages.seconds)
    whole = {"compositional_concepts": pd.concat(tables, ignore_index=True)}
    studying.save(config, folder, whole, {"compositional_concepts": metrics}, run, job.probe)


def _searched(layer: str, study: Any, found: Any, how: Any) -> tuple[Any, dict[str, Any]]:
    """A layer's best words and phrases, one row a living unit, and what the search cost."""
    from clipdissect.capture.activations import dead_units, for_scoring
    from clipdissect.capture.text_embeddings import text_embeddings
    from clipdissect.errors import DissectError
    from clipdissect.results.describe import scored_units
    from clipdissect.similarity.inputs import ConceptActivations
    from clipdissect.studies import compositional_concepts as library
    from clipdissect.studies.features import similarity_of
    from clipdissect.studies.numbers import share

    job, activations = found.job, found.captured.activations[layer]
    similarity = similarity_of(job)
    live = scored_units(dead_units(activations), similarity)
    if not live.any():
        raise DissectError(f"no unit of layer {layer} varies over the probe")
    q = for_scoring(activations, live)
    concepts = ConceptActivations(found.captured.image_embeds, found.texts)
    best = similarity.top(concepts, q, study.words)

    def embed(texts: Any) -> Any:
        return text_embeddings(
            job.encoder.embed_texts, job.encoder.text_digest, texts, job.store,
            job.settings.torch_device,
        )  # fmt: skip

    phrases = library.search(study, similarity, concepts, q, best, job.concepts.texts, embed,
                             job.top)  # fmt: skip
    units = live.nonzero()[:, 0][: len(phrases.texts)].tolist()
    comparable = study.normaliser == "concepts"
    table = _table(layer, units, best, phrases, job.concepts.texts, how.seed)
    higher = (table["phrase_score"] > table["word_score"]).to_numpy()
    if comparable:
        table.insert(6, "either", table["phrase"].where(higher, table["word"]))
    return table, {
        "units": len(units), "distinct_phrases": phrases.tried, "scored": phrases.pairs,
        "phrases_per_second": phrases.rate, "seconds": phrases.seconds,
        "normaliser": study.normaliser,
        "phrase_scores_higher": share(higher, how) if comparable else None,
    }  # fmt: skip


def _table(
    layer: str, units: Any, best: Any, phrases: Any, texts: Any, seed: int
) -> Any:  # fmt: skip
    import numpy as np
    import pandas as pd

    own = best.concepts[: len(units)].cpu().numpy()
    generator = np.random.default_rng(seed)
    drawn = [" ".join(texts[i] for i in generator.permutation(row)[:2]) for row in own]
    word, phrase = [texts[i] for i in own[:, 0]], [some[0] for some in phrases.texts]
    scores = best.scores[: len(units), 0].cpu().numpy()
    columns = {
        "layer": layer, "unit": units, "word": word, "word_score": scores,
        "phrase": phrase, "phrase_score": phrases.scores[:, 0],
        "joined": [" ".join(texts[i] for i in row[:2]) for row in own], "random": drawn,
    }  # fmt: skip
    for n in range(1, min(map(len, phrases.texts))):
        columns[f"phrase_{n + 1}"] = [some[n] for some in phrases.texts]
        columns[f"phrase_score_{n + 1}"] = phrases.scores[:, n]
    return pd.DataFrame(columns)


def _judge(table: Any, truth: Any, sentences: Any, job: Any, how: Any) -> dict[str, Any]:
    """Cosines to the class names, put into the table too, and their means and differences."""
    from clipdissect.evaluation.vectors import Vectors
    from clipdissect.studies.compositional_concepts import compared
    from clipdissect.studies.numbers import embedded

    names = [truth.names[unit] for unit in table["unit"]]
    table.insert(2, "truth", names)
    columns = {"words": "word", **{n: column for n, column in TRIES.items() if column in table}}
    labels = [text for column in columns.values() for text in table[column]]
    cosines = embedded(sentences, (truth.names, labels), job.store, job.settings.torch_device)
    found: dict[str, Any] = {}
    for encoder, vectors in cosines.items():
        if not isinstance(vectors, Vectors):
            found[encoder] = {"reason": vectors}
            continue
        values = {}
        for name, column in columns.items():
            values[name] = vectors.cosines(list(table[column]), names)
            table[f"{column}_{encoder}_cos"] = values[name]
        found[encoder] = compared(values, how)
    return found


def _show(layer: str, metrics: dict[str, Any]) -> None:
    print(f"{layer}: {metrics['units']} units, {metrics['distinct_phrases']} distinct phrases, "
          f"{metrics['phrases_per_second']:.0f} a second")  # fmt: skip
    higher = metrics["phrase_scores_higher"]
    if higher:
        print(f"  a phrase scores higher than every word: {with_interval(higher['value'], higher)}")
    for encoder, judged in metrics.get("judged", {}).items():
        for name, one in judged.items():
            if name != "reason":
                print(f"  {encoder}, {name}: {with_interval(one['value'], one)}")


def _figure(judged: dict[str, Any], folder: Path) -> None:
    """Mean cosines, and differences to the words."""
    from clipdissect.studies import figures

    for encoder, found in judged.items():
        if "reason" in found:
            continue
        drawn, (left, right) = figures.plot(8.4, 3.4, 2)
        for axis, ending in ((left, ""), (right, "_minus_words")):
            names = [name for name in LABELS if f"{name}{ending}" in found]
            values = [found[f"{name}{ending}"] for name in names]
            axis.errorbar(range(len(names)), figures.heights(values), linestyle="none",
                          yerr=figures.bar_errors(values), marker="o", color="black",
                          capsize=3, markersize=4)  # fmt: skip
            axis.set_xticks(range(len(names)), [LABELS[n] for n in names], fontsize="x-small")
            axis.margins(x=0.12)
            axis.grid(axis="y", color="0.9")
        left.set_ylabel(f"cosine to the class name ({encoder})", fontsize="small")
        right.set_ylabel("minus the best word's", fontsize="small")
        right.axhline(0, color="0.4", linestyle="--", linewidth=0.8)
        figures.save(drawn, folder, f"compositional_concepts_{encoder}")


def _panels(table: Any, layer: str, study: Any, found: Any, folder: Path) -> None:
    """Units whose phrase is best by its score, or gains most over their word."""
    from clipdissect.results.describe import top_images_of_layer
    from clipdissect.studies import figures

    comparable = study.normaliser == "concepts"
    chosen = ranked(table, comparable).head(study.panels)
    top = top_images_of_layer(layer, found.captured.activations[layer], found.captured.images,
                              study.panel_images)  # fmt: skip
    units = []
    for _, row in chosen.iterrows():
        head = f"{layer}, unit {row['unit']}" + (f": {row['truth']}" if "truth" in row else "")
        score = f" ({row['word_score']:.2f})" if comparable else ""
        lines = ((head, False), (f"word: {row['word']}{score}", False),
                 (f"phrase: {row['phrase']} ({row['phrase_score']:.2f})", True))  # fmt: skip
        units.append(figures.Panel(lines, tuple(top[top["unit"] == row["unit"]]["image"])))
    figures.save(figures.panels(units, found.job.probe, title="best words and best phrases"),
                 folder, f"panels_{layer}")  # fmt: skip


def ranked(table: Any, comparable: bool) -> Any:
    """A layer's units, best first: by what the phrase gains over the word, or by its score alone.

    Args:
        table: one row a unit.
        comparable: whether words and phrases are scored against the same set.
    """
    gain = table["phrase_score"] - (table["word_score"] if comparable else 0.0)
    return table.iloc[(-gain.to_numpy(dtype=float)).argsort(kind="stable")]


def main() -> None:
    """Entry point of `python -m experiments.compositional_concepts`."""
    launch_study(run, "compositional_concepts")


if __name__ == "__main__":
    main()
