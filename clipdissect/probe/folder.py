"""A folder of image files as a probe."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipdissect.errors import DissectError, MissingResource
from clipdissect.images.decode import SUFFIXES, Picture, open_picture, orientation_of
from clipdissect.probe import identity as identities
from clipdissect.probe.base import Probe
from clipdissect.probe.image_files import walk
from clipdissect.probe.options import ProbeOptions, not_empty, one_of
from clipdissect.utils.files import check_listable

log = logging.getLogger(__name__)

LABELS = ("none", "folders")
Label = Callable[[str], str | None]


@dataclass(frozen=True)
class FileReader:
    """Decodes the files of a probe by number; a plain object, so that worker processes can."""

    root: Path
    images: tuple[str, ...]
    decode: str = "pil"
    orientation: str = "ignore"

    def __call__(self, index: int) -> Picture:
        return open_picture(self.path(index), self.decode, self.orientation)

    def path(self, index: int) -> Path:
        """The file of an image."""
        return self.root / self.images[index]


def folder(
    root: str,
    labels: str = "none",
    limit: int | None = None,
    sample: int | None = None,
    seed: int = 0,
    identity: str = "stat",
    decode: str = "pil",
    orientation: str = "ignore",
    on_error: str = "skip",
) -> Probe:
    """All image files below a folder, at any depth, ordered by path.

    Linked folders are followed. Hidden files and folders, earlier runs and reports, and caches are
    left out; the probe's notes count them.

    Args:
        root: the folder. Renaming it changes nothing.
        labels: `folders` labels an image by the folder of `root` that it lies in (a set with one
            folder a class), `none` doesn't.
        limit, sample, seed, identity, decode, orientation, on_error: see `ProbeOptions`.

    Raises:
        MissingResource: the folder doesn't exist.
        DissectError: it is empty, a file, unreadable, or holds no image files; a value that isn't
            allowed.
    """
    choices = ProbeOptions(limit, sample, seed, identity, decode, on_error, orientation)
    one_of("probe.labels", labels, LABELS)
    path = existing_folder(root)
    label = top_folder if labels == "folders" else None
    files, notes = image_files(path, on_error)
    found = of_files(path.name or "folder", path, files, choices, label, notes)
    if label and found.labels is None:
        raise DissectError(f"probe.labels=folders, but {path} has its images in no folders")
    return found


def image_files(root: Path, on_error: str = "skip") -> tuple[list[Path], tuple[str, ...]]:
    """All image files below a folder, in no order, and notes on those left out; see `walk`.

    Args:
        root: the folder.
        on_error: `raise` stops at a folder that can't be listed, `skip` notes it.

    Raises:
        DissectError: there are none, or a folder can't be listed.
    """
    check_listable(root)
    found = walk(root)
    if on_error == "raise" and found.unreadable:
        path, reason = next(iter(found.unreadable.items()))
        raise DissectError(f"can't read the folder {path}: {reason}")
    notes = found.notes(root)
    if not found.files:
        endings = " ".join(sorted(SUFFIXES))
        raise DissectError(
            "; ".join((f"no image files in {root} or below it (looked for {endings})", *notes))
        )
    for path, reason in found.unreadable.items():
        log.warning("can't read the folder %s: %s", path, reason)
    return found.files, notes


def of_files(
    name: str,
    root: Path,
    files: Sequence[Path],
    choices: ProbeOptions | None = None,
    label: Label | None = None,
    notes: tuple[str, ...] = (),
) -> Probe:
    """A probe of the given files below `root`, ordered by relative path.

    Args:
        name: what to call it.
        root: the folder.
        files: the files, in any order.
        choices: which of them, and how to read them.
        label: an image's class from its relative path.
        notes: on the files; one on ignored orientations is added.
    """
    choices = choices or ProbeOptions()
    every = sorted(f.relative_to(root).as_posix() for f in files)
    names = tuple(every[i] for i in choices.pick(len(every)))
    reader = FileReader(root, names, choices.decode, choices.turn)
    each = choices.identities(identities.of_files(root, names, choices.identity))
    labels = tuple(map(label, names)) if label else ()
    turned = choices.orientation_notes(orientation_of(root / image) for image in names)
    return Probe.of(
        name, names, reader, each, on_error=choices.on_error, file=reader.path,
        labels=labels if any(labels) else None, notes=(*notes, *turned),
    )  # fmt: skip


def top_folder(image: str) -> str | None:
    """The first folder of a relative path; None of a bare file name."""
    first, slash, _ = image.partition("/")
    return first if slash else None


def existing_folder(root: str) -> Path:
    """The folder of a path.

    Raises:
        MissingResource: there is nothing.
        DissectError: it is a file or can't be listed, or the path is empty.
    """
    not_empty(root=root)
    path = Path(root).expanduser()
    check_listable(path)
    if path.is_dir():
        return path
    if path.exists():
        raise DissectError(f"{path} is a file; the probe's root must be a folder of images")
    raise MissingResource(
        "the probe's image folder", [str(path.absolute())], "set probe.root to an existing folder"
    )
