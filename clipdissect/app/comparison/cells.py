"""The cells of a comparison: labels per probe, concept set and similarity function."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from clipdissect import concepts, probe, sentence, similarity
from clipdissect.app.build import build_group, build_groups, parameters, settings_of, store_of
from clipdissect.app.comparison.table import Cell, best_of, compared_columns, unsearched
from clipdissect.app.evaluation_job import resampling_of, truth_of
from clipdissect.capture.capture import capture
from clipdissect.capture.features import CapturedFeatures
from clipdissect.capture.settings import Settings
from clipdissect.concepts import Concepts
from clipdissect.dissection import ConceptEmbeddings, Job, embed_concepts, manifest
from clipdissect.encoder import Encoder
from clipdissect.errors import DissectError, unknown
from clipdissect.evaluation import unit_table
from clipdissect.evaluation.half_split import halves
from clipdissect.evaluation.units import rows_of
from clipdissect.evaluation.vectors import vectors
from clipdissect.probe import Probe
from clipdissect.results.describe import describe_layer
from clipdissect.results.tables import ResultTables
from clipdissect.similarity import Similarity
from clipdissect.similarity.inputs import ConceptActivations
from clipdissect.store import Store
from clipdissect.targets import Target
from clipdissect.utils import registry

log = logging.getLogger(__name__)

PAPER_PROBES = ("cifar100_train", "broden", "imagenet_val", "imagenet_broden")
SHARED_FACTS = ("date", "versions", "machine", "git", "target", "encoder", "summary", "precision")


class Comparison:
    """The parts of a comparison, built once, and its cells."""

    def __init__(self, config: Any) -> None:
        self.sentences = sentence.CachedSentenceEncoder(
            build_group(sentence.build, config.sentence)
        )
        self.resampling = resampling_of(config)
        self.options = parameters(config.comparison)
        for name in ("concepts", "similarities"):
            if not self.options[name]:
                raise DissectError(f"comparison.{name} is empty")
        for name in self.options["similarities"]:
            if name not in similarity.OPTIONS:
                raise unknown("similarity", name, similarity.OPTIONS)
        self.similarity = parameters(config.similarity)  # with its overrides
        self.top_k = config.profile.get("top_k")
        self.seed = config.objective_seed
        self.concepts = dict(concept_set(entry) for entry in self.options["concepts"])
        probes = self.options["probes"] or {name: name for name in PAPER_PROBES}
        self.probes = {
            name: registry.named(f"comparison.probes.{name}", probe.build, entry)
            for name, entry in probes.items()
        }
        built = build_groups(config, ("target", "encoder"))
        self.truth = truth_of(config, built["target"])
        target = replace(built["target"], layers=(str(self.truth.layer),))
        settings, store = settings_of(config), store_of(config)
        self.features = SharedFeatures(target, built["encoder"], settings, store)
        self.runs: list[dict[str, Any]] = []
        self._cells: dict[tuple[Any, ...], Cell] = {}

    def cells(self) -> Iterator[Cell]:
        """Yield every combination with default and, if configured, with the best `top_k`."""
        tuning, report = halves(len(self.truth.names), self.seed)
        for probe_name in self.probes:
            for concepts_name in self.concepts:
                for name in self.options["similarities"]:
                    is_chosen = name == self.similarity["name"]
                    top_k = self.similarity.get("top_k") if is_chosen else self.top_k
                    default = self._cell(probe_name, concepts_name, name, top_k)
                    yield default
                    if self.options["top_k"]:
                        names = probe_name, concepts_name, name
                        counts = self.options["top_k"] if has_top_k(name) else []
                        cells = [self._cell(*names, k) for k in counts if k <= default.images]
                        # The default is a candidate.
                        metric = f"{self.sentences.name}_cos"
                        yield best_of([default, *cells], metric, tuning, report)
                        yield unsearched(default, report)

    def _cell(self, probe_name: str, concepts_name: str, name: str, top_k: int | None) -> Cell:
        key = probe_name, concepts_name, name, top_k
        if key not in self._cells:
            self._cells[key] = self._score(*key)
        return self._cells[key]

    def _score(self, probe_name: str, concepts_name: str, name: str, top_k: int | None) -> Cell:
        chosen = {"top_k": top_k} if has_top_k(name) and top_k is not None else {}
        options = self.similarity if name == self.similarity["name"] else {"name": name}
        start = time.perf_counter()
        concept_set, names = self.concepts[concepts_name], self.truth.names
        function = similarity.build(**options | chosen)
        result = self.features.describe(self.probes[probe_name], concept_set, function)
        self.runs.append({"cell": [probe_name, concepts_name, name], **result.run})
        rows = rows_of(result.descriptions, str(self.truth.layer), len(names))
        labels = sorted({text for text in rows["description"] if text} - set(names))
        cosines = {self.sentences.name: vectors(self.sentences, [list(names), labels], None)}
        units = compared_columns(unit_table(rows, names, concept_set.texts, cosines))
        seconds = time.perf_counter() - start
        log.info("%s, %s, %s: %.1f s", probe_name, concepts_name, name, seconds)
        text = ", ".join(f"{k}={v}" for k, v in chosen.items())
        images = result.run["probe"]["used"]
        return Cell(probe_name, concepts_name, name, "default", text, images, units)

    def manifest(self, seconds: Mapping[str, float]) -> dict[str, Any]:
        truth, runs = self.truth, self.runs
        similarities = [run["similarity"] for run in runs]
        return {
            **{key: runs[0][key] for key in SHARED_FACTS},
            "probes": {run["cell"][0]: run["probe"] for run in runs},
            "concepts": {run["cell"][1]: run["concepts"] for run in runs},
            "similarities": [s for i, s in enumerate(similarities) if s not in similarities[:i]],
            "notes": list(dict.fromkeys(note for run in runs for note in run["notes"])),
            "sentence": {"name": self.sentences.name, "digest": self.sentences.digest},
            "truth": {"name": truth.name, "layer": truth.layer, "classes": len(truth.names)},
            "bootstrap": asdict(self.resampling),
            "tuning_seed": self.seed,
            "top_k_tried": self.options["top_k"],
            "digests": {" + ".join(run["cell"][:2]): run["digests"] for run in runs},
            "seconds": dict(seconds),
        }


def concept_set(entry: Any) -> tuple[str, Concepts]:
    """Return the name in the table, and the concept set of a config's name or parameters."""
    built: Concepts = registry.named("a part of comparison.concepts", concepts.build, entry)
    return entry if isinstance(entry, str) else built.name, built


