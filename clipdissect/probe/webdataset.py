"""WebDataset tar shards as a probe: for image sets that don't fit a folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipdissect import digest
from clipdissect.classes import imagenet_names, names_of_file
from clipdissect.errors import DissectError
from clipdissect.images import Picture, UnreadableImage, decode_picture
from clipdissect.probe.base import Probe
from clipdissect.probe.choices import Choices
from clipdissect.probe.identity import of_files
from clipdissect.probe.shards import Member, Shard, find, members


@dataclass(frozen=True)
class ShardReader:
    """Decodes images out of shards.

    Args:
        shards: the tar files.
        places: of each image, the shard's number, and where its bytes are.
        decode: how; see `Choices`.
    """

    shards: tuple[Shard, ...]
    places: tuple[tuple[int, int, int], ...]
    decode: str = "pil"

    def __call__(self, index: int) -> Picture:
        shard, offset, size = self.places[index]
        try:
            data = self.shards[shard].read(offset, size)
        except Exception as error:  # what the file systems of URLs raise is their own
            raise UnreadableImage(f"{type(error).__name__}: {error}", passing=True) from error
        if len(data) < size:
            raise UnreadableImage(f"the shard {self.shards[shard].name} is cut short")
        return decode_picture(data, self.decode)


def webdataset(
    shards: Any,
    classes: str | None = None,
    limit: int | None = None,
    sample: int | None = None,
    seed: int = 0,
    identity: str = "stat",
    decode: str = "pil",
    on_error: str = "skip",
) -> Probe:
    """The images in tar files, in the files' order; other members give their labels.

    Each tar file is listed once, and an image is read from its place in it, in any order, by any
    number of processes. With `identity=stat` a shard is told by its file name, size and
    modification time, of a URL by the size and what the server says (an ETag or a checksum); a
    change of a shard changes all its images.

    Args:
        shards: a path or URL (anything that fsspec opens), or a list of them, with braces
            (`train-{000..009}.tar`) and wildcards.
        classes: where the labels (`.cls`) are numbers, their names: a file with one a line, or
            `imagenet`.
        limit, sample, seed, identity, decode, on_error: see `Choices`; `identity=content` digests
            whole shards, local ones only.

    Raises:
        MissingResource: a shard that isn't there.
        DissectError: compressed or damaged tar files, no images, a label number without a name, a
            protocol that needs another package; a value that isn't allowed.

    Source:
        https://github.com/webdataset/webdataset (the layout of the shards).
    """
    choices = Choices(limit, sample, seed, identity, decode, on_error)
    found = find(shards)
    stamps = [shard.stamp() for shard in found]
    listed = [members(shard, stamp) for shard, stamp in zip(found, stamps, strict=True)]
    every = [(n, member) for n, own in enumerate(listed) for member in own]
    chosen = [every[i] for i in choices.pick(len(every))]
    told = [_identity(s, stamp, choices) for s, stamp in zip(found, stamps, strict=True)]
    titles = _titles(found)
    places = tuple((n, m.offset, m.size) for n, m in chosen)
    return Probe.of(
        "webdataset",
        [f"{titles[n]}/{m.name}" for n, m in chosen],
        ShardReader(tuple(found), places, decode),
        choices.identities([f"{told[n]} {m.name}" for n, m in chosen]),
        on_error=on_error,
        labels=_labels([m for _, m in chosen], classes),
    )


def _identity(shard: Shard, stamp: Any, choices: Choices) -> str:
    if choices.identity == "stat":
        return digest.of(shard.name, stamp)
    if shard.file is None:
        raise DissectError(f"identity=content can't digest {shard.address}: only local shards")
    return of_files(shard.file.parent, [shard.file.name], "content")[0]


def _titles(shards: Sequence[Shard]) -> list[str]:
    """What to call the shards in images' names: the file's name, or the whole address."""
    counts = Counter(shard.name for shard in shards)
    return [s.name if counts[s.name] == 1 else s.address for s in shards]


def _labels(images: Sequence[Member], classes: str | None) -> tuple[str | None, ...] | None:
    labels = [member.label for member in images]
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
