"""Images of texts in folders named by the texts, such as other generators write them."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from clipdissect.datasets.places365 import match_key
from clipdissect.errors import DissectError, MissingResource
from clipdissect.probe import Probe
from clipdissect.probe.folder import of_files
from clipdissect.probe.image_files import file_identities, is_hidden, is_image
from clipdissect.probe.options import ProbeOptions
from clipdissect.utils import hashing
from clipdissect.utils.files import check_listable
from clipdissect.utils.type_checks import check_range


@dataclass(frozen=True)
class Folder:
    """The first `limit` images of `root/<text>`; `names` are the folders below `root`."""

    root: Path
    limit: int
    names: frozenset[str]
    name: ClassVar[str] = "folder"

    @cached_property
    def digest(self) -> str:
        """A hash of the names, sizes and times of all files."""
        files = [file for name in sorted(self.names) for file in self._files(name)]
        relative = [file.relative_to(self.root).as_posix() for file in files]
        identities = file_identities(self.root, relative, "stat")
        return hashing.hash_values("text images", self.name, self.limit, identities)

    @cached_property
    def notes(self) -> tuple[str, ...]:
        ambiguous = [names for names in self._by_key.values() if len(names) > 1]
        if not ambiguous:
            return ()
        return (
            f"folders of images that differ only in case or separators, used only for texts with "
            f"exactly their name: {', '.join(sorted(ambiguous[0]))} ({len(ambiguous)} such groups)",
        )

    def images_of(self, text: str) -> Probe | None:
        """Return the images of the text's folder; None without a folder or images."""
        name = self._folder_name(text)
        files = self._files(name) if name else []
        if not files:
            return None
        # Relative to the root: the same file names occur in the folders of many texts.
        return of_files(text, self.root, files, ProbeOptions(limit=self.limit))

    def _folder_name(self, text: str) -> str | None:
        # Looked up among the existing folders: a text never becomes a path.
        for separator in (" ", "_", "-"):
            name = text.strip().replace("/", separator).replace(" ", separator)
            if name in self.names:
                return name
        similar = self._by_key.get(match_key(text), [])
        return similar[0] if len(similar) == 1 else None

    @cached_property
    def _by_key(self) -> dict[str, list[str]]:
        names: dict[str, list[str]] = defaultdict(list)
        for name in sorted(self.names):
            names[match_key(name)].append(name)
        return dict(names)

    def _files(self, name: str) -> list[Path]:
        folder = self.root / name
        check_listable(folder)
        with os.scandir(folder) as entries:
            return sorted(
                Path(entry.path)
                for entry in entries
                if is_image(entry.name) and not is_hidden(entry.name) and entry.is_file()
            )


def folder(root: str, limit: int = 50) -> Folder:
    """Use the images in `root/<text>/`, or with `_` or `-` for the text's blanks and slashes.

    Another case is accepted where only one folder fits.

    Args:
        root: the folder that has one folder per text.
        limit: images per text, the first ones by name.

    Raises:
        MissingResource: no such folder.
        DissectError: it has no folders.
    """
    check_range("text_images.limit", limit, 1)
    if not root.strip():
        raise DissectError("text_images.root is empty (an unset variable?): give it a folder")
    path = Path(root).expanduser()
    check_listable(path)
    if path.is_file():
        raise DissectError(f"{path} is a file; text_images.root must be a folder")
    if not path.is_dir():
        raise MissingResource(
            "the folder of images per text",
            [str(path.absolute())],
            "set text_images.root to a folder with one folder per text, such as root/zebra/0.png",
        )
    names = frozenset(p.name for p in path.iterdir() if p.is_dir() and not is_hidden(p.name))
    if not names:
        raise DissectError(
            f"{path} has no folders: text_images.root must have one folder of images per text, "
            f"such as {path / 'zebra' / '0.png'}"
        )
    return Folder(path, limit, names)
