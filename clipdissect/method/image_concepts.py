"""How far images show concepts: by their labels, these labels' hypernyms, or an encoder."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from clipdissect.capture.capture import capture
from clipdissect.capture.capture import run_worker as run_capture_worker
from clipdissect.capture.features import CapturedFeatures
from clipdissect.concepts import Concepts
from clipdissect.datasets import wordnet
from clipdissect.dissection import Job, embed_concepts
from clipdissect.encoder import Encoder
from clipdissect.encoder.calibration import Calibration, fit_to_labels, published_calibration
from clipdissect.errors import DissectError
from clipdissect.method.base import Method
from clipdissect.probe.image_labels import ImageLabels, of_probe
from clipdissect.utils.type_checks import check_choice

SOURCES = ("labels", "hypernyms", "encoder")
PHYSICAL = "n00001930"  # physical_entity.n.01: of a word's meanings, images show these
SHOWN = 0.5  # value from which an image shows a concept
# A calibration fitted to labels that are finer than the concepts, such as one image per class,
# shows next to nothing: fewer than this share of the concepts on so many images.
LEAST_CONCEPTS, LEAST_IMAGES = 0.01, 5
# Without a calibration: the most similar hundredth of all pairs of image and concept counts
# as shown, and two standard deviations of the cosines change a value from 0.5 to 0.98.
SHOWN_SHARE, STEEPNESS = 0.01, 2.0
SAMPLED = 1_000_000  # pairs, about
GUESSED = (
    "no calibration of the encoder is known, and none can be fitted to the probe's labels: the "
    f"most similar {SHOWN_SHARE:.0%} of all pairs of image and concept count as shown"
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


class ImageConceptsMethod(Method):
    """A method that compares the activations of all images with their concepts."""

    source: str  # of `SOURCES`

    @property
    def needs(self) -> tuple[str, ...]:
        return needs_of(self.source)

    @property
    def requires(self) -> tuple[str, ...]:
        return super().requires if self.source == "encoder" else ("labels",)

    @abstractmethod
    def check(self, job: Job) -> None:
        """Raise a DissectError for an unsuitable job, before any network runs."""

    def encoder_of(self, job: Job) -> Encoder | None:
        return job.encoder if self.source == "encoder" else None

    def capture(self, job: Job) -> CapturedFeatures:
        """Capture the job's layers and, for the source encoder, its embeddings."""
        target, probe = job.require(self.name, ("target", "probe"))
        inputs = target, target.layers, self.encoder_of(job), probe, job.store, job.settings
        return capture(*inputs, top_k=job.images, team=job.team)

    def run_worker(self, job: Job) -> None:
        target, probe = job.require(self.name, self.needs)[:2]
        self.check(job)
        if job.store is None:
            raise DissectError("processes share images through the store: set a store")
        inputs = target, target.layers, self.encoder_of(job), probe, job.store, job.settings
        run_capture_worker(*inputs, top_k=job.images, team=job.team)


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
    facts = {"source": source}
    if source == "hypernyms":
        nouns = wordnet.installed() or wordnet.packaged()
        labels, facts = with_hypernyms(labels, nouns), facts | {"hypernyms": nouns.source}
    return ImageConcepts(labels.names, labels.matrix.float(), facts)


def with_hypernyms(labels: ImageLabels, nouns: wordnet.WordNet) -> ImageLabels:
    """Return the labels and their hypernyms, which the images of all labels below show.

    Of hypernyms of the same labels the most specific is taken, and of those that every image
    shows none. A label that is above others becomes their hypernym itself.

    Raises:
        DissectError: WordNet knows none of the labels.
    """
    meanings = [_meaning(nouns, name) for name in labels.names]
    below: dict[str, list[int]] = {}
    for column, meaning in enumerate(meanings):
        for id in nouns.ancestors(meaning) if meaning else ():
            below.setdefault(id, []).append(column)
    if not below:
        raise DissectError(
            f"WordNet knows none of the {len(labels.names)} labels, such as '{labels.names[0]}': "
            "hypernyms need English nouns or ImageNet's class names"
        )
    columns = labels.matrix.T.contiguous()
    own = [below[id] if id else [column] for column, id in enumerate(meanings)]
    distinct: dict[tuple[int, ...], str | None] = {tuple(rows): None for rows in own}
    for id in sorted(below, key=lambda id: (-len(nouns.ancestors(id)), id)):
        distinct.setdefault(tuple(below[id]), id)
    above = [id for id in distinct.values() if id and not columns[below[id]].any(0).all()]
    names = (*labels.names, *_names(nouns, above, labels.names))
    rows = [columns[of].any(0) for of in (*own, *(below[id] for id in above))]
    return ImageLabels(names, torch.stack(rows, 1))


