"""ImageNet's validation images and their ground truth, in the layouts in common use."""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from clipdissect.datasets.class_names import imagenet_names, synsets
from clipdissect.errors import DissectError, MissingResource, unknown
from clipdissect.probe.base import Probe
from clipdissect.probe.broden import broden as broden_probe
from clipdissect.probe.folder import LabelOf, existing_folder, of_files, top_folder
from clipdissect.probe.image_files import find_image_files, is_image
from clipdissect.probe.options import ProbeOptions, not_empty
from clipdissect.probe.unions import join
from clipdissect.utils.paths import IMAGENET, data_candidates

log = logging.getLogger(__name__)

# Usual folders of the images below an ImageNet folder.
BELOW = ("val", "ILSVRC2012_img_val", "Data/CLS-LOC/val", "ILSVRC/Data/CLS-LOC/val", "")
FLAT = re.compile(r"ILSVRC2012_val_(\d{8})")
SYNSET = re.compile(r"(?<![A-Za-z0-9])n\d{8}(?!\d)")
NO_LABELS = (
    "the ImageNet images have no labels: no ground truth file is next to them (set "
    "probe.ground_truth)"
)
DEVKIT = "ILSVRC2012_validation_ground_truth.txt"
GROUND_TRUTH_FILES = (
    DEVKIT,
    f"data/{DEVKIT}",
    f"ILSVRC2012_devkit_t12/data/{DEVKIT}",
    "imagenet_2012_validation_synset_labels.txt",
    "synset_labels.txt",
    "LOC_val_solution.csv",
    "val.txt",
)
NUMBERED_LINE = re.compile(r"ILSVRC2012_val_(\d{8})\S*?[\s,]+(\S+)")
WORDNET_ID = re.compile(r"n\d{8}")


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
    """Use the ImageNet validation images (Russakovsky et al., 2015), labelled by class.

    Labels come from class folders (id or name), ids in file names, or the ground truth.

    Args:
        root: folder of images, or of `val`; default: `imagenet` in the data folders.
        ground_truth: for flat files, see `read_ground_truth`; default: next to the images.
        limit, sample, seed, identity, decode, orientation, on_error: see `ProbeOptions`.
    """
    options = ProbeOptions(limit, sample, seed, identity, decode, on_error, orientation)
    return _imagenet_val(root, ground_truth, options)


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
    """Use the union of ImageNet's validation images and Broden, a probe of the paper.

    Args:
        imagenet: `root` of `imagenet_val`.
        broden: `root` of `broden`.
        ground_truth: of `imagenet_val`.
        limit, sample, seed: of the union's images; see `ProbeOptions`.
        identity, decode, on_error: see `ProbeOptions`.
        orientation: of ImageNet's images; Broden's have masks, which can't be turned.
    """
    not_empty(imagenet=imagenet, broden=broden)
    options = ProbeOptions(limit, sample, seed, identity, decode, on_error)
    part_options = ProbeOptions(
        identity=identity, decode=decode, on_error=on_error, orientation=orientation
    )
    parts = [
        _imagenet_val(imagenet, ground_truth, part_options),
        broden_probe(broden, identity=identity, decode=decode, on_error=on_error),
    ]
    whole = join("imagenet_broden", parts, on_error)
    return whole.subset(options.pick(len(whole)))


def _imagenet_val(root: str | None, ground_truth: str | None, options: ProbeOptions) -> Probe:
    not_empty(root=root, ground_truth=ground_truth)
    folder = _find_folder(root)
    images = find_image_files(folder, options.on_error)
    nested = [file for file in images.files if file.parent != folder]
    if nested and len(nested) < len(images.files):
        raise DissectError(f"{folder} has images both directly in it and in subfolders")
    notes = images.notes
    if nested:
        label_of: LabelOf | None = _labels_by_folder(images.files, folder)
    else:
        label_of = _labels_by_file(images.files, folder, ground_truth)
    if label_of is None:
        log.warning("%s", NO_LABELS)
        notes = (NO_LABELS, *notes)
    return of_files("imagenet_val", folder, images.files, options, label_of, notes)


def _find_folder(root: str | None) -> Path:
    tops = [existing_folder(root)] if root else data_candidates(None, IMAGENET)
    for candidate in (top / below for top in tops for below in BELOW):
        # `imagenet` in a data folder may hold the devkit alone.
        if os.path.isdir(candidate) and (root or candidate not in tops or _has_images(candidate)):
            return candidate
    raise MissingResource(
        "ImageNet's validation images",
        [str(top.absolute()) for top in tops],
        "clipdissect fetch imagenet_val, or set probe.root to their folder, or choose another "
        "probe (probe=folder)",
    )


def _has_images(folder: Path) -> bool:
    return any(is_image(name) for _, _, names in os.walk(folder) for name in names)


