"""Hugging Face datasets as probes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
from clipdissect.probe.base import Labels, Probe, Renumbered
from clipdissect.probe.options import ProbeOptions, not_empty
from clipdissect.utils import hashing
from clipdissect.utils.extras import install


@dataclass(frozen=True)
class TableReader:
    """Decodes the images of a table's column, which holds files' bytes or paths.

    Args:
        table: the dataset, with this column alone.
        column: its name.
        decode, orientation: see `ProbeOptions`.
    """

    table: Any
    column: str
    decode: str = "pil"
    orientation: str = "ignore"

    def __call__(self, index: int) -> Picture:
        return decode_picture(self.data(index), self.decode, self.orientation)

    def data(self, index: int) -> bytes:
        """A file's bytes.

        Raises:
            UnreadableImage: there are none, or the file can't be opened.
        """
        item = self.table[index][self.column]
        raw = item.get("bytes") if isinstance(item, dict) else item
        path = self.path(index)
        if isinstance(raw, bytes):
            return raw
        if path is None:
            raise UnreadableImage(f"it is {type(item).__name__}, not a file or its bytes")
        try:
            return path.read_bytes()
        except OSError as error:
            raise unreadable(error, path) from error

    def path(self, index: int) -> Path | None:
        """The image's own file; None where its bytes lie in the table."""
        item = self.table[index][self.column]
        if not isinstance(item, dict) or item.get("bytes") is not None or not item.get("path"):
            return None
        return Path(item["path"])


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
    """The images of a dataset of the package `datasets`: a local one, or one of the hub.

    With `identity=stat` images are told apart by the fingerprint that `datasets` gives, the size
    and time of its files, and the row; images that stay in files of their own by those files. With
    `identity=content` all images are read, each time.

    Args:
        path: a folder written by `save_to_disk`, a folder of images in class folders or of
            parquet files, a parquet file (wildcards too), or a name on the hub.
        config: the dataset's configuration, where it has several.
        split: which of its splits; needed where it has several.
        image: the column of images; by default the first that is one.
        label: the column of labels; by default the first of classes, if there is one.
        limit, sample, seed, identity, decode, orientation, on_error: see `ProbeOptions`.

    Raises:
        MissingResource: the package isn't installed, or the dataset can't be had.
        DissectError: unknown split or column; a value that isn't allowed.
    """
    choices = ProbeOptions(limit, sample, seed, identity, decode, on_error, orientation)
    not_empty(path=path)
    table = _split(_load(path, config, split), split)
    column = image or _image_column(table)
    reader = TableReader(_undecoded(table, column), column, decode, orientation)
    rows = tuple(choices.pick(len(table)))
    in_files = len(table) > 0 and reader.path(0) is not None
    each = _contents(reader, rows) if identity == "content" else _stats(reader, rows, in_files)
    labels, tags = _labels(table, label), _tags(reader, rows)
    return Probe.of(
        Path(path).name,
        [f"{table.split or 'row'}/{row:06d}" for row in rows],
        Renumbered(reader, rows),
        choices.identities(each),
        on_error=on_error,
        notes=(*_other_columns(table, image, column), *choices.orientation_notes(tags)),
        labels=tuple(labels[row] for row in rows) if labels else None,
        file=Renumbered(reader.path, rows) if in_files else None,
    )


def _load(path: str, config: str | None, split: str | None) -> Any:
    """A dataset, or a dictionary of splits."""
    try:
        import datasets
    except ImportError as error:
        raise MissingResource(
            "the package datasets", ["the installed packages"], install("hf")
        ) from error
    local = Path(path).expanduser()
    try:
        if (local / "state.json").is_file() or (local / "dataset_dict.json").is_file():
            return datasets.load_from_disk(str(local))
        if local.suffix == ".parquet":
            return datasets.load_dataset("parquet", data_files=str(local), split=split)
        if local.is_file():
            raise DissectError(f"{local} is neither a folder nor a parquet file")
        return datasets.load_dataset(str(local) if local.is_dir() else path, config, split=split)
    except (OSError, EOFError) as error:
        raise MissingResource(
            f"the dataset {path} ({error})",
            [str(local.absolute()), "the hub"],
            "set probe.path to a local folder, or to a name on the hub where it can be reached",
        ) from error
    except DissectError:
        raise
    except ValueError as error:  # an unknown configuration or split; says which there are
        raise DissectError(f"the dataset {path} can't be loaded: {error}") from error


