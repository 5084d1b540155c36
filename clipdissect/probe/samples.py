"""Select a shard's images and labels: in WebDataset, a sample's files share a stem."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from clipdissect.errors import DissectError
from clipdissect.images.decode import SUFFIXES
from clipdissect.probe.image_files import is_image
from clipdissect.probe.shards import LABELS, Member, ShardIndex

COMMON = ("jpg", "jpeg", "png", "webp")  # preferred first, in a sample with several images
EXTENSIONS = (*COMMON, *sorted({s[1:] for s in SUFFIXES} - set(COMMON)))


@dataclass(frozen=True)
class SampleImages:
    images: list[Member]
    labels: list[str | None]
    extensions: Counter[str]  # images per extension
    others: Counter[str]  # extensions of other members that look like images


def select_images(index: ShardIndex, extensions: Sequence[str] = EXTENSIONS) -> SampleImages:
    """Select one image per sample: the one with the first of the extensions.

    `a.b.png` is a separate sample if a label is named `a.b.cls` and no image `a.png`;
    a wildcard (`*.png`) selects all such names.
    """
    ranking = _Ranking(extensions, index)
    best: dict[str, tuple[int, Member]] = {}
    for member in index.members:
        rank, key = ranking.rank(member.name) or (None, "")
        if rank is not None and (key not in best or rank < best[key][0]):
            best[key] = (rank, member)
    images = sorted(((key, m) for key, (_, m) in best.items()), key=lambda pair: pair[1].offset)
    names = {member.name for _, member in images}
    others = [m.name for m in index.members if is_image(m.name) and m.name not in names]
    return SampleImages(
        [member for _, member in images],
        [_label(index.labels, key, member.name) for key, member in images],
        Counter(_split(name)[1] for name in names),
        Counter(_split(name)[1] for name in others),
    )


class _Ranking:
    def __init__(self, extensions: Sequence[str], index: ShardIndex) -> None:
        self.extensions = extensions
        keys = [_split(member.name) for member in index.members]
        self.plain = {key for key, extension in keys if extension in extensions}
        self.labelled = {name.rpartition(".")[0] for name in index.labels}

    def rank(self, name: str) -> tuple[int, str] | None:
        """Return the extension's rank and the sample's key; None if it isn't an image."""
        key, extension = _split(name)
        stem = name.rpartition(".")[0]
        for rank, pattern in enumerate(self.extensions):
            if extension == pattern:
                return rank, key
            if "*" in pattern and fnmatchcase(extension, pattern):
                return rank, stem
        last = extension.rpartition(".")[2]
        is_sample = last != extension and stem in self.labelled and key not in self.plain
        return (
            (self.extensions.index(last), stem) if is_sample and last in self.extensions else None
        )


def _split(name: str) -> tuple[str, str]:
    """Split a member's name at the file name's first dot, into key and extension."""
    folder, slash, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    return f"{folder}{slash}{stem}", extension.lower()


def _label(labels: Mapping[str, str], key: str, name: str) -> str | None:
    """Return the label of the name without its last extension, else of the sample."""
    stems = dict.fromkeys((name.rpartition(".")[0], key, _split(name)[0]))
    texts = (labels.get(f"{stem}.{extension}") for stem in stems for extension in LABELS)
    return next(filter(None, texts), None)


def extensions_of(image: Any) -> tuple[str, ...]:
    """Return the extensions of `probe.image`, in lower case, without the leading dot."""
    if image is None:
        return EXTENSIONS
    listed = [image] if isinstance(image, str) else image
    is_list = isinstance(listed, Sequence)
    extensions = tuple(str(text).lower().removeprefix(".") for text in listed) if is_list else ()
    if not extensions or not all(extensions):
        raise DissectError(
            f"probe.image is {image!r}: give the extension of the members that are images, such as "
            f"jpg or [jpg, rgb.png]"
        )
    return extensions


def shard_notes(shards: Sequence[SampleImages], hidden: int) -> tuple[str, ...]:
    count = sum(len(shard.images) for shard in shards)
    labelled = sum(label is not None for shard in shards for label in shard.labels)
    extensions = sum((shard.extensions for shard in shards), Counter())
    others = sum((shard.others for shard in shards), Counter())
    if not count:
        raise DissectError(
            f"no images in the shards. Extensions in them: "
            f"{_counts(others) or 'none of images'}. Set probe.image to those to take, such "
            f"as probe.image={next(iter(others), 'jpg')}, or '*.png' for names with several dots"
        )
    notes = [f"shards: {count} images ({_counts(extensions)}), {labelled} of them with a label"]
    if others:
        notes.append(
            f"members of the shards left out of the probe: {_counts(others)} (probe.image says "
            f"which extensions are used, one image per sample)"
        )
    if hidden:
        notes.append(f"images left out of the probe: {hidden} hidden files in the shards")
    return tuple(notes)


def _counts(extensions: Counter[str], limit: int = 5) -> str:
    listed = [f"{count} {extension}" for extension, count in extensions.most_common(limit)]
    rest = len(extensions) - len(listed)
    return ", ".join(listed) + (f" and {rest} more extensions" if rest else "")
