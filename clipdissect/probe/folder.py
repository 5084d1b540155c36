"""A folder of image files as a probe."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipdissect.errors import DissectError, MissingResource
from clipdissect.images.decode import Picture, open_picture, orientation_of
from clipdissect.probe.base import Probe
from clipdissect.probe.image_files import file_identities, find_image_files
from clipdissect.probe.options import ProbeOptions, not_empty
from clipdissect.utils.files import check_listable
from clipdissect.utils.type_checks import check_choice, shortened

LABELS = ("none", "folders")
LabelOf = Callable[[str], str | None]


@dataclass(frozen=True)
class FileReader:
    """File decoder by index; unlike a closure, it can be sent to worker processes."""

    root: Path
    images: tuple[str, ...]
    decode: str = "pil"
    orientation: str = "ignore"

    def __call__(self, index: int) -> Picture:
        return open_picture(self.path(index), self.decode, self.orientation)

    def path(self, index: int) -> Path:
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
    """Use all image files below a folder, at any depth, ordered by path.

    Args:
        root: the folder; hidden files, earlier runs and caches below it are skipped.
        labels: `folders` labels images by the subfolder of `root`, `none` doesn't.
        limit, sample, seed, identity, decode, orientation, on_error: see `ProbeOptions`.
    """
    options = ProbeOptions(limit, sample, seed, identity, decode, on_error, orientation)
    check_choice("probe.labels", labels, LABELS)
    path = existing_folder(root)
    images = find_image_files(path, on_error)
    label_of = top_folder if labels == "folders" else None
    probe = of_files(path.name or "folder", path, images.files, options, label_of, images.notes)
    if label_of and probe.labels is None:
        raise DissectError(f"probe.labels=folders, but {path} has its images in no folders")
    return probe


def of_files(
    name: str,
    root: Path,
    files: Sequence[Path],
    options: ProbeOptions,
    label_of: LabelOf | None = None,
    notes: tuple[str, ...] = (),
) -> Probe:
    """Return a probe of files below `root`, ordered and labelled by their relative path."""
    relative = sorted(file.relative_to(root).as_posix() for file in files)
    images = tuple(relative[i] for i in options.pick(len(relative)))
    return of_relative(name, root, images, options, label_of, notes)


def of_relative(
    name: str,
    root: Path,
    images: tuple[str, ...],
    options: ProbeOptions,
    label_of: LabelOf | None = None,
    notes: tuple[str, ...] = (),
) -> Probe:
    """Return a probe of all files with these paths relative to `root`, in this order."""
    reader = FileReader(root, images, **options.reading)
    labels = tuple(map(label_of, images)) if label_of else ()
    tags = (orientation_of(root / image) for image in images)
    return Probe.of(
        name,
        images,
        reader,
        options.identities(file_identities(root, images, options.identity)),
        on_error=options.on_error,
        on_gpu=options.on_gpu,
        file=reader.path,
        labels=labels if any(labels) else None,
        notes=(*notes, *options.orientation_notes(tags)),
    )


def listed(paths: Sequence[str | Path]) -> Probe:
    """Use image files in the order of a list, named by their paths below the closest common folder.

    Raises:
        DissectError: a path is listed twice, or is a folder or no path.
        MissingResource: no such file.
    """
    wrong = [path for path in paths if not isinstance(path, (str, Path)) or path in ("", Path())]
    if wrong:
        raise DissectError(f"a list of files must hold paths alone; got {shortened(wrong[0])}")
    files = [Path(os.path.abspath(Path(path).expanduser())) for path in paths]
    for file in files:
        if file.is_dir():
            raise DissectError(f"{file} is a folder: pass it alone, or list the files in it")
        if not file.is_file():
            raise MissingResource("an image of the probe", [str(file)], "check the list of paths")
    root = Path(os.path.commonpath([file.parent for file in files]))
    images = tuple(file.relative_to(root).as_posix() for file in files)
    return of_relative(root.name or "files", root, images, ProbeOptions(orientation="ignore"))


def top_folder(image: str) -> str | None:
    """Return the first folder of a relative path; None for a bare file name."""
    first, slash, _ = image.partition("/")
    return first if slash else None


def existing_folder(root: str) -> Path:
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