def _split(found: Any, split: str | None) -> Any:
    if not isinstance(found, dict):
        return found
    if split is None and len(found) == 1:
        return next(iter(found.values()))
    if split is None:
        raise DissectError(f"the dataset has several splits; set probe.split to one: {list(found)}")
    if split not in found:
        raise unknown("split of the dataset", split, found)
    return found[split]


def _image_columns(table: Any) -> list[str]:
    return [str(n) for n, feature in table.features.items() if type(feature).__name__ == "Image"]


def _other_columns(table: Any, asked: str | None, column: str) -> tuple[str, ...]:
    """A note where the column was chosen among several, such as masks beside the images."""
    others = [name for name in _image_columns(table) if name != column]
    if asked or not others:
        return ()
    listed = ", ".join(others)
    return (f"the images are the dataset's column {column}; probe.image can be {listed}",)


def _image_column(table: Any) -> str:
    names = _image_columns(table)
    if not names:
        raise DissectError(
            f"the dataset has no column of images; set probe.image to one of "
            f"{', '.join(table.features)}"
        )
    return names[0]


def _undecoded(table: Any, column: str) -> Any:
    """The column alone, as bytes or paths."""
    if column not in table.features:
        raise unknown("column of the dataset (probe.image)", column, table.features)
    feature = table.features[column]
    alone = table.select_columns([column])
    is_image = type(feature).__name__ == "Image"
    return alone.cast_column(column, type(feature)(decode=False)) if is_image else alone


def _labels(table: Any, column: str | None) -> Labels | None:
    """The labels in words; None where there are none."""
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


def _tags(reader: TableReader, rows: Sequence[int]) -> Iterator[int]:
    """Each image's orientation; of bytes in the table only the header is read."""
    table = reader.table.with_format("arrow")
    for row in rows:
        source = _unread(table[row].column(reader.column)[0])
        yield 1 if source is None else orientation_of(source)


def _unread(cell: Any) -> Path | IO[bytes] | None:
    """What to read an image's file from, given its cell of an Arrow table."""
    import pyarrow

    if pyarrow.types.is_struct(cell.type):
        path = cell.get("path")
        cell = cell["bytes"]
        if not cell.is_valid:
            return Path(path.as_py()) if path is not None and path.is_valid else None
    is_binary = pyarrow.types.is_binary(cell.type) or pyarrow.types.is_large_binary(cell.type)
    return pyarrow.BufferReader(cell.as_buffer()) if is_binary and cell.is_valid else None


def _contents(reader: TableReader, rows: Sequence[int]) -> list[str]:
    return [_content(reader, row) for row in rows]


def _content(reader: TableReader, row: int) -> str:
    try:
        return hashlib.sha256(reader.data(row)).hexdigest()
    except UnreadableImage:
        return "unreadable"


def _stats(reader: TableReader, rows: Sequence[int], in_files: bool) -> list[str]:
    if in_files:
        return [_stat(reader.path(row)) for row in rows]
    table = reader.table
    files = [Path(cached["filename"]) for cached in table.cache_files]
    of_table = hashing.hash_values(
        table._fingerprint, reader.column, [_stat(file) for file in files]
    )
    return [f"{of_table} {row}" for row in rows]


def _stat(file: Path | None) -> str:
    try:
        stat = file.stat() if file else None
    except OSError:
        stat = None
    if file is None or stat is None:
        return "unreadable"
    # With the folder, since many data sets have files of one name in each class's folder.
    return f"{file.parent.name}/{file.name} {stat.st_size} {stat.st_mtime_ns}"
