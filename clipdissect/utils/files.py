"""Writing files so that a reader never sees half of one; folders that can't be listed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from clipdissect.errors import DissectError


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; moved into place, synced, when the block ends well.

    Raises:
        OSError: the disk is full or the folder can't be written; `path` is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
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


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 with `\\n` line ends, atomically; parts of file names that aren't text
    are escaped."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def note_use(path: Path) -> None:
    """Set the modification time of something that is kept to now, for pruning; if it is there."""
    with suppress(OSError):  # absent, or somebody else's
        os.utime(path)


def _umask() -> int:
    # mkstemp makes private files; the final file should have the permissions of any other.
    current = os.umask(0)
    os.umask(current)
    return current


def check_listable(folder: Path) -> None:
    """Check that a folder, where there is one, can be listed.

    Raises:
        DissectError: it can't, such as for want of permission.
    """
    try:
        os.scandir(folder).close()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise DissectError(f"can't read the folder {folder}: {error.strerror}") from error
