"""Which of a shard's members are the probe's images, and which labels belong to them.

The convention of WebDataset: files of one sample have their names up to the first dot in common,
and the rest is the ending that says what a file is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from clipdissect.errors import DissectError
from clipdissect.images.decode import SUFFIXES
from clipdissect.probe.image_files import is_image
from clipdissect.probe.shards import LABELS, Listing, Member, split

COMMON = ("jpg", "jpeg", "png", "webp")  # of a sample with several images, the best first
ENDINGS = (*COMMON, *sorted({s[1:] for s in SUFFIXES} - set(COMMON)))


@dataclass(frozen=True)
class Taken:
    """The images of one shard.

    Args:
        images: in the shard's order, one a sample.
        labels: the image's label, None without one.
        endings: how many images were taken, by ending.
        others: how many members that look like images weren't, by ending.
    """

    images: list[Member]
    labels: list[str | None]
    endings: Counter[str]
    others: Counter[str]


def take(listing: Listing, endings: Sequence[str] = ENDINGS) -> Taken:
    """One image a sample: the first of the endings that the sample has.

    A name with more dots, such as `a.b.png`, is a sample of its own where a label (`a.b.cls`) has
    all up to the last dot in common with it and no image has the name `a.png`. An ending with a
    wildcard (`*.png`) takes every such name.

    Args:
        listing: of the shard.
        endings: in lower case, what follows the first dot of a file's name, the best first.
    """
    ranks = _Ranks(endings, listing)
    best: dict[str, tuple[int, Member]] = {}
    for member in listing.members:
        found = ranks.of(member.name)
        if found and (found[1] not in best or found[0] < best[found[1]][0]):
            best[found[1]] = (found[0], member)
    images = [(key, member) for key, (_, member) in best.items()]
    images.sort(key=lambda pair: pair[1].offset)
    names = {member.name for _, member in images}
    return Taken(
        [member for _, member in images],
        [_label(listing.labels, key, member.name) for key, member in images],
        Counter(split(name)[1] for name in names),
        Counter(split(m.name)[1] for m in listing.members
                if is_image(m.name) and m.name not in names),
    )  # fmt: skip


class _Ranks:
    """What a member is as an image: the place of its ending in the list, and the sample's key."""

    def __init__(self, endings: Sequence[str], listing: Listing) -> None:
        self.endings = endings
        self.plain = {key for key, ending in map(split, (m.name for m in listing.members))
                      if ending in endings}  # fmt: skip
        self.labelled = {name.rpartition(".")[0] for name in listing.labels}

    def of(self, name: str) -> tuple[int, str] | None:
        """Rank and key; None of a member that is no image."""
        key, ending = split(name)
        stem = name.rpartition(".")[0]
        for rank, pattern in enumerate(self.endings):
            if ending == pattern:
                return rank, key
            if "*" in pattern and fnmatchcase(ending, pattern):
                return rank, stem
        last = ending.rpartition(".")[2]
        is_own = last != ending and stem in self.labelled and key not in self.plain
        return (self.endings.index(last), stem) if is_own and last in self.endings else None


def _label(labels: Mapping[str, str], key: str, name: str) -> str | None:
    """The label beside an image: of its whole name but the last ending, else of its sample."""
    stems = dict.fromkeys((name.rpartition(".")[0], key, split(name)[0]))
    given = (labels.get(f"{stem}.{kind}") for stem in stems for kind in LABELS)
    return next((text for text in given if text), None)


def endings_of(image: Any) -> tuple[str, ...]:
    """The endings that a parameter gives, in lower case and without a leading dot.

    Raises:
        DissectError: it is neither a text nor a list of texts, or empty.
    """
    if image is None:
        return ENDINGS
    given = [image] if isinstance(image, str) else image
    is_list = isinstance(given, Sequence)
    found = [str(ending).lower().removeprefix(".") for ending in given] if is_list else []
    if not found or not all(found):
        raise DissectError(
            f"probe.image is {image!r}: give the ending of the members that are images, such as "
            f"jpg or [jpg, rgb.png]"
        )
    return tuple(found)


def check_some(taken: Sequence[Taken]) -> None:
    """Check that there are images.

    Raises:
        DissectError: there are none; says which endings there are.
    """
    if any(each.images for each in taken):
        return
    others = sum((each.others for each in taken), Counter())
    there = _counts(others) if others else "none that images have"
    raise DissectError(
        f"no images in the shards. Endings there: {there}. Set probe.image to those to take, such "
        f"as probe.image={next(iter(others), 'jpg')}, or '*.png' for names with several dots"
    )


def notes(taken: Sequence[Taken], hidden: int) -> tuple[str, ...]:
    """What was taken and what not.

    Args:
        taken: of each shard.
        hidden: images left out since they are hidden files.
    """
    count = sum(len(each.images) for each in taken)
    labelled = sum(label is not None for each in taken for label in each.labels)
    endings = sum((each.endings for each in taken), Counter())
    others = sum((each.others for each in taken), Counter())
    found = [f"shards: {count} images ({_counts(endings)}), {labelled} of them with a label"]
    if others:
        found.append(
            f"members of the shards left out of the probe: {_counts(others)} (probe.image says "
            f"which endings are taken, one image a sample)"
        )
    if hidden:
        found.append(f"images left out of the probe: {hidden} hidden files in the shards")
    return tuple(found)


def _counts(endings: Counter[str], most: int = 5) -> str:
    listed = [f"{count} {ending}" for ending, count in endings.most_common(most)]
    rest = len(endings) - len(listed)
    return ", ".join(listed) + (f" and {rest} more endings" if rest else "")
