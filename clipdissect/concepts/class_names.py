"""Concept sets of the class names of known data sets."""

from __future__ import annotations

import re
from collections.abc import Sequence

from clipdissect.concepts.base import Concepts, clean
from clipdissect.concepts.sources import read_lines
from clipdissect.datasets import cifar
from clipdissect.datasets.cifar import CIFAR100
from clipdissect.datasets.class_names import imagenet_names
from clipdissect.datasets.segmentation import label_names
from clipdissect.utils.paths import BRODEN, data_candidates, find_data

# A line of categories_places365.txt: `/a/apartment_building/outdoor 8`.
PLACE = re.compile(r"/[a-z]/(\S+)\s+\d+")


def imagenet() -> Concepts:
    """Use the 1000 ImageNet class names with all their synonyms, in class order."""
    return clean("imagenet", imagenet_names())


def broden(path: str | None = None, duplicates: str = "drop") -> Concepts:
    """Use Broden's 1197 labels, of which 44 are duplicates; scenes without their `-s`.

    Args:
        path: a list or the unpacked release; default: searched in the data folders.
        duplicates: `drop` or `keep` repeated texts; see `clean`.
    """
    source = find_data(
        "Broden's labels (a list, or label.csv of the release)",
        data_candidates(path, "concepts/broden.txt", BRODEN),
        "clipdissect fetch broden, or set concepts.path to the list or the unpacked release",
    )
    if not source.is_dir():
        return clean("broden", read_lines(source), duplicates=duplicates)
    names = {int(n): name for n, name in label_names(source).items() if n != "0"}
    return clean("broden", [names[n] for n in sorted(names)], duplicates=duplicates)


def places365(path: str | None = None, duplicates: str = "drop") -> Concepts:
    """Use the 365 scene categories of Places365, written as its networks' class names.

    Args:
        path: `categories_places365.txt` or a list; default: searched in the data folders.
        duplicates: `drop` or `keep` repeated texts; see `clean`.
    """
    files = ("concepts/places365.txt", "concepts/places365_categories.txt")
    source = find_data(
        "the category names of Places365",
        data_candidates(path, *files, "places365/categories_places365.txt"),
        "clipdissect fetch places365_names, or set concepts.path to categories_places365.txt",
    )
    return clean("places365", places365_names(read_lines(source)), duplicates=duplicates)


def places365_names(lines: Sequence[str]) -> tuple[str, ...]:
    """Return the class name `apartment_building/outdoor` of `/a/apartment_building/outdoor 8`."""
    matches = [(PLACE.fullmatch(line.strip()), line) for line in lines]
    return tuple(match[1] if match else line for match, line in matches)


def cifar100(path: str | None = None, duplicates: str = "drop") -> Concepts:
    """Use the 100 class names of CIFAR-100.

    Args:
        path: a list or the folder with `cifar-100-python`; default: in the data folders.
        duplicates: `drop` or `keep` repeated texts; see `clean`.
    """
    source = find_data(
        "the class names of CIFAR-100",
        data_candidates(path, "concepts/cifar100.txt", "cifar-100-python"),
        "set concepts.path to a list or to the folder with cifar-100-python",
    )
    if not source.is_dir():
        return clean("cifar100", read_lines(source), duplicates=duplicates)
    folder = cifar.find(CIFAR100, str(source))
    return clean("cifar100", cifar.class_names(CIFAR100, folder), duplicates=duplicates)
