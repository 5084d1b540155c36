"""Splits of a probe: labels are made on one part, scores computed on images held out from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import ceil
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Int

from clipdissect.errors import DissectError, MissingResource, unknown
from clipdissect.results.run_files import write_table
from clipdissect.utils.type_checks import check_range

FILE = "split.csv"
SHARES = (0.7, 0.1, 0.2)  # of Linear Explanations (Oikarinen & Weng, ICML 2024)
# Over 30 images a correlation of 0.36 is significant at 5 %; over fewer, only larger ones.
SMALLEST = (1, 10, 30)
_EPSILON = 1e-9  # 0.1 * 150 must give 15 images whatever its last bit is


@dataclass(frozen=True)
class Split:
    """Image numbers of the parts of a probe, increasing and disjoint; together all images."""

    describe: Int[np.ndarray, " describe"]
    validate: Int[np.ndarray, " validate"]
    test: Int[np.ndarray, " test"]


PARTS = tuple(part.name for part in fields(Split))


def split_images(
    images: Sequence[str],
    seed: int = 0,
    shares: Sequence[float] = SHARES,
    smallest: Sequence[int] = SMALLEST,
) -> Split:
    """Return a random split of a probe's images; the first part gets what rounding leaves.

    Args:
        shares: of `describe`, `validate` and `test`; they add up to 1.
        smallest: number of images that each part must have at least.

    Raises:
        DissectError: too few images, or shares that don't add up to 1.
    """
    check_range("scorer.seed", seed, 0)
    if len(shares) != len(PARTS) or min(shares) <= 0 or abs(sum(shares) - 1) > _EPSILON:
        raise DissectError(
            f"scorer.shares is {list(shares)}; it must be three numbers above 0 that add up to 1, "
            f"such as {list(SHARES)}"
        )
    needed = max(
        ceil((least - _EPSILON) / share) for least, share in zip(smallest, shares, strict=True)
    )
    if len(images) < needed:
        least = ", ".join(f"{n} to {part}" for n, part in zip(smallest, PARTS, strict=True))
        raise DissectError(
            f"the probe has {len(images)} images; scores on held-out images take at least {needed} "
            f"(at least {least}): use a probe with more images, or without a limit"
        )
    order = np.random.default_rng(seed).permutation(len(images))
    validate, test = (int(len(images) * share + _EPSILON) for share in shares[1:])
    cuts = [len(images) - validate - test, len(images) - test]
    return Split(*(np.sort(part) for part in np.split(order, cuts)))


def write_split(folder: Path, images: Sequence[str], split: Split) -> Path:
    """Write `split.csv` (`image`, `part`) in the probe's order, for use by other runs."""
    parts = np.empty(len(images), dtype=object)
    for name in PARTS:
        parts[getattr(split, name)] = name
    write_table(folder / FILE, pd.DataFrame({"image": list(images), "part": parts}))
    return folder / FILE


def read_split(file: Path, images: Sequence[str], smallest: Sequence[int] = SMALLEST) -> Split:
    """Read a split of the probe `images`, whose order may differ from the file's.

    Raises:
        MissingResource: there is no such file.
        DissectError: it isn't a split, is of other images, or has too few in a part.
    """
    table = _read(file)
    parts = dict(zip(table["image"], table["part"], strict=True))
    if len(parts) < len(table):
        image = table["image"][table["image"].duplicated()].iloc[0]
        raise DissectError(f"{file} has image {image} more than once: write the split anew")
    for part in dict.fromkeys(table["part"]):
        if part not in PARTS:
            raise unknown(f"part in {file}", part, PARTS)
    names = [_as_written(image) for image in images]
    _check_images(file, names, parts)
    chosen = np.array([parts[name] for name in names])
    split = Split(*(np.flatnonzero(chosen == part) for part in PARTS))
    for part, least in zip(PARTS, smallest, strict=True):
        count = len(getattr(split, part))
        if count < least:
            raise DissectError(
                f"{file} has {count} images to {part}; it must have at least {least}: split a "
                f"larger probe, or leave scorer.split unset"
            )
    return split


def _read(file: Path) -> pd.DataFrame:
    if not file.is_file():
        raise MissingResource(
            "the split of the probe",
            [str(file.absolute())],
            f"set scorer.split to the {FILE} of another run, or leave it unset for a new split",
        )
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8")
    except ValueError as error:  # no CSV, or text that isn't UTF-8
        raise DissectError(f"{file} is not a CSV file in UTF-8: {error}") from error
    for column in ("image", "part"):
        if column not in table:
            raise unknown(f"column of {file}", column, map(str, table))
    return table


def _as_written(image: str) -> str:
    """Return a name as files have it: parts that aren't valid text are escaped."""
    return image.encode("utf-8", errors="backslashreplace").decode("utf-8")


def _check_images(file: Path, names: Sequence[str], parts: dict[str, str]) -> None:
    missing = [name for name in names if name not in parts]
    foreign = sorted(set(parts) - set(names))
    if missing or foreign:
        raise DissectError(
            f"{file} is the split of another probe: it lacks {len(missing)} of the probe's images "
            f"and has {len(foreign)} others, such as {(missing + foreign)[0]}. Use the probe that "
            f"was split, with its limit, or leave scorer.split unset"
        )
