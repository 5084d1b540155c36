"""Images of texts from a probe with labels: those that are labelled with the text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

from clipdissect.datasets.places365 import match_key
from clipdissect.datasets.segmentation import COLOUR_SUFFIX, Concept, SegmentationLabels
from clipdissect.errors import DissectError
from clipdissect.probe import Probe, resolve
from clipdissect.utils import hashing
from clipdissect.utils.progress import progress
from clipdissect.utils.type_checks import check_range


@dataclass(frozen=True)
class Labelled:
    """The `limit` images per text on which its class or mask covers the most pixels."""

    probe: Probe | None
    limit: int
    name: ClassVar[str] = "labelled"

    def bind(self, probe: Probe) -> Labelled:
        """Return the source with `probe`, unless it has one."""
        return self if self.probe else replace(self, probe=probe)

    @cached_property
    def digest(self) -> str:
        """A hash of the images and all labels."""
        probe = self._labelled_probe
        masks = probe.masks.digest() if probe.masks else None
        return hashing.hash_values(
            "text images", self.name, self.limit, probe.digest, probe.labels, masks
        )

    @property
    def notes(self) -> tuple[str, ...]:
        probe = self._labelled_probe.name
        return (f"the images of a text are those of probe {probe} that are labelled with it",)

    def images_of(self, text: str) -> Probe | None:
        """Return the text's images, in the probe's order; None if it labels none."""
        shares = self._shares.get(match_key(text))
        if not shares:
            return None
        largest = sorted(shares, key=lambda image: (-shares[image], image))[: self.limit]
        return self._labelled_probe.subset(sorted(largest))

    @property
    def _labelled_probe(self) -> Probe:
        if self.probe is None:
            raise DissectError("text_images=labelled has no probe: set text_images.probe")
        if self.probe.labels is None and self.probe.masks is None:
            raise DissectError(
                f"probe {self.probe.name} has neither labels nor masks to find texts' images by: "
                f"set text_images.probe to one that has, such as "
                f"'{{name: folder, root: PATH, labels: folders}}'"
            )
        return self.probe

    @cached_property
    def _shares(self) -> dict[str, dict[int, float]]:
        """The share of pixels per text and image; a class label covers all."""
        probe = self._labelled_probe
        shares: dict[str, dict[int, float]] = defaultdict(dict)
        for image, label in enumerate(probe.labels or ()):
            if label is not None:
                shares[match_key(label)][image] = 1.0
        for image, key, share in _mask_shares(probe.masks) if probe.masks else ():
            shares[key][image] = max(share, shares[key].get(image, 0.0))
        return dict(shares)


def _mask_shares(masks: SegmentationLabels) -> Iterator[tuple[int, str, float]]:
    keys = [_keys(concept) for concept in masks.concepts]
    for image in progress(range(len(masks)), "labels", "img"):
        for number, mask in masks.read(image).concepts().items():
            for key in keys[number]:
                yield image, key, float(mask.mean())


def _keys(concept: Concept) -> set[str]:
    """Return the keys of the texts that name a concept: `red` and `red-c`."""
    names = {concept.text}
    if concept.category == "color":
        names.add(concept.text.removesuffix(COLOUR_SUFFIX))
    return {match_key(name) for name in names}


def labelled(probe: Any = None, limit: int = 50) -> Labelled:
    """Use a probe's images whose class, or a concept in their masks, is the text.

    Args:
        probe: a probe's name, `{name: folder, root: /x, labels: folders}`, or a `Probe`; None: the
            held-out images of the run.
        limit: images per text; where a text has more, those that it covers most of.
    """
    check_range("text_images.limit", limit, 1)
    return Labelled(None if probe is None else resolve(probe), limit)
