"""ImageNet's validation images, as people keep them."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

from clipdissect.datasets.class_names import imagenet_names, synsets
from clipdissect.errors import DissectError, MissingResource, unknown
from clipdissect.probe.base import Probe
from clipdissect.probe.broden import broden as broden_probe
from clipdissect.probe.folder import Label, existing_folder, image_files, of_files, top_folder
from clipdissect.probe.image_files import is_image
from clipdissect.probe.imagenet_ground_truth import find_truth, read_truth
from clipdissect.probe.options import ProbeOptions, not_empty
from clipdissect.probe.unions import join
from clipdissect.utils.paths import IMAGENET, data_places

log = logging.getLogger(__name__)

# Where the images lie below a folder that people call ImageNet's.
BELOW = ("val", "ILSVRC2012_img_val", "Data/CLS-LOC/val", "ILSVRC/Data/CLS-LOC/val", "")
FLAT = re.compile(r"ILSVRC2012_val_(\d{8})")
SYNSET = re.compile(r"(?<![A-Za-z0-9])n\d{8}(?!\d)")
NO_LABELS = (
    "the ImageNet images have no labels: no ground truth was found beside them (set "
    "probe.ground_truth)"
)


def imagenet_val(
    root: str | None = None,
    ground_truth: str | None = None,
    limit: int | None = None,
    sample: int | None = None,
    seed: int = 0,
    identity: str = "stat",
    decode: str = "pil",
    orientation: str = "ignore",
    on_error: str = "skip",
) -> Probe:
    """The user's ImageNet images, labelled with the 1000 class names and their synonyms.

    One folder a class, named by WordNet id (`n01440764`) or class name (`tench`), or all files in
    one folder. Of these a WordNet id in the file's name is the label, else the ground truth file.

    Args:
        root: the folder of images, or one that has them in `val`; by default `imagenet` below
            `$CLIPDISSECT_DATA` or the user cache's `data` folder.
        ground_truth: for flat files: the devkit's folder or its
            `ILSVRC2012_validation_ground_truth.txt`, a file with one WordNet id a line,
            `LOC_val_solution.csv`, or a file of lines `<image> <class number from 0>`; by default
            whichever lies in the images' folder or the two above.
        limit, sample, seed, identity, decode, orientation, on_error: see `ProbeOptions`.

    Raises:
        MissingResource: no such folder or ground truth.
        DissectError: no images, a folder that names no class, a ground truth that doesn't fit; a
            value that isn't allowed.

    Source:
        Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", 2015.
    """
    choices = ProbeOptions(limit, sample, seed, identity, decode, on_error, orientation)
    not_empty(root=root, ground_truth=ground_truth)
    folder = _folder(root)
    files, notes = image_files(folder, on_error)
    nested = [f for f in files if f.parent != folder]
    if nested and len(nested) < len(files):
        raise DissectError(f"{folder} has images both in it and in folders of it")
    label = _of_folders(files, folder) if nested else _of_files(folder, files, ground_truth)
    if label:
        return of_files("imagenet_val", folder, files, choices, label, notes)
    log.warning("%s", NO_LABELS)
    return of_files("imagenet_val", folder, files, choices, None, (NO_LABELS, *notes))


def _folder(root: str | None) -> Path:
    tops = [existing_folder(root)] if root else [place / IMAGENET for place in data_places()]
    for place in (top / below for top in tops for below in BELOW):
        # A data folder's own may hold the devkit alone.
        if os.path.isdir(place) and (root or place not in tops or _has_images(place)):
            return place
    raise MissingResource(
        "ImageNet's validation images",
        [str(top.absolute()) for top in tops],
        "clipdissect fetch imagenet_val, or set probe.root to their folder, or choose another "
        "probe (probe=folder)",
    )


def _has_images(folder: Path) -> bool:
    return any(is_image(name) for _, _, names in os.walk(folder) for name in names)


def _of_folders(files: Sequence[Path], root: Path) -> Label:
    """Each image's label is the class that its folder names."""
    names = _class_of_name()
    folders = sorted({f.relative_to(root).parts[0] for f in files})
    found = {}
    for folder in folders:
        label = names.get(_plain(folder))
        if label is None:
            raise unknown("ImageNet class (of a folder's name)", folder, names, most=5)
        found[folder] = label
    return lambda image: found[str(top_folder(image))]


def _class_of_name() -> dict[str, str]:
    """WordNet ids, full names, and synonyms that are no other class's, to full names."""
    names = imagenet_names()
    found = {_plain(key): name for key, name in zip(synsets(), names, strict=True)}
    found |= {_plain(name): name for name in names}
    claims: dict[str, set[str]] = {}
    for name in names:
        for synonym in name.split(", "):
            claims.setdefault(_plain(synonym), set()).add(name)
    only = {synonym: next(iter(c)) for synonym, c in claims.items() if len(c) == 1}
    return {**only, **found}


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").replace(",", " ").split())


def _of_files(folder: Path, files: Sequence[Path], ground_truth: str | None) -> Label | None:
    """The labels of flat files; None where nothing tells them."""
    of_id = dict(zip(synsets(), imagenet_names(), strict=True))
    if ground_truth is None and any(SYNSET.search(f.stem) for f in files):
        return lambda image: of_id.get(_first(SYNSET, image) or "")
    truth = find_truth(folder, ground_truth)
    if truth is None:
        return None
    ids = read_truth(truth)
    absent = [f.name for f in files if _number(f.stem) not in ids]
    if absent:
        raise DissectError(
            f"{truth} has no class for {len(absent)} of the images, such as {absent[0]}"
        )
    return lambda image: of_id.get(ids[_number(image)])


def _number(image: str) -> int:
    """Number of a validation image, from 1; 0 of another file."""
    return int(_first(FLAT, image, 1) or 0)


def _first(pattern: re.Pattern[str], text: str, group: int = 0) -> str | None:
    match = pattern.search(text)
    return match[group] if match else None


def imagenet_broden(
    imagenet: str | None = None,
    broden: str | None = None,
    ground_truth: str | None = None,
    limit: int | None = None,
    sample: int | None = None,
    seed: int = 0,
    identity: str = "stat",
    decode: str = "pil",
    orientation: str = "ignore",
    on_error: str = "skip",
) -> Probe:
    """The union of ImageNet's validation images and Broden, a probe of the paper.

    Args:
        imagenet: `root` of `imagenet_val`.
        broden: `root` of `broden`.
        ground_truth: of `imagenet_val`.
        limit, sample, seed: of the whole union's images; see `ProbeOptions`.
        identity, decode, on_error: see `ProbeOptions`.
        orientation: of ImageNet's images; Broden's have masks, which no tag turns.

    Raises:
        MissingResource, DissectError: from the parts.
    """
    not_empty(imagenet=imagenet, broden=broden, ground_truth=ground_truth)
    choices = ProbeOptions(limit, sample, seed, identity, decode, on_error)
    first = imagenet_val(
        imagenet, ground_truth, identity=identity, decode=decode, orientation=orientation,
        on_error=on_error,
    )  # fmt: skip
    second = broden_probe(broden, identity=identity, decode=decode, on_error=on_error)
    whole = join("imagenet_broden", [first, second], on_error)
    return whole.subset(choices.pick(len(whole)))
