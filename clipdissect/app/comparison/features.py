"""Features of several probes and concept sets, each computed or read once."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from clipdissect import encoder as encoders
from clipdissect.capture.capture import capture
from clipdissect.capture.features import CapturedFeatures
from clipdissect.capture.settings import Settings
from clipdissect.capture.text_embeddings import text_embeddings
from clipdissect.concepts import Concepts
from clipdissect.encoder import Encoder
from clipdissect.probe import Probe
from clipdissect.results.describe import describe_layer
from clipdissect.results.manifest import provenance
from clipdissect.results.result import Result
from clipdissect.similarity import Similarity
from clipdissect.similarity.inputs import ConceptActivations
from clipdissect.store import Store
from clipdissect.targets import Target


@dataclass
class SharedFeatures:
    """Features of the target's only layer, for any probe, concepts and similarity."""

    target: Target
    encoder: Encoder
    settings: Settings
    store: Store
    _captured: dict[str, CapturedFeatures] = field(default_factory=dict)
    _embeds: dict[str, Any] = field(default_factory=dict)

    def describe(self, probe: Probe, concepts: Concepts, similarity: Similarity) -> Result:
        """Describe units as `clipdissect.dissect(top=1)` does, without top images."""
        captured, embeds = self._of_probe(probe), self._of_texts(concepts)
        [(layer, q)] = captured.activations.items()
        activations = ConceptActivations(captured.image_embeds, embeds)
        table = describe_layer(layer, q, activations, concepts.texts, similarity, 1, null=False)
        run = provenance(
            self.target, probe, concepts, self.encoder, similarity, self.settings, captured
        )
        run["digests"]["encoder texts"] = self._text_digest
        run["notes"] += encoders.text_notes(self.encoder, concepts.texts)
        return Result(table, table.iloc[:0], run)

    def _of_probe(self, probe: Probe) -> CapturedFeatures:
        if probe.digest not in self._captured:
            self._captured[probe.digest] = capture(
                self.target, self.target.layers, self.encoder, probe, self.store, self.settings
            )
        return self._captured[probe.digest]

    def _of_texts(self, concepts: Concepts) -> Any:
        if concepts.digest not in self._embeds:
            self._embeds[concepts.digest] = text_embeddings(
                self.encoder.embed_texts,
                self._text_digest,
                concepts.texts,
                self.store,
                self.settings.torch_device,
            )
        return self._embeds[concepts.digest]

    @cached_property
    def _text_digest(self) -> str:
        return self.encoder.text_digest  # it may hash a whole network
