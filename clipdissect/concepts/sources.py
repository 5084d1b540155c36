"""Where concept sets come from."""

from __future__ import annotations

import re
from pathlib import Path

from clipdissect.classes import imagenet_names
from clipdissect.concepts.base import Concepts, clean
from clipdissect.errors import DissectError, MissingResource
from clipdissect.paths import data_places


def file(path: str) -> Concepts:
    """One text a line, UTF-8, with or without a byte-order mark, any line ends.

    Args:
        path: the file.

    Raises:
        MissingResource: there is no such file.
        DissectError: it is a folder, empty, or not UTF-8 (names the line).
    """
    source = Path(path).expanduser()
    if source.is_dir():
        raise DissectError(f"{source} is a folder; concepts.path must be a text file")
    if not source.is_file():
        raise MissingResource(
            "the concept file",
            [str(source.absolute())],
            "set concepts.path to a text file; to give the texts themselves, pass a list",
        )
    return clean(source.stem, _lines(_decode(source)))


def of_list(texts: list[str]) -> Concepts:
    """The given texts, cleaned.

    Args:
        texts: the concepts.

    Raises:
        DissectError: none are left, or one is not a text.
    """
    wrong = [text for text in texts if not isinstance(text, str)]
    if wrong:
        raise DissectError(f"a concept must be a text; got {wrong[0]!r}")
    return clean("list", texts)


def google_20k(path: str | None = None) -> Concepts:
    """The paper's 20,000 most common English words: a file `google_20k.txt`.

    Args:
        path: the file; by default `concepts/google_20k.txt` below `$CLIPDISSECT_DATA` or the
            user cache's `data` folder.

    Raises:
        MissingResource: the file is in none of the places.
    """
    places = (
        [Path(path).expanduser()]
        if path
        else [p / "concepts" / "google_20k.txt" for p in data_places()]
    )
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise MissingResource(
            "the concept list google_20k.txt",
            [str(place.absolute()) for place in places],
            "clipdissect fetch google_20k, or set concepts.path to the file, or use "
            "concepts=wordfreq_20k (a like list that a package ships)",
        )
    return file(str(found))


def imagenet() -> Concepts:
    """The 1000 ImageNet class names with all their synonyms, in class order."""
    return clean("imagenet", imagenet_names())


def wordfreq(n: int = 20000) -> Concepts:
    """The most frequent English words of the package `wordfreq`, cleaned.

    Words with a digit and words of one letter are dropped (and recorded).

    Args:
        n: how many words to take before cleaning.

    Raises:
        MissingResource: `wordfreq` isn't installed.
        DissectError: `n` is not positive.
    """
    if n < 1:
        raise DissectError(f"concepts.n is {n}; it must be at least 1")
    try:
        from wordfreq import top_n_list
    except ImportError as error:
        raise MissingResource(
            "the word list of the package wordfreq",
            ["the installed packages"],
            "pip install 'clipdissect[offline]'",
        ) from error
    unwanted = {
        "digit": lambda word: any(c.isdigit() for c in word),
        "one letter": lambda word: sum(c.isalpha() for c in word) < 2,
    }
    return clean(f"wordfreq_{n}", top_n_list("en", n), unwanted)


def _lines(text: str) -> list[str]:
    # str.splitlines would also split at characters that a text may hold, such as U+2028.
    lines = re.split(r"\r\n|\r|\n", text)
    return lines[:-1] if lines[-1] == "" else lines


def _decode(source: Path) -> str:
    raw = source.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DissectError(
            f"{source} is not UTF-8: line {line} has the byte 0x{raw[error.start]:02x}. "
            f"Save it as UTF-8"
        ) from error