def has_top_k(name: str) -> bool:
    return similarity.build(name).images_per_unit is not None


@dataclass
class SharedFeatures:
    """Features of the target's only layer, for any probe, concepts and similarity."""

    target: Target
    encoder: Encoder
    settings: Settings
    store: Store
    _captured: dict[str, CapturedFeatures] = field(default_factory=dict)
    _texts: dict[str, ConceptEmbeddings] = field(default_factory=dict)

    def describe(self, probe: Probe, concepts: Concepts, similarity: Similarity) -> ResultTables:
        """Describe units as `clipdissect.dissect(top=1)` does, without top images."""
        captured, texts = self._of_probe(probe), self._of_texts(concepts)
        [(layer, q)] = captured.activations.items()
        activations = ConceptActivations(captured.image_embeds, texts.embeddings)
        activations = activations.to(self.settings.scoring_device)
        table = describe_layer(layer, q, activations, concepts.texts, similarity, 1, null=False)
        job = Job(self.target, probe, concepts, self.encoder, similarity, self.settings)
        return ResultTables(table, table.iloc[:0], manifest(job, captured, texts))

    def _of_probe(self, probe: Probe) -> CapturedFeatures:
        if probe.digest not in self._captured:
            self._captured[probe.digest] = capture(
                self.target, self.target.layers, self.encoder, probe, self.store, self.settings
            )
        return self._captured[probe.digest]

    def _of_texts(self, concepts: Concepts) -> ConceptEmbeddings:
        if concepts.digest not in self._texts:
            self._texts[concepts.digest] = embed_concepts(
                self.encoder, concepts, self.store, self.settings, self._text_digest
            )
        return self._texts[concepts.digest]

    @cached_property
    def _text_digest(self) -> str:
        return self.encoder.text_digest  # it may hash a whole network
