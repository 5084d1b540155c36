"""Hugging Face datasets as probes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from clipdissect.errors import DissectError, MissingResource, unknown
from clipdissect.images.decode import (
    Picture,
    UnreadableImage,
    decode_picture,
    orientation_of,
    unreadable,
)
from clipdissect.probe.base import Labels, Probe
from clipdissect.probe.options import ProbeOptions, not_empty
from clipdissect.utils import hashing
from clipdissect.utils.extras import install


@dataclass(frozen=True)
class TableReader:
    """Decoder of the images in rows of a table, whose only column holds bytes or paths."""

    table: Any
    column: str
    rows: tuple[int, ...]
    decode: str = "pil"
    orientation: str = "ignore"

    def __call__(self, index: int) -> Picture:
        return decode_picture(self.data(index), self.decode, self.orientation)

    def data(self, index: int) -> bytes:
        """Return an image file's bytes, or raise `UnreadableImage`."""
        item = self._item(index)
        data = item.get("bytes") if isinstance(item, dict) else item
        if isinstance(data, bytes):
            return data
        path = self.path(index)
        if path is None:
            raise UnreadableImage(f"it is {type(item).__name__}, not a file or its bytes")
        try:
            return path.read_bytes()
        except OSError as error:
            raise unreadable(error, path) from error

    def path(self, index: int) -> Path | None:
        """Return the image's file; None if its bytes are in the table."""
        item = self._item(index)
        if not isinstance(item, dict) or item.get("bytes") is not None or not item.get("path"):
            return None
        return Path(item["path"])

    def tags(self) -> Iterator[int]:
        table = self.table.with_format("arrow")
        for row in self.rows:
            source = _header_source(table[row].column(self.column)[0])
            yield 1 if source is None else orientation_of(source)

    def identities(self, identity: str, in_files: bool) -> list[str]:
        """Return an identity per image, from its file or its row in the table."""
        indices = range(len(self.rows))
        if identity == "content":
            return [self._content(index) for index in indices]
        if in_files:
            return [_stat(self.path(index)) for index in indices]
        stats = [_stat(Path(cached["filename"])) for cached in self.table.cache_files]
        table = hashing.hash_values(self.table._fingerprint, self.column, stats)
        return [f"{table} {row}" for row in self.rows]

    def _item(self, index: int) -> Any:
        return self.table[self.rows[index]][self.column]

    def _content(self, index: int) -> str:
        try:
            return hashlib.sha256(self.data(index)).hexdigest()
        except UnreadableImage:
            return "unreadable"


def hf_datasets(
    path: str,
    config: str | None = None,
    split: str | None = None,
    image: str | None = None,
    label: str | None = None,
    limit: int | None = None,
    sample: int | None = None,
    seed: int = 0,
    identity: str = "stat",
    decode: str = "pil",
    orientation: str = "ignore",
    on_error: str = "skip",
) -> Probe:
    """Use the images of a dataset of the package `datasets`, local or on the hub.

    Args:
        path: `save_to_disk` folder, image or parquet folder, parquet files, or hub name.
        config: the dataset's configuration, if it has several.
        split: required if there are several.
        image: column of images; default: the first.
        label: column of labels; default: the first `ClassLabel`, if any.
        limit, sample, seed, identity, decode, orientation, on_error: see `ProbeOptions`.
        identity: `stat` uses fingerprint, row and file times; `content` reads all images.
    """
    options = ProbeOptions(limit, sample, seed, identity, decode, on_error, orientation)
    not_empty(path=path)
    table = _split(_load(path, config, split), split)
    columns = [str(n) for n, feature in table.features.items() if type(feature).__name__ == "Image"]
    if not image and not columns:
        listed = ", ".join(table.features)
        raise DissectError(
            f"the dataset has no column of images; set probe.image to one of {listed}"
        )
    column = image or columns[0]
    rows = tuple(options.pick(len(table)))
    reader = TableReader(_undecoded(table, column), column, rows, **options.reading)
    in_files = len(table) > 0 and replace(reader, rows=(0,)).path(0) is not None
    labels = _labels(table, label)
    return Probe.of(
        Path(path).name,
        [f"{table.split or 'row'}/{row:06d}" for row in rows],
        reader,
        options.identities(reader.identities(identity, in_files)),
        on_error=on_error,
        on_gpu=options.on_gpu,
        notes=(
            *(() if image else _other_columns(columns)),
            *options.orientation_notes(reader.tags()),
        ),
        labels=tuple(labels[row] for row in rows) if labels else None,
        file=reader.path if in_files else None,
    )


