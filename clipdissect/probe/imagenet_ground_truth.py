"""Ground truth of ImageNet's validation images, in the common file formats."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from clipdissect.datasets.class_names import synsets
from clipdissect.errors import DissectError, MissingResource

DEVKIT = "ILSVRC2012_validation_ground_truth.txt"
FILES = (
    DEVKIT,
    f"data/{DEVKIT}",
    f"ILSVRC2012_devkit_t12/data/{DEVKIT}",
    "imagenet_2012_validation_synset_labels.txt",
    "synset_labels.txt",
    "LOC_val_solution.csv",
    "val.txt",
)
IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})\S*?[\s,]+(\S+)")
SYNSET = re.compile(r"n\d{8}")


def find_ground_truth(folder: Path, path: str | None) -> Path | None:
    """Return the file of `path`, else in the images' folder or the two above; None if absent."""
    if path is None:
        folders = (folder, folder.parent, folder.parent.parent)
        candidates = [place / name for place in folders for name in FILES]
    else:
        given = Path(path).expanduser()
        candidates = [given, *(given / name for name in FILES)]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    if path is None:
        return None
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
    matches = [IMAGE.search(line) for line in lines]
    if lines and all(matches):
        classes = dict(enumerate(synsets()))
        return {int(m[1]): _wordnet_id(path, classes, m[2]) for m in matches if m}
    if lines and all(SYNSET.fullmatch(line) for line in lines):
        return dict(enumerate(lines, 1))
    if lines and all(line.isdigit() for line in lines):
        classes = _devkit_ids(path)
        return {i: _wordnet_id(path, classes, line) for i, line in enumerate(lines, 1)}
    raise DissectError(
        f"{path} is not an ImageNet ground truth file: each line must be a WordNet id, the "
        f"devkit's class number, or an image's name with either"
    )


def _wordnet_id(path: Path, classes: dict[int, str], text: str) -> str:
    if SYNSET.fullmatch(text):
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