def _labels_by_folder(files: Sequence[Path], root: Path) -> LabelOf:
    classes = _classes_by_name()
    labels = {}
    for folder in sorted({file.relative_to(root).parts[0] for file in files}):
        if _normalised(folder) not in classes:
            raise unknown("ImageNet class (of a folder's name)", folder, classes, most=5)
        labels[folder] = classes[_normalised(folder)]
    return lambda image: labels[str(top_folder(image))]


def _classes_by_name() -> dict[str, str]:
    """Map WordNet ids, full names and unambiguous synonyms to full names."""
    names = imagenet_names()
    owners: dict[str, set[str]] = defaultdict(set)
    for name in names:
        for synonym in name.split(", "):
            owners[_normalised(synonym)].add(name)
    classes = {
        synonym: next(iter(names_of)) for synonym, names_of in owners.items() if len(names_of) == 1
    }
    classes |= {_normalised(synset): name for synset, name in zip(synsets(), names, strict=True)}
    return classes | {_normalised(name): name for name in names}


def _normalised(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").replace(",", " ").split())


def _labels_by_file(
    files: Sequence[Path], folder: Path, ground_truth: str | None
) -> LabelOf | None:
    """Return the labels of flat files; None without ground truth."""
    name_of = dict(zip(synsets(), imagenet_names(), strict=True))
    if ground_truth is None and any(SYNSET.search(file.stem) for file in files):
        return lambda image: name_of.get(_match(SYNSET, image) or "")
    path = find_ground_truth(folder, ground_truth)
    if path is None:
        return None
    ids = read_ground_truth(path)
    absent = [file.name for file in files if _number(file.stem) not in ids]
    if absent:
        raise DissectError(
            f"{path} has no class for {len(absent)} of the images, such as {absent[0]}"
        )
    return lambda image: name_of.get(ids[_number(image)])


def _number(image: str) -> int:
    return int(_match(FLAT, image, 1) or 0)  # validation images count from 1


def _match(pattern: re.Pattern[str], text: str, group: int = 0) -> str | None:
    match = pattern.search(text)
    return match[group] if match else None


def find_ground_truth(folder: Path, path: str | None) -> Path | None:
    """Return the file of `path`, else in the images' folder or the two above; None if absent."""
    tops = [Path(path).expanduser()] if path else [folder, folder.parent, folder.parent.parent]
    candidates = [top / name for top in tops for name in ("", *GROUND_TRUTH_FILES)]
    file = next((candidate for candidate in candidates if candidate.is_file()), None)
    if file is not None or path is None:
        return file
    raise MissingResource(
        "the ground truth of the ImageNet images",
        [str(candidates[0].absolute())],
        f"set probe.ground_truth to the devkit's folder or its {DEVKIT}",
    )


def read_ground_truth(path: Path) -> dict[int, str]:
    """Map validation images' numbers, from 1, to WordNet ids.

    Reads the devkit's file, `LOC_val_solution.csv`, one WordNet id per line, or lines
    `<image> <class number from 0>`.
    """
    stripped = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    lines = [line for line in stripped if line and not line.startswith("ImageId")]
    matches = [NUMBERED_LINE.search(line) for line in lines]
    if lines and all(matches):
        classes = dict(enumerate(synsets()))
        return {int(m[1]): _wordnet_id(path, classes, m[2]) for m in matches if m}
    if lines and all(WORDNET_ID.fullmatch(line) for line in lines):
        return dict(enumerate(lines, 1))
    if lines and all(line.isdigit() for line in lines):
        classes = _devkit_ids(path)
        return {i: _wordnet_id(path, classes, line) for i, line in enumerate(lines, 1)}
    raise DissectError(
        f"{path} is not an ImageNet ground truth file: each line must be a WordNet id, the "
        f"devkit's class number, or an image's name with either"
    )


def _wordnet_id(path: Path, classes: dict[int, str], text: str) -> str:
    if WORDNET_ID.fullmatch(text):
        return text
    if not text.isdigit():
        raise DissectError(f"{path} has the class '{text}': it must be a WordNet id or a number")
    if int(text) not in classes:
        raise DissectError(f"{path} has the class number {int(text)}, which doesn't exist")
    return classes[int(text)]


def _devkit_ids(path: Path) -> dict[int, str]:
    """Map the devkit's class numbers, which don't follow class order, to WordNet ids."""
    from scipy.io import loadmat

    meta = path.parent / "meta.mat"
    if not meta.is_file():
        raise MissingResource(
            "the classes of ImageNet's ground truth numbers (the devkit's meta.mat)",
            [str(meta.absolute())],
            "unpack the whole devkit (ILSVRC2012_devkit_t12.tar.gz), or set probe.ground_truth to "
            "a file with one WordNet id per line",
        )
    try:
        rows: Sequence[object] = loadmat(meta, squeeze_me=True)["synsets"]
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in rows}  # type: ignore[index]
    except (KeyError, ValueError, TypeError, NotImplementedError) as error:
        raise DissectError(f"{meta} isn't the devkit's: {error}") from error
