"""Atomic writes, checks of folders, and readable sizes."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG

from clipdissect.errors import DissectError

FileIdentity = tuple[int, int, int, int, int]


def file_identity(path: Path) -> FileIdentity | None:
    """Return device, inode, size and times, which each write changes; None if it isn't a file."""
    try:
        stat = path.stat()
    except OSError:
        return None
    if not S_ISREG(stat.st_mode):
        return None
    # The time of change as well: users can set the time of modification back.
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


@contextmanager
def atomic(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path; if the block succeeds, sync (if `durable`) and move it to `path`."""
    if path.is_dir():  # else the error names the temporary file
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        if durable:
            with temporary.open("rb+") as written:
                os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        if error.filename is None:  # writing to an open file doesn't say which
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str, durable: bool = True) -> None:
    """Write UTF-8 text atomically with `\\n` line ends; escape undecodable file names.

    Files that can be made again from others needn't be `durable`: syncing takes milliseconds.
    """
    with atomic(path, durable) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def link_or_copy(source: Path, path: Path) -> None:
    """Make `path` a hard link to a file that is never written again, or else a copy of it."""
    try:
        os.link(source, path)
    except FileExistsError:
        return
    except OSError:  # another disk, or no permission
        with atomic(path, durable=False) as temporary:
            shutil.copyfile(source, temporary)


def note_use(path: Path) -> None:
    """Set a cached file's modification time to now, for pruning by age."""
    with suppress(OSError):  # absent, or owned by another user
        os.utime(path)


def _umask() -> int:
    # mkstemp creates private files; the final file should have the usual permissions.
    current = os.umask(0)
    os.umask(current)
    return current


def check_listable(folder: Path) -> None:
    """Raise a DissectError if a folder exists but can't be listed."""
    try:
        os.scandir(folder).close()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise DissectError(f"can't read the folder {folder}: {error.strerror}") from error


def human_size(size: float | None) -> str:
    """Format a number of bytes, such as `6.8 kB` or `155 kB`; `?` for None."""
    if size is None:
        return "?"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.1f} {unit}" if size < 10 and unit != "B" else f"{size:.0f} {unit}"
