"""Find the image files below a folder, and identify them in cache keys."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from clipdissect.errors import DissectError
from clipdissect.images.decode import SUFFIXES
from clipdissect.utils import hashing
from clipdissect.utils.files import check_listable, note_use, write_text
from clipdissect.utils.paths import cache_dir
from clipdissect.utils.progress import progress

log = logging.getLogger(__name__)

UNREADABLE = "folders that can't be read, left out"
BROKEN = "broken links to images, left out"
LOOPS = "linked folders that lead back to a parent folder, not followed"
REPEATED = "folders with several links, whose images count once per link"
UNUSUAL = (BROKEN, LOOPS, REPEATED)
HIDDEN, RUNS, CACHES = "hidden files and folders", "earlier runs and reports", "caches"
# Folders of operating systems and archivers, in lower case; see `is_hidden` for other names.
_SYSTEM = "#recycle,#snapshot,$recycle.bin,@eadir,@recently-snapshot,@recycle,__macosx,__pycache__"
SYSTEM = frozenset([*_SYSTEM.split(","), "lost+found", "system volume information"])
# Image formats that aren't supported.
_OTHER_FORMATS = "arw cr2 cr3 dng exr hdr heic heif jxl nef psd raw svg tga"
OTHER_SUFFIXES = frozenset(f".{name}" for name in _OTHER_FORMATS.split())
THREADS = 8  # that hash files
HEAD = 1 << 16  # bytes to read to see whether this project wrote a file
GENERATOR = b'content="clipdissect '  # in the pages of reports
LAUNCHED = b"callbacks.Launched"  # in the configs that Hydra writes for this project's runners

_Inode = tuple[int, int]  # device and inode: equal for all paths to a folder


@dataclass
class ImageFiles:
    """The image files below a folder, and the files left out."""

    root: Path
    files: list[Path] = field(default_factory=list)  # unordered
    left_out: Counter[str] = field(default_factory=Counter)  # images per reason
    examples: dict[str, Path] = field(default_factory=dict)  # first path left out per reason
    unreadable: dict[Path, str] = field(default_factory=dict)  # folders to the reason
    other_formats: Counter[str] = field(default_factory=Counter)  # images per suffix
    unusual: dict[str, list[Path]] = field(default_factory=lambda: {key: [] for key in UNUSUAL})
    _first_paths: dict[_Inode, Path] = field(default_factory=dict)

    @property
    def notes(self) -> tuple[str, ...]:
        notes = []
        if self.left_out:
            counts = [
                f"{count} in {reason} (such as {self._relative(self.examples[reason])})"
                for reason, count in self.left_out.items()
            ]
            notes.append(f"images left out of the probe: {', '.join(counts)}")
        if self.other_formats:
            counts = [f"{count} {suffix}" for suffix, count in sorted(self.other_formats.items())]
            notes.append(f"images in unsupported formats: {', '.join(counts)}")
        unusual = {UNREADABLE: list(self.unreadable), **self.unusual}
        return *notes, *(
            f"{description}: {len(paths)} (such as {self._relative(paths[0])})"
            for description, paths in unusual.items()
            if paths
        )

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def scan(self, folder: Path, parents: tuple[_Inode, ...] = ()) -> None:
        """Search a folder; raise an OSError if it can't be listed."""
        inode, entries = _inode(folder), _entries(folder)
        reason = _reason_to_skip(folder, inode, {entry.name for entry in entries})
        if reason and parents:  # the root itself is the user's choice
            self._leave_out(folder, True, reason)
            return
        if inode in parents:
            self.unusual[LOOPS].append(folder)
            return
        if self._first_paths.setdefault(inode, folder) != folder:
            self.unusual[REPEATED].append(folder)
        for entry in entries:
            self._scan_entry(entry, (*parents, inode))

    def _scan_entry(self, entry: os.DirEntry[str], parents: tuple[_Inode, ...]) -> None:
        path = Path(entry.path)
        is_folder = _leads_to(entry, "is_dir")  # links too, as in torchvision's ImageFolder
        if is_hidden(entry.name):
            self._leave_out(path, is_folder, HIDDEN)
        elif is_folder:
            try:
                self.scan(path, parents)
            except OSError as error:
                self.unreadable[path] = error.strerror or str(error)
        elif is_image(entry.name):
            exists = _leads_to(entry, "is_file")
            (self.files if exists else self.unusual[BROKEN]).append(path)
        elif path.suffix.lower() in OTHER_SUFFIXES:
            self.other_formats[path.suffix.lower()] += 1

    def _leave_out(self, path: Path, is_folder: bool, reason: str) -> None:
        names = [path.name]
        if is_folder:  # os.walk doesn't follow links, enough for a count
            names = [name for _, _, files in os.walk(path) for name in files]
        count = sum(map(is_image, names))
        if count:
            self.left_out[reason] += count
            self.examples.setdefault(reason, path)