def _load(path: str, config: str | None, split: str | None) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingResource(
            "the package datasets", ["the installed packages"], install("hf")
        ) from error
    local = Path(path).expanduser()
    if local.is_file() and local.suffix != ".parquet":
        raise DissectError(f"{local} is neither a folder nor a parquet file")
    try:
        if (local / "state.json").is_file() or (local / "dataset_dict.json").is_file():
            return datasets.load_from_disk(str(local))
        if local.suffix == ".parquet":
            return datasets.load_dataset("parquet", data_files=str(local), split=split)
        return datasets.load_dataset(str(local) if local.is_dir() else path, config, split=split)
    except (OSError, EOFError) as error:
        raise MissingResource(
            f"the dataset {path} ({error})",
            [str(local.absolute()), "the hub"],
            "set probe.path to a local folder, or to a name on the hub where it can be reached",
        ) from error
    except ValueError as error:  # an unknown configuration or split; lists the valid ones
        raise DissectError(f"the dataset {path} can't be loaded: {error}") from error


def _split(loaded: Any, split: str | None) -> Any:
    if not isinstance(loaded, dict):
        return loaded
    if split is None and len(loaded) == 1:
        return next(iter(loaded.values()))
    if split is None:
        raise DissectError(
            f"the dataset has several splits; set probe.split to one: {list(loaded)}"
        )
    if split not in loaded:
        raise unknown("split of the dataset", split, loaded)
    return loaded[split]


def _other_columns(columns: list[str]) -> tuple[str, ...]:
    """Return a note if other columns, such as masks, could be the images too."""
    if len(columns) == 1:
        return ()
    others = ", ".join(columns[1:])
    return (f"the images are the dataset's column {columns[0]}; probe.image can be {others}",)


def _undecoded(table: Any, column: str) -> Any:
    """Return the column alone, as bytes or paths."""
    if column not in table.features:
        raise unknown("column of the dataset (probe.image)", column, table.features)
    feature = table.features[column]
    selected = table.select_columns([column])
    if type(feature).__name__ != "Image":
        return selected
    return selected.cast_column(column, type(feature)(decode=False))


def _labels(table: Any, column: str | None) -> Labels | None:
    features = table.features
    if column is None:
        classes = (n for n, feature in features.items() if type(feature).__name__ == "ClassLabel")
        column = next(classes, None)
        if column is None:
            return None
    if column not in features:
        raise unknown("column of the dataset (probe.label)", column, features)
    names = getattr(features[column], "names", None)
    values = list(table[column])
    if names is None:
        return tuple(None if value is None else str(value) for value in values)
    return tuple(str(names[v]) if v is not None and v >= 0 else None for v in values)


def _header_source(cell: Any) -> Path | IO[bytes] | None:
    """Return an image's file or bytes from its cell of an Arrow table."""
    import pyarrow

    if pyarrow.types.is_struct(cell.type):
        path = cell.get("path")
        cell = cell["bytes"]
        if not cell.is_valid:
            return Path(path.as_py()) if path is not None and path.is_valid else None
    is_binary = pyarrow.types.is_binary(cell.type) or pyarrow.types.is_large_binary(cell.type)
    return pyarrow.BufferReader(cell.as_buffer()) if is_binary and cell.is_valid else None


def _stat(file: Path | None) -> str:
    if file is None:
        return "unreadable"
    try:
        stat = file.stat()
    except OSError:
        return "unreadable"
    # With the folder, since many data sets repeat file names across class folders.
    return f"{file.parent.name}/{file.name} {stat.st_size} {stat.st_mtime_ns}"
