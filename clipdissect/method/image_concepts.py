"""How far images show concepts: by their labels, these labels' hypernyms, or an encoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from clipdissect.capture.features import CapturedFeatures
from clipdissect.concepts import Concepts
from clipdissect.datasets import wordnet
from clipdissect.dissection import Job, embed_concepts
from clipdissect.encoder.calibration import Calibration, fit_calibration, published_calibration
from clipdissect.errors import DissectError
from clipdissect.probe.image_labels import ImageLabels, of_probe
from clipdissect.utils.type_checks import check_choice

SOURCES = ("labels", "hypernyms", "encoder")
SHOWN = 0.5  # value from which an image shows a concept
# Without a known calibration: the most similar hundredth of all pairs of image and concept counts
# as shown, and two standard deviations of the cosines change a value from 0.5 to 0.98.
SHOWN_SHARE, STEEPNESS = 0.01, 2.0
GUESSED = (
    "no calibration of the encoder is known, and the probe has no labels to fit one: the most "
    f"similar {SHOWN_SHARE:.0%} of all pairs of image and concept count as shown"
)


@dataclass(frozen=True)
class ImageConcepts:
    """Values from 0 to 1 per image and concept."""

    names: tuple[str, ...]
    values: Float[Tensor, "images concepts"]
    facts: dict[str, Any] = field(default_factory=dict)  # for the manifest
    notes: tuple[str, ...] = ()

    @property
    def shown(self) -> Bool[Tensor, "images concepts"]:
        return self.values >= SHOWN

    def vocabulary(self, probe: str) -> Concepts:
        """Return the concepts as a set, named after their source and the probe."""
        return Concepts(f"{self.facts['source']} of {probe}", self.names)


def image_concepts(source: str, job: Job, captured: CapturedFeatures) -> ImageConcepts:
    """Return how far the captured images show concepts.

    Args:
        source: `labels` (classes or masks of the probe), `hypernyms` (classes and their WordNet
            hypernyms), or `encoder` (calibrated similarities of the job's concepts).

    Raises:
        DissectError: no labels, no class that WordNet knows, or no encoder and concepts.
    """
    check_choice("method.source", source, SOURCES)
    (probe,) = job.require("image concepts", ("probe",))
    if source == "encoder":
        return _of_encoder(job, captured)
    labels = of_probe(probe, captured.images)
    if source == "hypernyms":
        labels = _with_hypernyms(labels)
    return ImageConcepts(labels.names, labels.matrix.float(), {"source": source})


def _with_hypernyms(labels: ImageLabels) -> ImageLabels:
    """Return the labels and all their hypernyms, of which each image shows its labels'."""
    nouns = wordnet.installed() or wordnet.packaged()
    above: dict[str, list[int]] = {}
    for column, name in enumerate(labels.names):
        ancestors = {a for id in nouns.place(name) for a in nouns.ancestors(id)}
        for id in sorted(ancestors):
            above.setdefault(id, []).append(column)
    if not above:
        raise DissectError(
            f"WordNet knows none of the {len(labels.names)} labels, such as '{labels.names[0]}': "
            "hypernyms need English nouns or ImageNet's class names"
        )
    columns = {name: labels.matrix[:, n] for n, name in enumerate(labels.names)}
    for id, below in above.items():
        # A class itself, or a synset with the same images under another name, stays once.
        columns.setdefault(_name(nouns, id, columns), labels.matrix[:, below].any(1))
    return ImageLabels(tuple(columns), torch.stack([*columns.values()], 1))


def _name(nouns: wordnet.WordNet, id: str, known: Any) -> str:
    """Return a synset's first lemma, or its name (`crane.n.04`) if that is another's."""
    synset = nouns.synsets[id]
    lemma = synset.lemmas[0] if synset.lemmas else synset.name
    return synset.name if lemma in known else lemma


def _of_encoder(job: Job, captured: CapturedFeatures) -> ImageConcepts:
    concepts, encoder = job.require("the source encoder", ("concepts", "encoder"))
    device = job.settings.scoring_device
    texts = embed_concepts(encoder, concepts, job.store, job.settings)
    images = captured.image_embeds.to(device)
    cosines = images @ texts.embeddings.to(device).T
    calibration = published_calibration(encoder) or _fitted(job, captured, images)
    notes = list(texts.notes)
    if calibration is None:
        calibration = _guessed(cosines)
        notes.append(GUESSED)
    facts = {"source": "encoder", "calibration": vars(calibration)}
    return ImageConcepts(concepts.texts, calibration.simulate(cosines), facts, tuple(notes))


def _fitted(
    job: Job, captured: CapturedFeatures, images: Float[Tensor, "images dims"]
) -> Calibration | None:
    """Fit the calibration to the probe's labels; None if there are none."""
    probe, encoder = job.require("the source encoder", ("probe", "encoder"))
    try:
        labels = of_probe(probe, captured.images)
        names = Concepts("labels", labels.names)
        texts = embed_concepts(encoder, names, job.store, job.settings)
        cosines = images @ texts.embeddings.to(images.device).T
        return fit_calibration(cosines.cpu(), labels.matrix, f"labels of {probe.name}")
    except DissectError:  # no labels, or a single one
        return None


def _guessed(cosines: Float[Tensor, "images concepts"]) -> Calibration:
    flat = cosines.flatten()
    some = flat[:: max(1, len(flat) // 1_000_000)].double()
    scale = STEEPNESS / max(float(some.std()), 1e-9)
    return Calibration(scale, -float(torch.quantile(some, 1 - SHOWN_SHARE)), GUESSED)


def needs_of(source: str) -> tuple[str, ...]:
    """Return the inputs of a job that a source needs."""
    check_choice("method.source", source, SOURCES)
    of_encoder = ("concepts", "encoder") if source == "encoder" else ()
    return ("target", "probe", *of_encoder)
