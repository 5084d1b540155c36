"""A folder of image files as a probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from clipdissect import digest
from clipdissect.errors import DissectError, MissingResource
from clipdissect.images import SUFFIXES, open_rgb
from clipdissect.probe.base import Probe


@dataclass(frozen=True)
class FileReader:
    """Decodes the files of a probe by number; a plain object, so that worker processes can."""

    root: Path
    images: tuple[str, ...]

    def __call__(self, index: int) -> Image.Image:
        return open_rgb(self.root / self.images[index])


def folder(root: str, on_error: str = "skip") -> Probe:
    """All image files below a folder, at any depth, ordered by path.

    Files are told apart by relative path, size and modification time: a changed or replaced file
    is noticed, a renamed root folder isn't. A file rewritten with the same size and time is not.

    Args:
        root: the folder.
        on_error: what to do with unreadable images, `skip` or `raise`.

    Raises:
        MissingResource: the folder doesn't exist.
        DissectError: it is a file, or holds no image files.
    """
    path = _existing_folder(root)
    found = [p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()]
    if not found:
        endings = " ".join(sorted(SUFFIXES))
        raise DissectError(f"no image files in {path} or below it (looked for {endings})")
    return of_files(path.name or "folder", path, found, on_error)


def of_files(name: str, root: Path, files: Sequence[Path], on_error: str = "skip") -> Probe:
    """A probe of the given files below `root`, ordered by relative path; see `folder`."""
    names = tuple(sorted(f.relative_to(root).as_posix() for f in files))
    stats = [(root / image).stat() for image in names]
    identity = [(n, s.st_size, s.st_mtime_ns) for n, s in zip(names, stats, strict=True)]
    return Probe(name, names, FileReader(root, names), digest.of("files 1", identity), on_error)


def _existing_folder(root: str) -> Path:
    path = Path(root).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise DissectError(f"{path} is a file; the probe's root must be a folder of images")
    raise MissingResource(
        "the probe's image folder", [str(path.absolute())], "set probe.root to an existing folder"
    )
