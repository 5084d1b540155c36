"""The classes of ImageNet's validation images, in the files that go around."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from clipdissect.datasets.class_names import synsets
from clipdissect.errors import DissectError, MissingResource

DEVKIT = "ILSVRC2012_validation_ground_truth.txt"
# Names that such files have, besides the devkit's.
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


def find_truth(folder: Path, given: str | None) -> Path | None:
    """The ground truth file: the given one, or the first beside the images; None of neither.

    Raises:
        MissingResource: the given one isn't there.
    """
    if given is None:
        near = (folder, folder.parent, folder.parent.parent)
        places = [place / name for place in near for name in FILES]
    else:
        path = Path(given).expanduser()
        places = [path, *(path / name for name in FILES)]
    found = next((place for place in places if place.is_file()), None)
    if found is None and given is not None:
        raise MissingResource(
            "the ground truth of the ImageNet images",
            [str(places[0].absolute())],
            f"set probe.ground_truth to the devkit's folder or its {DEVKIT}",
        )
    return found


def read_truth(path: Path) -> dict[int, str]:
    """Number of each validation image, from 1, to its WordNet id.

    Raises:
        DissectError: a file of another kind.
        MissingResource: the devkit's file without the `meta.mat` that tells what its numbers mean.
    """
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    if lines and lines[0].startswith("ImageId"):
        lines = lines[1:]
    lines = [line for line in lines if line]
    named = [IMAGE.search(line) for line in lines]
    if lines and all(named):
        return {int(m[1]): _of_class(path, m[2]) for m in named if m}
    if lines and all(SYNSET.fullmatch(line) for line in lines):
        return dict(enumerate(lines, 1))
    if lines and all(line.isdigit() for line in lines):
        ids = _devkit_ids(path)
        return {i: _look_up(path, ids, int(line)) for i, line in enumerate(lines, 1)}
    raise DissectError(
        f"{path} is no ground truth of ImageNet: each line must be a WordNet id, the devkit's "
        f"class number, or an image's name with either"
    )


def _of_class(path: Path, text: str) -> str:
    """A WordNet id from one, or from a class number in the usual order, from 0."""
    if SYNSET.fullmatch(text):
        return text
    if not text.isdigit():
        raise DissectError(f"{path} has the class '{text}': it must be a WordNet id or a number")
    return _look_up(path, dict(enumerate(synsets())), int(text))


def _look_up(path: Path, ids: dict[int, str], number: int) -> str:
    if number not in ids:
        raise DissectError(f"{path} has the class number {number}, which no class has")
    return ids[number]


def _devkit_ids(path: Path) -> dict[int, str]:
    """The devkit's class numbers, which follow no order, to WordNet ids."""
    from scipy.io import loadmat

    meta = path.parent / "meta.mat"
    if not meta.is_file():
        raise MissingResource(
            "what the numbers of ImageNet's ground truth mean (the devkit's meta.mat)",
            [str(meta.absolute())],
            "unpack the whole devkit (ILSVRC2012_devkit_t12.tar.gz), or set probe.ground_truth to "
            "a file with one WordNet id a line",
        )
    try:
        rows: Sequence[object] = loadmat(meta, squeeze_me=True)["synsets"]
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in rows}  # type: ignore[index]
    except (KeyError, ValueError, TypeError, NotImplementedError) as error:
        raise DissectError(f"{meta} isn't the devkit's: {error}") from error
