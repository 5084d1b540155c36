"""Concept sets made of the class names of known data sets."""

from __future__ import annotations

import re
from collections.abc import Sequence

from clipdissect.concepts.base import Concepts, clean
from clipdissect.concepts.sources import find, read_lines
from clipdissect.datasets import cifar
from clipdissect.datasets.broden_labels import label_names
from clipdissect.datasets.cifar import CIFAR100
from clipdissect.utils.paths import BRODEN

# A line of categories_places365.txt: `/a/apartment_building/outdoor 8`.
PLACE = re.compile(r"/[a-z]/(\S+)\s+\d+")


def broden(path: str | None = None, duplicates: str = "drop") -> Concepts:
    """Broden's 1197 labels, of which 44 stand there twice; scenes without their `-s`.

    Args:
        path: a list, one text a line, or the unpacked release, whose `label.csv` makes the list;
            by default `concepts/broden.txt` or `broden1_224` below `$CLIPDISSECT_DATA` or the user
            cache's `data` folder.
        duplicates: `drop` or `keep` repeated texts, as the published code does; see `clean`.

    Raises:
        MissingResource: neither is there.
    """
    found = find(
        "Broden's labels (a list, or label.csv of the release)", path,
        ["concepts/broden.txt", BRODEN],
        "clipdissect fetch broden, or set concepts.path to the list or the unpacked release",
    )  # fmt: skip
    if found.is_dir():
        names = {int(n): name for n, name in label_names(found).items() if n != "0"}
        return clean("broden", [names[n] for n in sorted(names)], duplicates=duplicates)
    return clean("broden", read_lines(found), duplicates=duplicates)


def places365(path: str | None = None, duplicates: str = "drop") -> Concepts:
    """The 365 scene categories of Places365, written as the class names of its networks are.

    Args:
        path: `categories_places365.txt`, or a list, one text a line; by default
            `concepts/places365.txt`, `concepts/places365_categories.txt` or
            `places365/categories_places365.txt` below `$CLIPDISSECT_DATA` or the user cache's
            `data` folder.
        duplicates: `drop` or `keep` repeated texts; see `clean`.

    Raises:
        MissingResource: none of them is there.
    """
    found = find(
        "the category names of Places365", path,
        ["concepts/places365.txt", "concepts/places365_categories.txt",
         "places365/categories_places365.txt"],
        "clipdissect fetch places365_names, or set concepts.path to categories_places365.txt",
    )  # fmt: skip
    return clean("places365", places365_names(read_lines(found)), duplicates=duplicates)


def places365_names(lines: Sequence[str]) -> tuple[str, ...]:
    """Category names of the lines of `categories_places365.txt`, in their order.

    `/a/apartment_building/outdoor 8` is `apartment_building/outdoor`, exactly the class name, so
    that a right label is found to be right; other lines stay as they are.
    """
    matches = [(PLACE.fullmatch(line.strip()), line) for line in lines]
    return tuple(m[1] if m else line for m, line in matches)


def cifar100(path: str | None = None, duplicates: str = "drop") -> Concepts:
    """The 100 class names of CIFAR-100.

    Args:
        path: a list, one text a line, or the folder with `cifar-100-python`; by default
            `concepts/cifar100.txt` or `cifar-100-python` below `$CLIPDISSECT_DATA` or the user
            cache's `data` folder.
        duplicates: `drop` or `keep` repeated texts; see `clean`.

    Raises:
        MissingResource: neither is there.
        DissectError: a damaged file.
    """
    found = find(
        "the class names of CIFAR-100", path,
        ["concepts/cifar100.txt", "cifar-100-python"],
        "set concepts.path to a list or to the folder with cifar-100-python",
    )  # fmt: skip
    if not found.is_dir():
        return clean("cifar100", read_lines(found), duplicates=duplicates)
    folder = cifar.find(CIFAR100, str(found))
    return clean("cifar100", cifar.class_names(CIFAR100, folder), duplicates=duplicates)
