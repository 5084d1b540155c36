"""Captions of a unit's top images, reranked as in MILAN."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from clipdissect.capture.activations import dead_units, top_of
from clipdissect.capture.capture import capture
from clipdissect.capture.features import CapturedFeatures
from clipdissect.errors import DissectError
from clipdissect.images.decode import to_pil
from clipdissect.method.base import Job, Method
from clipdissect.probe import Probe
from clipdissect.results.describe import top_images_of_layer
from clipdissect.results.flags import COLUMN, DEAD, flags_of
from clipdissect.results.provenance import git_state, machine, versions
from clipdissect.results.result import Result
from clipdissect.utils.timing import Timers

DECODED = 512  # images that are kept decoded


@dataclass(frozen=True, kw_only=True)
class Captioner(Method):
    """Describe a unit by a caption of its top images (`job.images` of them, 10 by default).

    The candidates are the captions of each image and, where the model can, those of the mean of the
    images' features. Where the model gives log-probabilities, the best candidate is that with the
    largest

        mean_i log p(text | x_i) - lam * log p(text)

    with `i` over the unit's top images, `log p(text | x)` the sum over the text's tokens, the end
    included, and `p(text) = mean_j p(text | x_j)` over `prior_images` images spread evenly over the
    probe (MILAN trains a language model for it). Otherwise the score is the share of the top images
    that have the text among their captions.

    Args:
        model: a folder with a model of transformers for captions (safetensors, image processor and
            tokenizer), or an object with `captions`; see `captioning.ImageCaptioner`.
        lam: weight of the text's own probability; 0 leaves it out.
        candidates: captions an image.
        beams: of the beam search; at least `candidates`.
        max_tokens: of a caption.
        mean: whether to caption the mean of the images' features too.
        rerank: candidates a unit that are scored: the most frequent, earlier ones first.
        prior_images: images that the text's own probability is taken from.

    Raises:
        DissectError: a value that isn't allowed.

    Source: Hernandez et al., ICLR 2022, "Natural Language Descriptions of Deep Visual Features".
    """

    model: Any
    lam: float = 0.2
    candidates: int = 3
    beams: int = 5
    max_tokens: int = 20
    mean: bool = True
    rerank: int = 20
    prior_images: int = 16
    name: ClassVar[str] = "captioner"
    needs: ClassVar[tuple[str, ...]] = ("target", "probe")

    def __post_init__(self) -> None:
        """Check what doesn't depend on the model."""
        for field in ("candidates", "beams", "max_tokens", "rerank", "prior_images"):
            if getattr(self, field) < 1:
                raise DissectError(f"method.{field} must be at least 1; got {getattr(self, field)}")
        if self.beams < self.candidates:
            raise DissectError(f"method.beams is {self.beams}; it must be at least "
                               f"method.candidates, {self.candidates}")  # fmt: skip
        if self.lam < 0:
            raise DissectError(f"method.lam must be at least 0; got {self.lam}")

    def describe(self, job: Job) -> Result:
        """The best captions of every unit of the target's layers.

        Raises:
            MissingResource: there is no such folder.
            DissectError: the folder holds no captioning model; or as `capture`.
        """
        parts, stages = job.parts(self), Timers()
        target, probe = parts["target"], parts["probe"]
        with stages.stage("load"):
            model = self._model(job)
        with stages.stage("images"):
            captured = capture(target, target.layers, None, probe, job.store, job.settings,
                               top_k=job.images, team=job.team)  # fmt: skip
        with stages.stage("captions"):
            captions = _Captions(self, model, probe, captured)
            tables, shown = [], []
            for layer, q in captured.activations.items():
                dead = dead_units(q).tolist()
                images = top_of(q, job.images).indices.T.tolist()
                rows = [[] if dead[u] else captions.best(own) for u, own in enumerate(images)]
                tables.append(_table(layer, rows, dead, job.top))
                shown.append(top_images_of_layer(layer, q, captured.images, job.images))
        run = self._run(job, captured, model)
        run["seconds"], run["seconds_of_images"] = stages.seconds, captured.seconds
        return Result(pd.concat(tables, ignore_index=True), pd.concat(shown, ignore_index=True),
                      run)  # fmt: skip

    def _model(self, job: Job) -> Any:
        if not isinstance(self.model, (str, Path)):
            if not callable(getattr(self.model, "captions", None)):
                raise DissectError("method.model must be a folder, or an object with a method "
                                   "captions(images, count)")  # fmt: skip
            return self.model
        from clipdissect.method.captioning import load

        return load(str(self.model), self.beams, self.max_tokens, job.settings.torch_device)

    def _run(self, job: Job, captured: CapturedFeatures, model: Any) -> dict[str, Any]:
        assert job.target is not None
        assert job.probe is not None
        values = {k: getattr(self, k) for k in self.__dataclass_fields__ if k != "model"}
        named = getattr(model, "name", type(model).__name__)
        return {
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            "versions": versions(), "machine": machine(),
            "git": git_state(Path(__file__).parents[2]),
            "target": job.target.facts,
            "probe": {"name": job.probe.name, "images": len(job.probe),
                      "used": len(captured.images), "skipped": captured.skipped},
            "method": {"name": self.name, "model": named, **values, "images": job.images},
            "precision": job.settings.numeric,
            "notes": [*job.target.notes, *job.probe.notes, *captured.notes],
            "digests": {**captured.digests, "captioner": getattr(model, "digest", None)},
            "computed": list(captured.computed),
        }  # fmt: skip