def _meaning(nouns: wordnet.WordNet, label: str) -> str | None:
    """Return the id of a label's first meaning as a physical thing, or else its first meaning."""
    synsets = [nouns.synsets[id] for id in nouns.place(label)]
    word = label.lower().replace(" ", "_")
    # Synsets are named after their first lemma: `cat` is in caterpillar.n.02 and in cat.n.01.
    order = [(not s.name.startswith(f"{word}.n."), s.name[-2:], s.id) for s in synsets]
    ids = [id for *_, id in sorted(order)]
    things = [id for id in ids if PHYSICAL in nouns.ancestors(id)]
    return next(iter(things or ids), None)


def _names(nouns: wordnet.WordNet, ids: Sequence[str], labels: Sequence[str]) -> Iterator[str]:
    """Yield each synset's first lemma, or its name (`car.n.02`) if that is another's."""
    first: dict[str, str] = {}
    for name in sorted(nouns.synsets[id].name for id in ids):
        first.setdefault(name.rpartition(".n.")[0], name)  # of the least sense number
    for id in ids:
        synset = nouns.synsets[id]
        is_first = first[synset.name.rpartition(".n.")[0]] == synset.name
        yield synset.lemmas[0] if is_first and synset.lemmas[0] not in labels else synset.name


def _of_encoder(job: Job, captured: CapturedFeatures) -> ImageConcepts:
    concepts, encoder = job.require("the source encoder", ("concepts", "encoder"))
    device = job.settings.scoring_device
    texts = embed_concepts(encoder, concepts, job.store, job.settings)
    images = captured.image_embeds.to(device)
    cosines = images @ texts.embeddings.to(device).T
    calibration = published_calibration(encoder) or _fitted(job, captured, images, cosines)
    notes = list(texts.notes)
    if calibration is None:
        calibration = _guessed(cosines)
        notes.append(GUESSED)
    facts = {"source": "encoder", "calibration": vars(calibration)}
    return ImageConcepts(concepts.texts, calibration.simulate(cosines), facts, tuple(notes))


def _fitted(
    job: Job,
    captured: CapturedFeatures,
    images: Float[Tensor, "images dims"],
    cosines: Float[Tensor, "images concepts"],
) -> Calibration | None:
    """Fit the calibration to the probe's labels; None if there are none, or none that suit."""
    probe, encoder = job.require("the source encoder", ("probe", "encoder"))

    def cosines_of(texts: Sequence[str]) -> Float[Tensor, "images texts"]:
        names = Concepts("labels", tuple(texts))
        embedded = embed_concepts(encoder, names, job.store, job.settings)
        return images @ embedded.embeddings.to(images.device).T

    fitted = fit_to_labels(probe, captured.images, cosines_of)
    if fitted is None:
        return None
    most = cosines.topk(min(LEAST_IMAGES, len(cosines)), 0).values
    is_shown = fitted.simulate(most).mean(0) >= SHOWN
    return fitted if is_shown.float().mean() >= LEAST_CONCEPTS else None


def _guessed(cosines: Float[Tensor, "images concepts"]) -> Calibration:
    flat = cosines.flatten()
    step = max(1, len(flat) // SAMPLED)
    while math.gcd(step, cosines.shape[1]) > 1:  # else pairs of the same few concepts
        step += 1
    some = flat[::step].double()
    scale = STEEPNESS / max(float(some.std()), 1e-9)
    return Calibration(scale, -float(torch.quantile(some, 1 - SHOWN_SHARE)), GUESSED)


def needs_of(source: str) -> tuple[str, ...]:
    """Return the inputs of a job that a source needs."""
    check_choice("method.source", source, SOURCES)
    of_encoder = ("concepts", "encoder") if source == "encoder" else ()
    return ("target", "probe", *of_encoder)
