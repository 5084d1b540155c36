"""MILAN as a method: exemplars, their features, and captions of units."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Int
from torch import Tensor

from clipdissect.dissection import log_skipped
from clipdissect.errors import DissectError
from clipdissect.masks.crop import without_crop
from clipdissect.masks.layers import LayerThresholds, layer_thresholds
from clipdissect.method.base import Job, Method
from clipdissect.method.milan import captions, checkpoint, exemplars, files
from clipdissect.method.milan.captions import BEAM, STRATEGIES, Captions, Decoding
from clipdissect.method.milan.checkpoint import Checkpoint
from clipdissect.method.milan.exemplars import Exemplars, Pictures
from clipdissect.method.milan.features import exemplar_features
from clipdissect.results.describe import description_columns, top_images_of_layer
from clipdissect.results.flags import COLUMN, DEAD, SATURATED, TIED, flags_of
from clipdissect.results.manifest import environment, run_manifest
from clipdissect.results.tables import ResultTables
from clipdissect.targets import Target
from clipdissect.utils.timing import Timers
from clipdissect.utils.type_checks import check_choice, check_range

ABOVE = 0.01  # share of positions above a unit's threshold: the 0.99 quantile
NO_LANGUAGE_MODEL = (
    "the checkpoint has no language model, so texts are ranked by their log-probability alone "
    "(method.strategy=beam)"
)


@dataclass(frozen=True, kw_only=True)
class Milan(Method):
    """The caption that MILAN's decoder gives the regions that a unit is most active on.

    Exemplars are a unit's top images by largest activation, each with a mask of the positions above
    the unit's 0.99 quantile over all images. `similarity` is the score of the strategy: for
    `rerank`, `log p(text | exemplars) - lam * log p(text)` of the `beam` texts with the largest
    `log p(text | exemplars)`, as in the published labels; `mi` subtracts at each step of the
    search; `beam` leaves the second term out, and greedy decoding is `beam` with one beam.

    Args:
        path: a released checkpoint.
        strategy: `rerank`, `mi` or `beam`.
        lam: weight of the language model.
        beam: texts that the search keeps.
        length: longest text, in tokens.
        temperature: the decoder's logits are divided by it.
        images: exemplars per unit.
        exemplars: a folder of exemplars as MILAN writes them, to describe instead of the target.
        memory: gigabytes for thresholds, and for features of exemplars.

    Source: Hernandez et al., "Natural Language Descriptions of Deep Visual Features", ICLR 2022.
    """

    path: str
    strategy: str = "rerank"
    lam: float = 0.2
    beam: int = 50
    length: int = 15
    temperature: float = 1.0
    images: int = 15
    exemplars: str | None = None
    memory: float = 2.0
    name: ClassVar[str] = "milan"

    def __post_init__(self) -> None:
        check_choice("method.strategy", self.strategy, STRATEGIES)
        for name in ("beam", "length", "images"):
            check_range(f"method.{name}", getattr(self, name), 1)
        check_range("method.lam", self.lam, 0)
        for name in ("temperature", "memory"):
            if getattr(self, name) <= 0:
                raise DissectError(f"method.{name} is {getattr(self, name)}; it must be above 0")

    @property
    def needs(self) -> tuple[str, ...]:
        return () if self.exemplars else ("target", "probe")

    @property
    def requires(self) -> tuple[str, ...]:
        return ("milan",)

    def describe(self, job: Job) -> ResultTables:
        timers = Timers()
        with timers.stage("load"):
            model = checkpoint.load(Path(self.path).expanduser()).to(job.settings.torch_device)
        if self.exemplars:
            folder = files.read(Path(self.exemplars).expanduser())
            return self._describe_files(folder, model, timers)
        return self._describe_target(job, model, timers)

    def _describe_target(self, job: Job, model: Checkpoint, timers: Timers) -> ResultTables:
        original, probe = job.require(self.name, self.needs)
        whole, notes = without_crop(original.preprocess)
        target = original.with_preprocess(whole)
        with timers.stage("levels"):
            found = layer_thresholds(
                target,
                target.layers,
                probe,
                job.store,
                job.settings,
                quantile=ABOVE,
                memory=self.memory,
            )
        log_skipped(found.left_out, len(probe))
        with timers.stage("maps"):
            layers = exemplars.of_probe(target, found, job.settings, self.images)

        def pictures(numbers: Int[Tensor, " images"]) -> Pictures:
            return exemplars.pictures(probe, whole, numbers, target.layers, job.settings)

        texts = self._captions(model, layers, pictures, timers)
        tables = [
            _table(layer, texts[layer], job.top).pipe(_with_thresholds, found, layer)
            for layer in target.layers
        ]
        names = [probe.images[i] for i in found.images]
        shown = [
            top_images_of_layer(layer, max_activations, names, job.images, layer in target.saes)
            for layer in target.layers
            for max_activations in (found.thresholds[layer].max_activation,)
        ]
        run = self._manifest(target, found, model, job, notes) | {"seconds": timers.seconds}
        return ResultTables(
            pd.concat(tables, ignore_index=True), pd.concat(shown, ignore_index=True), run
        )

    def _describe_files(
        self, folder: files.ExemplarFolder, model: Checkpoint, timers: Timers
    ) -> ResultTables:
        texts = self._captions(model, folder.layers, folder.pictures, timers)
        tables = [
            _table(layer, texts[layer], 1).assign(unit=of_layer.units)
            for layer, of_layer in folder.layers.items()
        ]
        run = {
            **environment(),
            "method": self._facts(model),
            "digests": {"milan": model.digest, "exemplars": folder.digest},
            "notes": self._notes(model),
            "seconds": timers.seconds,
            "computed": [],
        }
        no_images = pd.DataFrame(columns=["layer", "unit", "rank", "image", "activation"])
        return ResultTables(pd.concat(tables, ignore_index=True), no_images, run)

    def _captions(
        self,
        model: Checkpoint,
        layers: Mapping[str, Exemplars],
        pictures: Callable[[Int[Tensor, " images"]], Pictures],
        timers: Timers,
    ) -> dict[str, list[Captions]]:
        """Return the captions of each layer's units, a group of units after the other."""
        texts: dict[str, list[Captions]] = {layer: [] for layer in layers}
        decoding = self._decoding(model)
        for names, parts in _groups(layers, self._units_at_once(model)):
            with timers.stage("encoder"):
                numbers = exemplars.distinct(parts)
                features = exemplar_features(model.encoder, parts, pictures(numbers))
            with timers.stage("decoder"):
                for name, part, values in zip(names, parts, features, strict=True):
                    texts[name] += captions.captions(model, values, part.present, decoding)
        return texts

    def _decoding(self, model: Checkpoint) -> Decoding:
        values = {name: getattr(self, name) for name in Decoding.__dataclass_fields__}
        decoding = Decoding(**values)
        return decoding if model.lm else replace(decoding, strategy=BEAM)

    def _units_at_once(self, model: Checkpoint) -> int:
        """Return the units whose features fit the memory."""
        return max(1, int(self.memory * 1e9 / (4 * self.images * model.encoder.features)))

    def _notes(self, model: Checkpoint) -> list[str]:
        return [] if model.lm or self.strategy == BEAM else [NO_LANGUAGE_MODEL]

    def _facts(self, model: Checkpoint) -> dict[str, Any]:
        return {"name": self.name, **asdict(self), "checkpoint": model.facts}

    def _manifest(
        self,
        target: Target,
        found: LayerThresholds,
        model: Checkpoint,
        job: Job,
        notes: tuple[str, ...],
    ) -> dict[str, Any]:
        notes = (*target.notes, *found.probe.notes, *found.notes, *notes)
        return run_manifest(
            target,
            found.probe,
            job.settings,
            images_used=len(found.images),
            skipped=found.left_out,
            notes=[*notes, *self._notes(model)],
            digests={**found.digests, "milan": model.digest},
            computed=found.computed,
            fits=found.fits,
            method=self._facts(model),
            threshold_error={layer: of.error for layer, of in found.thresholds.items()},
        )


