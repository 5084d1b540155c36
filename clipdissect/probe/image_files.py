"""Finding the image files below a folder, without what other programs and earlier runs left there.

Left out and counted: hidden files and folders, earlier runs and reports of this project, caches.
Linked folders are followed, as torchvision's `ImageFolder` does.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from clipdissect.images.decode import SUFFIXES
from clipdissect.utils.paths import cache_dir

HIDDEN, RUNS, CACHES = "hidden files and folders", "earlier runs and reports", "caches"
# Folders that systems keep for themselves, in lower case; names with a leading dot come on top, and
# what is left of tar's own headers.
SYSTEM = frozenset(
    ["#recycle", "#snapshot", "$recycle.bin", "@eadir", "@recently-snapshot", "@recycle",
     "__macosx", "__pycache__", "lost+found", "system volume information"]
)  # fmt: skip
# Pictures of kinds that aren't decoded here.
OTHER_KINDS = frozenset(
    [".arw", ".cr2", ".cr3", ".dng", ".exr", ".hdr", ".heic", ".heif", ".jxl", ".nef", ".psd",
     ".raw", ".svg", ".tga"]
)  # fmt: skip
HEAD = 1 << 16  # bytes of a file that say whether it is this project's
GENERATOR = b'content="clipdissect '  # in the pages of reports
LAUNCHED = b"callbacks.Launched"  # in the configs that Hydra writes for this project's runners


@dataclass
class Walked:
    """The image files below a folder.

    Args:
        files: their paths.
        left_out: reason to the number of images left out for it.
        examples: reason to the first path left out.
        unreadable: folders that can't be listed, with the reason.
        broken: links of images' names that lead nowhere.
        loops: linked folders that lead to a folder above them, not followed.
        twice: folders reached by several paths, whose images count each time.
        other_kinds: ending to the number of pictures that aren't decoded here.
    """

    files: list[Path] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    examples: dict[str, Path] = field(default_factory=dict)
    unreadable: dict[Path, str] = field(default_factory=dict)
    broken: list[Path] = field(default_factory=list)
    loops: list[Path] = field(default_factory=list)
    twice: list[Path] = field(default_factory=list)
    other_kinds: Counter[str] = field(default_factory=Counter)

    def notes(self, root: Path) -> tuple[str, ...]:
        """Notes on all that isn't simply an image file, with relative paths as examples."""
        found = []
        if self.left_out:
            each = [f"{n} in {why} (such as {_below(self.examples[why], root)})"
                    for why, n in self.left_out.items()]  # fmt: skip
            found.append(f"images left out of the probe: {', '.join(each)}")
        if self.other_kinds:
            kinds = ", ".join(f"{n} {ending}" for ending, n in sorted(self.other_kinds.items()))
            found.append(f"pictures of kinds that aren't read: {kinds}")
        paths_of: Mapping[str, Sequence[Path]] = {
            "folders that can't be read, left out": list(self.unreadable),
            "links to images that lead nowhere, left out": self.broken,
            "linked folders that lead back to one above them, not followed": self.loops,
            "folders that several links lead to, whose images count each time": self.twice,
        }
        found += [f"{what}: {len(paths)} (such as {_below(paths[0], root)})"
                  for what, paths in paths_of.items() if paths]  # fmt: skip
        return tuple(found)


def walk(root: Path) -> Walked:
    """All image files below a folder, links followed, in no order.

    Raises:
        OSError: the folder itself can't be listed.
    """
    found = Walked()
    cache = cache_dir()
    _Walk(found, _place(cache) if os.path.isdir(cache) else None).folder(
        root, _place(root), _list(root), ()
    )
    return found


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is a system's own rather than the user's."""
    return name.startswith((".", "PaxHeader")) or name.lower() in SYSTEM


def is_image(name: str) -> bool:
    """Whether a file's name ends as images' names do."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


_Place = tuple[int, int]  # device and inode: the same by whatever path


@dataclass
class _Walk:
    found: Walked
    cache: _Place | None
    seen: dict[_Place, Path] = field(default_factory=dict)

    def folder(
        self, path: Path, place: _Place, entries: list[os.DirEntry[str]], above: tuple[_Place, ...]
    ) -> None:
        if place in above:
            self.found.loops.append(path)
            return
        if self.seen.setdefault(place, path) != path:
            self.found.twice.append(path)
        for entry in entries:
            self._entry(Path(entry.path), entry, (*above, place))

    def _entry(self, path: Path, entry: os.DirEntry[str], above: tuple[_Place, ...]) -> None:
        is_folder = _leads_to(entry, "is_dir")
        if is_hidden(entry.name):
            self._leave_out(path, is_folder, HIDDEN)
        elif is_folder:
            self._enter(path, above)
        elif is_image(entry.name):
            is_there = _leads_to(entry, "is_file")
            (self.found.files if is_there else self.found.broken).append(path)
        elif path.suffix.lower() in OTHER_KINDS:
            self.found.other_kinds[path.suffix.lower()] += 1

    def _enter(self, path: Path, above: tuple[_Place, ...]) -> None:
        try:
            place, entries = _place(path), _list(path)
        except OSError as error:
            self.found.unreadable[path] = error.strerror or str(error)
            return
        reason = _not_the_users(path, {entry.name for entry in entries})
        if place == self.cache:
            reason = CACHES
        if reason:
            self._leave_out(path, True, reason)
        else:
            self.folder(path, place, entries, above)

    def _leave_out(self, path: Path, is_folder: bool, reason: str) -> None:
        count = sum(1 for _ in _images_in(path)) if is_folder else int(is_image(path.name))
        if count:
            self.found.left_out[reason] += count
            self.found.examples.setdefault(reason, path)


def _list(path: Path) -> list[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _place(path: Path) -> _Place:
    stat = path.stat()
    return stat.st_dev, stat.st_ino


def _leads_to(entry: os.DirEntry[str], kind: Literal["is_dir", "is_file"]) -> bool:
    try:
        return bool(getattr(entry, kind)())
    except OSError:  # a link to itself, or into a folder that can't be entered
        return False


def _images_in(folder: Path) -> Iterator[str]:
    for _, _, names in os.walk(folder):  # follows no links: this only counts
        yield from filter(is_image, names)


def _not_the_users(folder: Path, names: set[str]) -> str | None:
    """Why a folder below the root isn't the user's images: an earlier run, a cache; else None."""
    if _is_run(folder, names) or _is_wandb(folder, names):
        return RUNS
    return CACHES if "CACHEDIR.TAG" in names else None


def _is_run(folder: Path, names: set[str]) -> bool:
    """Whether a runner, `Result.save` or a report wrote the folder; complete or interrupted."""
    marks = {
        "run.json": b'"clipdissect"', "index.html": GENERATOR, "multirun.yaml": LAUNCHED,
        ".hydra": LAUNCHED,
    }  # fmt: skip
    return {"descriptions.csv", "top_images.csv"} <= names or any(
        mark in _head(folder / name) for name, mark in marks.items() if name in names
    )


def _is_wandb(folder: Path, names: set[str]) -> bool:
    """Whether W&B keeps its runs, pictures among them, in the folder."""
    return folder.name == "wandb" and any(n.startswith(("run-", "offline-run-")) for n in names)


def _head(path: Path) -> bytes:
    try:
        with (path / "hydra.yaml" if path.is_dir() else path).open("rb") as source:
            return source.read(HEAD)
    except OSError:
        return b""


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
