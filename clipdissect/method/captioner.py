"""Captions of top images, reranked as in MILAN."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from clipdissect.capture.activations import Activations, dead_units, top_of
from clipdissect.capture.capture import capture
from clipdissect.capture.features import CapturedFeatures
from clipdissect.errors import DissectError
from clipdissect.images.decode import to_pil
from clipdissect.method.base import Job, Method
from clipdissect.method.crops import Crop, Crops, UnitCrops, find_crops
from clipdissect.probe import Probe
from clipdissect.results.describe import (
    description_columns,
    firing_columns,
    top_images_of_layer,
)
from clipdissect.results.flags import COLUMN, DEAD, flags_of
from clipdissect.results.manifest import run_manifest
from clipdissect.results.tables import ResultTables
from clipdissect.utils.timing import Timers

DECODED_IMAGES = 512  # size of the cache
Part = int | Crop  # a row of the captured images, or a part of one


@dataclass(frozen=True, kw_only=True)
class Captioner(Method):
    """The best caption of each unit's top images (`job.images`, 10 by default), as in MILAN.

    Candidates are captions of each image and of the mean of the images' features. Their score is
    `mean_i log p(text | x_i) - lam * log p(text)` over the top images i, with
    `p(text) = mean_j p(text | x_j)` over `prior_images` (MILAN trains a language model for it).
    For a model without log-probabilities it is the share of top images with this caption.

    Args:
        model: a folder as `save_pretrained` writes it, or a `captioning.ImageCaptioner`.
        lam: weight of the text's prior; 0 leaves it out.
        candidates: captions per image.
        beams: width of the beam search; at least `candidates`.
        max_tokens: longest caption.
        mean: whether to caption the mean of the images' features too.
        rerank: candidates scored per unit, the most frequent first.
        prior_images: images for the text's prior, evenly spread over the probe.
        crops: whether to caption the top images where the unit is active, instead of whole images;
            see `crops`.

    Source: Hernandez et al., "Natural Language Descriptions of Deep Visual Features", ICLR 2022.
    """

    model: Any
    lam: float = 0.2
    candidates: int = 3
    beams: int = 5
    max_tokens: int = 20
    mean: bool = True
    rerank: int = 20
    prior_images: int = 16
    crops: bool = False
    name: ClassVar[str] = "captioner"
    needs: ClassVar[tuple[str, ...]] = ("target", "probe")

    def __post_init__(self) -> None:
        for field in ("candidates", "beams", "max_tokens", "rerank", "prior_images"):
            if getattr(self, field) < 1:
                raise DissectError(f"method.{field} must be at least 1; got {getattr(self, field)}")
        if self.beams < self.candidates:
            raise DissectError(
                f"method.beams is {self.beams}; it must be at least method.candidates, "
                f"{self.candidates}"
            )
        if self.lam < 0:
            raise DissectError(f"method.lam must be at least 0; got {self.lam}")

    def describe(self, job: Job) -> ResultTables:
        target, probe = job.require(self.name, self.needs)
        timers = Timers()
        with timers.stage("load"):
            model = self._load_model(job.settings.torch_device)
        with timers.stage("images"):
            captured = capture(
                target,
                target.layers,
                None,
                probe,
                job.store,
                job.settings,
                top_k=job.images,
                team=job.team,
            )
        crops = Crops({})
        if self.crops:
            with timers.stage("crops"):
                crops = find_crops(job, captured, job.images)
        with timers.stage("captions"):
            captions = _Captions(self, model, probe, captured)
            tables, top_images = [], []
            for layer, q in captured.activations.items():
                firing = captured.firing.get(layer)
                silent = firing is not None and firing.images == 0
                dead = (dead_units(q) | silent).numpy()
                unit_images = _top_images(q, job.images, firing is not None)
                parts = _parts(unit_images, crops.layers.get(layer, []))
                ranked = [
                    ([], []) if is_dead else captions.rank(images)
                    for images, is_dead in zip(parts, dead, strict=True)
                ]
                table = _table(layer, ranked, dead, job.top)
                tables.append(table.assign(**firing_columns(firing)) if firing else table)
                shown = layer, q, captured.images, job.images, firing is not None
                top_images.append(top_images_of_layer(*shown))
        run = self._manifest(job, captured, model, crops)
        run["seconds"], run["seconds_of_images"] = timers.seconds, captured.seconds
        return ResultTables(
            pd.concat(tables, ignore_index=True), pd.concat(top_images, ignore_index=True), run
        )

    def _load_model(self, device: str) -> Any:
        if isinstance(self.model, (str, Path)):
            from clipdissect.method.captioning import load

            return load(str(self.model), self.beams, self.max_tokens, device)
        if not callable(getattr(self.model, "captions", None)):
            raise DissectError(
                "method.model must be a folder, or an object with a method captions(images, count)"
            )
        return self.model

    def _manifest(
        self, job: Job, captured: CapturedFeatures, model: Any, crops: Crops
    ) -> dict[str, Any]:
        target, probe = job.require(self.name, self.needs)
        values = {k: getattr(self, k) for k in self.__dataclass_fields__ if k != "model"}
        model_name = getattr(model, "name", type(model).__name__)
        return run_manifest(
            target,
            probe,
            job.settings,
            images_used=len(captured.images),
            skipped=captured.skipped,
            notes=[*target.notes, *probe.notes, *captured.notes, *crops.notes],
            digests={**captured.digests, "captioner": getattr(model, "digest", None)},
            computed=captured.computed,
            fits=captured.fits,
            method={"name": self.name, "model": model_name, **values, "images": job.images},
            crops={"distinct": len(crops.distinct), "layers": crops.facts} if self.crops else None,
        )


class _Captions:
    """Captions and scores of a probe's images; each image is captioned once."""

    def __init__(
        self, settings: Captioner, model: Any, probe: Probe, captured: CapturedFeatures
    ) -> None:
        self.settings, self.model, self.probe = settings, model, probe
        numbers = {name: i for i, name in enumerate(probe.images)}
        self.numbers = [numbers[name] for name in captured.images]
        self.decoded: OrderedDict[Part, Image.Image] = OrderedDict()
        self.captions: dict[Part, list[str]] = {}
        self.priors: dict[str, float] = {}
        count = min(settings.prior_images, len(self.numbers))
        self.prior_images = [len(self.numbers) * j // count for j in range(count)]

    def rank(self, images: Sequence[Part]) -> tuple[list[str], list[float]]:
        """Return a unit's candidate captions and their scores, best first."""
        pictures = [self._picture(i) for i in images]
        captions = [self._captions_of(i) for i in images]
        votes = Counter(text for texts in captions for text in dict.fromkeys(texts))
        if self.settings.mean and hasattr(self.model, "captions_of_mean"):
            votes.update(self.model.captions_of_mean(pictures, self.settings.candidates))
        texts = [text for text, _ in votes.most_common(self.settings.rerank) if text]
        if not texts:
            return [], []
        if hasattr(self.model, "log_probs"):
            log_probs = self.model.log_probs(texts, pictures).double().mean(0)
            if self.settings.lam:
                log_probs = log_probs - self.settings.lam * self._log_prior(texts)
            scores = log_probs.tolist()
        else:
            scores = [sum(text in c for c in captions) / len(captions) for text in texts]
        order = sorted(range(len(texts)), key=lambda n: -scores[n])  # stable: frequent ones first
        return [texts[n] for n in order], [scores[n] for n in order]

    def _log_prior(self, texts: Sequence[str]) -> Float[Tensor, " texts"]:
        """Compute `log p(text)`: the log of the mean probability over the prior images."""
        new = [text for text in texts if text not in self.priors]
        if new:
            pictures = [self._picture(i) for i in self.prior_images]
            log_probs = self.model.log_probs(new, pictures).double()
            values = torch.logsumexp(log_probs, 0) - np.log(len(pictures))
            self.priors.update(zip(new, values.tolist(), strict=True))
        return torch.tensor([self.priors[text] for text in texts], dtype=torch.float64)

    def _captions_of(self, image: Part) -> list[str]:
        if image not in self.captions:
            picture = self._picture(image)
            self.captions[image] = self.model.captions([picture], self.settings.candidates)[0]
        return self.captions[image]

    def _picture(self, image: Part) -> Image.Image:
        if image not in self.decoded:
            if isinstance(image, Crop):
                self.decoded[image] = image.of(to_pil(self.probe.read(image.image)))
            else:
                self.decoded[image] = to_pil(self.probe.read(self.numbers[image]))
            if len(self.decoded) > DECODED_IMAGES:
                self.decoded.popitem(last=False)
        self.decoded.move_to_end(image)
        return self.decoded[image]


def _top_images(q: Activations, count: int, latents: bool) -> list[list[int]]:
    """Return each unit's top images, without those on which latents are silent."""
    top = top_of(q, count)
    rows = zip(top.indices.T.tolist(), (top.values > 0).T.tolist(), strict=True)
    return [[i for i, fires in zip(*row, strict=True) if fires or not latents] for row in rows]


def _parts(images: Sequence[Sequence[int]], crops: Sequence[UnitCrops]) -> list[list[Part]]:
    """Return each unit's crops in place of the images that have any."""
    return [
        [
            part
            for image, of_image in zip_longest(of_unit, (unit_crops or [])[: len(of_unit)])
            for part in of_image or [image]
        ]
        for of_unit, unit_crops in zip_longest(images, crops)
    ]


def _table(
    layer: str,
    ranked: Sequence[tuple[Sequence[str], Sequence[float]]],
    dead: Bool[np.ndarray, " units"],
    top: int,
) -> pd.DataFrame:
    """Return descriptions of a layer's units, with at most `top` captions per unit."""
    texts, scores = zip(*ranked, strict=True)
    columns: dict[str, Any] = {"layer": layer, "unit": range(len(ranked))}
    most = max(map(len, texts), default=0)
    columns |= description_columns(texts, scores, min(top, most) or 1)
    columns[COLUMN] = flags_of({DEAD: dead})
    table: pd.DataFrame = pd.DataFrame(columns)
    return table
