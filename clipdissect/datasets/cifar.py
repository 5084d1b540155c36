"""The files of CIFAR-10 and CIFAR-100 in torchvision's layout."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipdissect.errors import DissectError, MissingResource
from clipdissect.utils.paths import data_places, find_data


@dataclass(frozen=True)
class Layout:
    """A data set's files; `labels` is the key of the label numbers."""

    dataset: str
    labels: str

    @property
    def source(self) -> Any:
        """The torchvision class, which lists the files and their source."""
        from torchvision import datasets

        return getattr(datasets, self.dataset)

    def files(self, train: bool) -> list[str]:
        return [name for name, _ in (self.source.train_list if train else self.source.test_list)]


CIFAR10 = Layout("CIFAR10", "labels")
CIFAR100 = Layout("CIFAR100", "fine_labels")


def find(layout: Layout, root: str | None = None) -> Path:
    """Return the files' folder, in `root` or else in the data folders.

    Raises:
        MissingResource: no folder has the list of classes.
        DissectError: a folder can't be listed.
    """
    base, meta = layout.source.base_folder, layout.source.meta["filename"]
    tops = [Path(root).expanduser()] if root else data_places()
    folders = [folder for top in tops for folder in (top / base, top)]
    return find_data(
        f"{layout.dataset} ({base}, in torchvision's layout)",
        folders,
        f"clipdissect fetch {layout.dataset.lower()}, or set root to the folder that holds {base}, "
        f"or probe.download=true",
        meta,
    )


def download(layout: Layout, root: str | None = None) -> None:
    """Download the files with torchvision, which checks the archive's MD5."""
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
            f"try again with a network connection, or unpack {source.filename} into {top}",
        ) from error


def class_names(layout: Layout, folder: Path) -> tuple[str, ...]:
    """Return the class names in words (`aquarium fish`), in class order."""
    meta = layout.source.meta
    names = load(folder / meta["filename"]).get(meta["key"])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DissectError(f"{folder / meta['filename']} has no list {meta['key']}")
    return tuple(name.replace("_", " ") for name in names)


def load(path: Path) -> dict[str, Any]:
    """Return a file's dictionary with uint8 arrays, or raise a DissectError if damaged."""
    if not path.is_file():
        raise MissingResource(
            "a file of the CIFAR images", [str(path.absolute())], "unpack the whole archive"
        )
    try:
        with path.open("rb") as source:
            content = _Unpickler(source, encoding="latin1").load()
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}")
        return {k: v.to_numpy() if isinstance(v, _Array) else v for k, v in content.items()}
    except Exception as error:  # a damaged pickle can raise any
        raise DissectError(f"{path} is damaged, or isn't a CIFAR file: {error}") from error


class _Array:
    """Stand-in for a numpy array of bytes."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def to_numpy(self) -> Any:
        _, shape, dtype, is_fortran, raw = self.state
        if not isinstance(dtype, _DType) or dtype.name not in ("u1", "uint8", "|u1"):
            raise ValueError("its arrays aren't uint8")
        data = np.frombuffer(raw.encode("latin1") if isinstance(raw, str) else raw, np.uint8)
        return data.reshape(shape, order="F" if is_fortran else "C")


class _DType:
    def __init__(self, name: str, *_: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        pass


def _encode(text: str, _: str = "latin1") -> bytes:
    return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    """Unpickler restricted to the types in CIFAR files, since pickles may run any code."""

    known: dict[tuple[str, str], Any] = {  # noqa: RUF012 - never changed
        ("numpy.core.multiarray", "_reconstruct"): _Array,
        ("numpy._core.multiarray", "_reconstruct"): _Array,
        ("numpy", "ndarray"): None,  # only named, as the first argument of the above
        ("numpy", "dtype"): _DType,
        ("_codecs", "encode"): _encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.known:
            raise pickle.UnpicklingError(f"it references {module}.{name}")
        return self.known[module, name]