def find_image_files(root: Path, on_error: str = "skip") -> ImageFiles:
    """Find all image files; `on_error="raise"` stops at a folder that can't be listed."""
    check_listable(root)
    images = ImageFiles(root)
    images.scan(root)
    for path, reason in images.unreadable.items():
        if on_error == "raise":
            raise DissectError(f"can't read the folder {path}: {reason}")
        log.warning("can't read the folder %s: %s", path, reason)
    if not images.files:
        suffixes = " ".join(sorted(SUFFIXES))
        message = f"no image files in {root} or below it (looked for {suffixes})"
        raise DissectError("; ".join((message, *images.notes)))
    return images


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this name belongs to a system, not to the user."""
    return name.startswith((".", "PaxHeader")) or name.lower() in SYSTEM


def is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _entries(path: Path) -> list[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _inode(path: Path) -> _Inode:
    stat = path.stat()
    return stat.st_dev, stat.st_ino


def _leads_to(entry: os.DirEntry[str], test: Literal["is_dir", "is_file"]) -> bool:
    try:
        return bool(getattr(entry, test)())
    except OSError:  # a link to itself, or into a folder that can't be entered
        return False


def _reason_to_skip(folder: Path, inode: _Inode, names: set[str]) -> str | None:
    """Return why a folder doesn't hold the user's images; None if it does."""
    if _is_run(folder, names):
        return RUNS
    cache = cache_dir()
    is_cache = "CACHEDIR.TAG" in names or (os.path.isdir(cache) and _inode(cache) == inode)
    return CACHES if is_cache else None


def _is_run(folder: Path, names: set[str]) -> bool:
    """Return whether a run, its tracker, `Result.save` or a report wrote the folder."""
    if folder.name == "wandb" and any(n.startswith(("run-", "offline-run-")) for n in names):
        return True
    marks = {
        "run.json": b'"clipdissect"',
        "index.html": GENERATOR,
        "multirun.yaml": LAUNCHED,
        ".hydra": LAUNCHED,
    }
    return {"descriptions.csv", "top_images.csv"} <= names or any(
        mark in _head(folder / name) for name, mark in marks.items() if name in names
    )


def _head(path: Path) -> bytes:
    try:
        with (path / "hydra.yaml" if path.is_dir() else path).open("rb") as source:
            return source.read(HEAD)
    except OSError:
        return b""


def file_identities(root: Path, names: Sequence[str], identity: str) -> list[str]:
    """Return an identity per file below `root`; see `ProbeOptions.identity`."""
    try:
        stats = [(root / name).stat() for name in names]
    except OSError as error:
        raise DissectError(f"can't access {error.filename}: {error.strerror}") from error
    if identity == "content":
        return _cached_digests(root, names, stats)
    return [f"{n} {s.st_size} {s.st_mtime_ns}" for n, s in zip(names, stats, strict=True)]


def _cached_digests(root: Path, names: Sequence[str], stats: Sequence[os.stat_result]) -> list[str]:
    """Return the SHA-256 per file, reading only files that changed since the last call."""
    cache = cache_dir() / "digests" / f"{hashing.hash_values(str(root.resolve()))}.json"
    known = _load(cache)
    note_use(cache)
    # ctime too: every write updates it, and users can't set it back.
    keys = {n: [s.st_size, s.st_mtime_ns, s.st_ctime_ns] for n, s in zip(names, stats, strict=True)}
    changed = [name for name, key in keys.items() if known.get(name, [])[:3] != key]
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        digests = pool.map(_hash_file, (root / name for name in changed))
        bar = progress(digests, "digests", "files", total=len(changed))
        updates = {name: [*keys[name], digest] for name, digest in zip(changed, bar, strict=True)}
    known |= updates
    if updates:
        try:
            write_text(cache, json.dumps(known))
        except OSError as error:
            log.warning("can't cache the file hashes in %s: %s", cache, error.strerror)
    return [str(known[name][3]) for name in names]


def _hash_file(path: Path) -> str:
    try:
        return hashing.hash_file(path)
    except OSError as error:
        raise DissectError(f"can't read {path} to hash it: {error.strerror}") from error


def _load(cache: Path) -> dict[str, list[Any]]:
    try:
        entries = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(entries, dict):
        return {}
    return {n: entry for n, entry in entries.items() if isinstance(entry, list) and len(entry) == 4}
