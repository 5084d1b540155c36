"""WebDataset tar shards as a probe: for image sets that don't fit a folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipdissect.datasets.class_names import imagenet_names, names_of_file
from clipdissect.errors import DissectError
from clipdissect.images.decode import Picture, UnreadableImage, decode_picture
from clipdissect.probe import samples
from clipdissect.probe.base import Labels, Probe
from clipdissect.probe.choices import ProbeOptions, not_empty
from clipdissect.probe.identity import of_files
from clipdissect.probe.shards import Shard, find, listing
from clipdissect.utils import hashing


@dataclass(frozen=True)
class ShardReader:
    """Decodes images out of shards.

    Args:
        shards: the tar files.
        places: of each image, the shard's number, and where its bytes are.
        decode, orientation: see `ProbeOptions`.
    """

    shards: tuple[Shard, ...]
    places: tuple[tuple[int, int, int], ...]
    decode: str = "pil"
    orientation: str = "ignore"

    def __call__(self, index: int) -> Picture:
        shard, offset, size = self.places[index]
        try:
            data = self.shards[shard].read(offset, size)
        except Exception as error:  # what the file systems of URLs raise is their own
            raise UnreadableImage(f"{type(error).__name__}: {error}", transient=True) from error
        if len(data) < size:
            raise UnreadableImage(f"the shard {self.shards[shard].name} is cut short")
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
    """The images in tar files, in the files' order; other members give their labels.

    Files of one sample have their names up to the first dot in common, and give one image: of
    `z.jpg` and `z.seg.png` the former. Names with more dots (`a.b.png`) are samples of their own
    where a label (`a.b.cls`) shares all but the last ending. Hidden files are left out. The probe's
    notes say what was taken, what wasn't, and how many labels there are.

    Each tar file is listed once, and an image is read from its place in it, in any order, by any
    number of processes. With `identity=stat` a shard is told by its file name, size and
    modification time, of a URL by the size and what the server says (an ETag or a checksum); a
    change of a shard changes all its images.

    Args:
        shards: a path or URL (anything that fsspec opens), or a list of them, with braces
            (`train-{000..009}.tar`) and wildcards.
        image: ending of the members that are images, or a list with the best first, such as
            `[rgb.png, jpg]`; `*.png` takes every name that ends so, a sample each. By default the
            usual ones: `jpg`, `jpeg`, `png`, `webp`, and so on.
        classes: where the labels (`.cls`) are numbers, their names: a file with one a line, or
            `imagenet`.
        limit, sample, seed, identity, decode, orientation, on_error: see `ProbeOptions`;
            `identity=content` digests whole shards, local ones only.

    Raises:
        MissingResource: a shard that isn't there.
        DissectError: compressed or damaged tar files, no images, a label number without a name, a
            protocol that needs another package; a value that isn't allowed.

    Source:
        https://github.com/webdataset/webdataset (the layout of the shards).
    """
    choices = ProbeOptions(limit, sample, seed, identity, decode, on_error, orientation)
    not_empty(classes=classes)
    found = find(shards)
    stamps = [shard.stamp() for shard in found]
    listings = [listing(shard, stamp) for shard, stamp in zip(found, stamps, strict=True)]
    taken = [samples.take(each, samples.endings_of(image)) for each in listings]
    samples.check_some(taken)
    every = [(n, *pair) for n, own in enumerate(taken)
             for pair in zip(own.images, own.labels, strict=True)]  # fmt: skip
    chosen = [every[i] for i in choices.pick(len(every))]
    told = [_identity(s, stamp, choices) for s, stamp in zip(found, stamps, strict=True)]
    titles = _titles(found)
    places = tuple((n, m.offset, m.size) for n, m, _ in chosen)
    notes = samples.notes(taken, sum(each.hidden for each in listings))
    return Probe.of(
        "webdataset",
        [f"{titles[n]}/{m.name}" for n, m, _ in chosen],
        ShardReader(tuple(found), places, decode, choices.turn),
        choices.identities([f"{told[n]} {m.name}" for n, m, _ in chosen]),
        on_error=on_error,
        notes=(*notes, *choices.orientation_notes(m.orientation for _, m, _ in chosen)),
        labels=_labels([label for *_, label in chosen], classes),
    )


def _identity(shard: Shard, stamp: Any, choices: ProbeOptions) -> str:
    if choices.identity == "stat":
        return hashing.hash_values(shard.name, stamp)
    if shard.file is None:
        raise DissectError(f"identity=content can't digest {shard.address}: only local shards")
    return of_files(shard.file.parent, [shard.file.name], "content")[0]


def _titles(shards: Sequence[Shard]) -> list[str]:
    """What to call the shards in images' names: the file's name, or the whole address."""
    counts = Counter(shard.name for shard in shards)
    return [s.name if counts[s.name] == 1 else s.address for s in shards]


def _labels(labels: Sequence[str | None], classes: str | None) -> Labels | None:
    if classes is not None:
        names = _class_names(classes)
        labels = [label and _named(label, names) for label in labels]
    return tuple(labels) if any(labels) else None


def _class_names(classes: str) -> tuple[str, ...]:
    if classes == "imagenet":
        return imagenet_names()
    remedy = "set probe.classes to a file with one name a line, or to imagenet"
    return names_of_file(Path(classes).expanduser(), remedy)


def _named(label: str, names: Sequence[str]) -> str:
    if not label.isdigit():
        return label
    if int(label) >= len(names):
        raise DissectError(f"probe.classes has {len(names)} names, but a label is {label}")
    return names[int(label)]
