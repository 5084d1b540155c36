"""The files of CIFAR-10 and CIFAR-100, as torchvision lays them out.

They are pickles, which may run any code when they are loaded in the usual way. Here they are loaded
without: an unpickler that knows lists, dictionaries, numbers and texts, and one stand-in for arrays
of bytes, and refuses whatever else a file asks for. So the files need not be trusted.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipdissect.errors import DissectError, MissingResource
from clipdissect.utils.files import check_listable
from clipdissect.utils.paths import data_places


@dataclass(frozen=True)
class Layout:
    """Where a set's parts are.

    Args:
        dataset: torchvision's class, which knows the files and where to get them.
        labels: key of the label numbers.
    """

    dataset: str
    labels: str

    @property
    def source(self) -> Any:
        """torchvision's class."""
        from torchvision import datasets

        return getattr(datasets, self.dataset)

    def files(self, train: bool) -> list[str]:
        """Names of the files with the images of a split."""
        return [name for name, _ in (self.source.train_list if train else self.source.test_list)]


CIFAR10 = Layout("CIFAR10", "labels")
CIFAR100 = Layout("CIFAR100", "fine_labels")


def find(layout: Layout, root: str | None = None) -> Path:
    """The folder of the files: `root` or the set's own folder in it, else in the data folders.

    Raises:
        MissingResource: none has the set's list of classes.
        DissectError: one can't be listed.
    """
    base, meta = layout.source.base_folder, layout.source.meta["filename"]
    tops = [Path(root).expanduser()] if root else data_places()
    places = [place for top in tops for place in (top / base, top)]
    for place in places:
        check_listable(place)
        if (place / meta).is_file():
            return place
    raise MissingResource(
        f"{layout.dataset} ({base}, as torchvision keeps it)",
        [str((place / meta).absolute()) for place in places],
        f"clipdissect fetch {layout.dataset.lower()}, or set root to the folder that holds {base}, "
        f"or probe.download=true",
    )


def download(layout: Layout, root: str | None = None) -> None:
    """Get the files with torchvision's own download, which checks the archive's MD5.

    Raises:
        MissingResource: they can't be had.
    """
    from torchvision.datasets.utils import download_and_extract_archive

    source, top = layout.source, Path(root).expanduser() if root else data_places()[0]
    try:
        top.mkdir(parents=True, exist_ok=True)
        download_and_extract_archive(
            source.url, str(top), filename=source.filename, md5=source.tgz_md5
        )
    except (OSError, RuntimeError) as error:
        raise MissingResource(
            f"{layout.dataset} ({error})",
            [source.url, str(top)],
            f"where there is a network, try again; or unpack {source.filename} into {top}",
        ) from error


def class_names(layout: Layout, folder: Path) -> tuple[str, ...]:
    """The classes' names in words (`aquarium fish`), in the order of their numbers.

    Raises:
        DissectError: a file of another kind, or damaged.
    """
    meta = layout.source.meta
    names = load(folder / meta["filename"]).get(meta["key"])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DissectError(f"{folder / meta['filename']} has no list {meta['key']}")
    return tuple(name.replace("_", " ") for name in names)


def load(path: Path) -> dict[str, Any]:
    """A file's dictionary; arrays are uint8.

    Raises:
        MissingResource: no such file.
        DissectError: damaged, or it holds something that such files don't.
    """
    if not path.is_file():
        raise MissingResource(
            "a file of the CIFAR images", [str(path.absolute())], "unpack the whole archive"
        )
    try:
        with path.open("rb") as source:
            found = _Plain(source, encoding="latin1").load()
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}")
        return {k: v.values() if isinstance(v, _Array) else v for k, v in found.items()}
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, LookupError, AttributeError,
            OverflowError, MemoryError) as error:  # fmt: skip
        raise DissectError(f"{path} is damaged, or isn't a CIFAR file: {error}") from error


class _Array:
    """Stands in for numpy's array while a file is loaded; knows bytes alone."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def values(self) -> Any:
        """The array."""
        _, shape, kind, by_column, raw = self.state
        if not isinstance(kind, _Kind) or kind.name not in ("u1", "uint8", "|u1"):
            raise ValueError("its arrays aren't of bytes")
        data = np.frombuffer(raw.encode("latin1") if isinstance(raw, str) else raw, np.uint8)
        return data.reshape(shape, order="F" if by_column else "C")


class _Kind:
    """Stands in for numpy's description of an array's elements."""

    def __init__(self, name: str, *_: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        pass


def _encode(text: str, _: str = "latin1") -> bytes:
    return text.encode("latin1")


class _Plain(pickle.Unpickler):
    """Knows nothing that a CIFAR file doesn't need."""

    known: dict[tuple[str, str], Any] = {  # noqa: RUF012 - never changed
        ("numpy.core.multiarray", "_reconstruct"): _Array,
        ("numpy._core.multiarray", "_reconstruct"): _Array,
        ("numpy", "ndarray"): None,  # only named, as the first argument of the above
        ("numpy", "dtype"): _Kind,
        ("_codecs", "encode"): _encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of a name that the file asks for.

        Raises:
            pickle.UnpicklingError: there is none.
        """
        if (module, name) not in self.known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return self.known[module, name]