class _Captions:
    """Captions and scores of a probe's images, each image captioned once."""

    def __init__(
        self, how: Captioner, model: Any, probe: Probe, captured: CapturedFeatures
    ) -> None:
        self.how, self.model, self.probe = how, model, probe
        numbers = {name: i for i, name in enumerate(probe.images)}
        self.numbers = [numbers[name] for name in captured.images]
        self.decoded: OrderedDict[int, Image.Image] = OrderedDict()
        self.captions: dict[int, list[str]] = {}
        self.priors: dict[str, float] = {}
        count = min(how.prior_images, len(self.numbers))
        self.spread = [len(self.numbers) * j // count for j in range(count)]

    def best(self, images: Sequence[int]) -> list[tuple[str, float]]:
        """All scored candidates of a unit with their scores, best first.

        Args:
            images: its top images, numbers among the readable ones.
        """
        pictures = [self._picture(i) for i in images]
        found = [self._of_image(i, picture) for i, picture in zip(images, pictures, strict=True)]
        votes = Counter(text for texts in found for text in dict.fromkeys(texts))
        if self.how.mean and hasattr(self.model, "captions_of_mean"):
            votes.update(self.model.captions_of_mean(pictures, self.how.candidates))
        texts = [text for text, _ in votes.most_common(self.how.rerank) if text]
        if not texts:
            return []
        if hasattr(self.model, "log_probs"):
            joint = self.model.log_probs(texts, pictures).double().mean(0)
            scores = (joint - self.how.lam * self._prior(texts)).tolist() if self.how.lam else (
                joint.tolist())  # fmt: skip
        else:
            scores = [sum(text in own for own in found) / len(found) for text in texts]
        order = sorted(range(len(texts)), key=lambda n: -scores[n])  # stable: frequent ones first
        return [(texts[n], scores[n]) for n in order]

    def _prior(self, texts: Sequence[str]) -> Float[Tensor, " texts"]:
        """`log p(text)`: the logarithm of the mean probability over the spread images."""
        new = [text for text in texts if text not in self.priors]
        if new:
            each = self.model.log_probs(new, [self._picture(i) for i in self.spread]).double()
            values = torch.logsumexp(each, 0) - np.log(len(self.spread))
            self.priors.update(zip(new, values.tolist(), strict=True))
        return torch.tensor([self.priors[text] for text in texts], dtype=torch.float64)

    def _of_image(self, image: int, picture: Image.Image) -> list[str]:
        if image not in self.captions:
            self.captions[image] = self.model.captions([picture], self.how.candidates)[0]
        return self.captions[image]

    def _picture(self, image: int) -> Image.Image:
        if image not in self.decoded:
            self.decoded[image] = to_pil(self.probe.read(self.numbers[image]))
            if len(self.decoded) > DECODED:
                self.decoded.popitem(last=False)
        self.decoded.move_to_end(image)
        return self.decoded[image]


def _table(
    layer: str, rows: Sequence[Sequence[tuple[str, float]]], dead: Sequence[bool], top: int
) -> pd.DataFrame:
    """Descriptions of a layer's units: as many columns of runners-up as `top` allows."""
    table: dict[str, Any] = {"layer": layer, "unit": range(len(rows))}
    for rank in range(min(top, max(map(len, rows), default=0)) or 1):
        ending = "" if rank == 0 else f"_{rank + 1}"
        own = [row[rank] if rank < len(row) else ("", np.nan) for row in rows]
        table[f"description{ending}"] = [text for text, _ in own]
        table[f"similarity{ending}"] = [score for _, score in own]
    scores = [[score for _, score in row] for row in rows]
    table["margin"] = [s[0] - s[1] if len(s) > 1 else np.nan for s in scores]
    table[COLUMN] = flags_of({DEAD: np.array(dead, dtype=bool)})
    found: pd.DataFrame = pd.DataFrame(table)
    return found