def _groups(
    layers: Mapping[str, Exemplars], limit: int
) -> Iterator[tuple[list[str], list[Exemplars]]]:
    """Yield layers, or parts of them, of at most `limit` units in all."""
    names: list[str] = []
    parts: list[Exemplars] = []
    free = limit
    for name, of_layer in layers.items():
        first, count = 0, len(of_layer.images)
        while first < count:
            stop = min(count, first + free)
            names.append(name)
            parts.append(of_layer.part(first, stop))
            free -= stop - first
            first = stop
            if not free:
                yield names, parts
                names, parts, free = [], [], limit
    if parts:
        yield names, parts


def _table(layer: str, found: list[Captions], top: int) -> pd.DataFrame:
    texts, scores = zip(*found, strict=True)
    columns: dict[str, Any] = {"layer": layer, "unit": range(len(found))}
    table: pd.DataFrame = pd.DataFrame(columns | description_columns(texts, scores, top))
    return table


def _with_thresholds(table: pd.DataFrame, found: LayerThresholds, layer: str) -> pd.DataFrame:
    """Add the units' flags, and the thresholds of their masks."""
    thresholds = found.thresholds[layer]
    flags = {
        DEAD: thresholds.dead.numpy(),
        TIED: (table["margin"] == 0).to_numpy(dtype=bool),
        SATURATED: thresholds.saturated.numpy(),
    }
    table[COLUMN] = flags_of(flags)
    table["threshold"] = np.asarray(thresholds.values)
    return table
