"""WebDataset tar shards as a probe, for image sets too large for a folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clipdissect.datasets.class_names import class_names
from clipdissect.errors import DissectError
from clipdissect.images.decode import Picture, UnreadableImage, decode_picture
from clipdissect.probe.base import Labels, Probe
from clipdissect.probe.image_files import file_identities
from clipdissect.probe.options import ProbeOptions, not_empty
from clipdissect.probe.shards import (
    Shard,
    extensions_of,
    find_shards,
    index_shard,
    select_images,
    shard_notes,
)
from clipdissect.utils import hashing


@dataclass(frozen=True)
class ShardReader:
    """Decoder of images, given the shard, offset and size of their bytes."""

    images: tuple[tuple[Shard, int, int], ...]
    decode: str = "pil"
    orientation: str = "ignore"

    def __call__(self, index: int) -> Picture:
        shard, offset, size = self.images[index]
        try:
            data = shard.read(offset, size)
        except Exception as error:  # each fsspec file system raises its own
            raise UnreadableImage(f"{type(error).__name__}: {error}", transient=True) from error
        if len(data) < size:
            raise UnreadableImage(f"the shard {shard.name} is truncated")
        return decode_picture(data, self.decode, self.orientation)


def webdataset(
    shards: Any,
    image: Any = None,
    classes: str | None = None,
    limit: int | None = None,
    sample: int | None = None,
    seed: int = 0,
    identity: str = "stat",
    decode: str = "pil",
    orientation: str = "ignore",
    on_error: str = "skip",
) -> Probe:
    """Use the images in tar files (https://github.com/webdataset/webdataset), in file order.

    A sample's files share the name up to the first dot; see `select_images`.

    Args:
        shards: paths or fsspec URLs, with braces (`train-{000..009}.tar`) and wildcards.
        image: extensions, the best first, or `*.png`; default: `jpg`, `png` and the like.
        classes: names of numeric labels (`.cls`): a file, one per line, or `imagenet`.
        limit, sample, seed, identity, decode, orientation, on_error: see `ProbeOptions`.
        identity: of whole shards: `stat` (a URL's ETag) or `content`, for local ones.
    """
    options = ProbeOptions(limit, sample, seed, identity, decode, on_error, orientation)
    not_empty(classes=classes)
    extensions = extensions_of(image)
    files = find_shards(shards)
    versions = [shard.version() for shard in files]
    indexes = [index_shard(*pair) for pair in zip(files, versions, strict=True)]
    selected = [select_images(index, extensions) for index in indexes]
    notes = shard_notes(selected, sum(index.hidden for index in indexes))
    digests = [_digest(*pair, identity) for pair in zip(files, versions, strict=True)]
    all_images = [
        (shard, member, label)
        for shard, images in enumerate(selected)
        for member, label in zip(images.images, images.labels, strict=True)
    ]
    chosen = [all_images[i] for i in options.pick(len(all_images))]
    names = _unique_names(files)
    places = tuple((files[shard], member.offset, member.size) for shard, member, _ in chosen)
    return Probe.of(
        "webdataset",
        [f"{names[shard]}/{member.name}" for shard, member, _ in chosen],
        ShardReader(places, **options.reading),
        options.identities([f"{digests[shard]} {member.name}" for shard, member, _ in chosen]),
        on_error=on_error,
        on_gpu=options.on_gpu,
        notes=(*notes, *options.orientation_notes(m.orientation for _, m, _ in chosen)),
        labels=_labels([label for *_, label in chosen], classes),
    )


def _digest(shard: Shard, version: Any, identity: str) -> str:
    if identity == "stat":
        return hashing.hash_values(shard.name, version)
    if shard.file is None:
        raise DissectError(f"identity=content can't hash {shard.address}: only local shards")
    return file_identities(shard.file.parent, [shard.file.name], "content")[0]


def _unique_names(shards: Sequence[Shard]) -> list[str]:
    counts = Counter(shard.name for shard in shards)
    return [s.name if counts[s.name] == 1 else s.address for s in shards]


def _labels(labels: Sequence[str | None], classes: str | None) -> Labels | None:
    if classes is not None:
        names = class_names(classes, option="probe.classes")
        labels = [label and _class_name(label, names) for label in labels]
    return tuple(labels) if any(labels) else None


def _class_name(label: str, names: Sequence[str]) -> str:
    if not label.isdigit():
        return label
    if int(label) >= len(names):
        raise DissectError(f"probe.classes has {len(names)} names, but a label is {label}")
    return names[int(label)]
