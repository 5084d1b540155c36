"""Where concept sets come from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from clipdissect.concepts.base import Concepts, Rule, clean
from clipdissect.datasets.class_names import imagenet_names
from clipdissect.errors import DissectError, MissingResource
from clipdissect.utils.extras import install
from clipdissect.utils.paths import data_places

# What to leave out of lists of words that no one has edited.
NO_WORDS: dict[str, Rule] = {
    "digit": lambda word: any(c.isdigit() for c in word),
    "one letter": lambda word: sum(c.isalpha() for c in word) < 2,
}


def file(path: str, duplicates: str = "drop") -> Concepts:
    """One text a line, UTF-8, with or without a byte-order mark, any line ends.

    Args:
        path: the file.
        duplicates: `drop` or `keep` repeated texts; see `clean`.

    Raises:
        MissingResource: there is no such file.
        DissectError: it is a folder, empty, or not UTF-8 (names the line).
    """
    source = Path(path).expanduser()
    return clean(source.stem, read_lines(source), duplicates=duplicates)


def read_lines(source: Path) -> list[str]:
    """The lines of a text file, as they are.

    Raises:
        MissingResource: there is no such file.
        DissectError: it is a folder, or not UTF-8 (names the line).
    """
    if source.is_dir():
        raise DissectError(f"{source} is a folder; concepts.path must be a text file")
    if not source.is_file():
        raise MissingResource(
            "the concept file",
            [str(source.absolute())],
            "set concepts.path to a text file; to give the texts themselves, pass a list",
        )
    return _lines(_decode(source))


def of_list(texts: list[str], duplicates: str = "drop") -> Concepts:
    """The given texts, cleaned.

    Args:
        texts: the concepts.
        duplicates: `drop` or `keep` repeated texts; see `clean`.

    Raises:
        DissectError: none are left, or one is not a text.
    """
    wrong = [text for text in texts if not isinstance(text, str)]
    if wrong:
        raise DissectError(f"a concept must be a text; got {wrong[0]!r}")
    return clean("list", texts, duplicates=duplicates)


def google_20k(path: str | None = None, duplicates: str = "drop") -> Concepts:
    """The paper's 20,000 most common English words of Google's web corpus.

    Args:
        path: the file; by default `concepts/google_20k.txt` below `$CLIPDISSECT_DATA` or the
            user cache's `data` folder.
        duplicates: `drop` or `keep` repeated texts; see `clean`.

    Raises:
        MissingResource: the file is in none of the places.
    """
    return _named("google_20k", path, duplicates, "wordfreq_20k")


def google_10k(path: str | None = None, duplicates: str = "drop") -> Concepts:
    """The 10,000 most common English words, without swear words (9,894); otherwise as
    `google_20k`."""
    return _named("google_10k", path, duplicates, "wordfreq_10k")


def ef_3k(path: str | None = None, duplicates: str = "drop") -> Concepts:
    """The 3,000 most common English words as EF lists them; otherwise as `google_20k`."""
    return _named("ef_3k", path, duplicates, "wordfreq_3k")


def find(what: str, path: str | None, names: Sequence[str], remedy: str) -> Path:
    """The given path, or the first of the names below the data folders that exists.

    Args:
        what: the thing looked for, for the message.
        path: the user's; it alone counts if it is given.
        names: paths below a data folder, the best first.
        remedy: what the user can do.

    Raises:
        MissingResource: none exists.
    """
    found = [place / name for name in names for place in data_places()]
    places = [Path(path).expanduser()] if path else found
    for place in places:
        if place.exists():
            return place
    raise MissingResource(what, [str(place.absolute()) for place in places], remedy)


def _named(name: str, path: str | None, duplicates: str, like: str) -> Concepts:
    found = find(
        f"the concept list {name}.txt",
        path,
        [f"concepts/{name}.txt"],
        f"clipdissect fetch {name}, or set concepts.path to the file, or use concepts={like} (a "
        f"like list that a package ships)",
    )
    return clean(name, read_lines(found), duplicates=duplicates)


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
            install("offline"),
        ) from error
    return clean(f"wordfreq_{n}", top_n_list("en", n), NO_WORDS)


def wordfreq_3k() -> Concepts:
    """`wordfreq` of 3,000 words."""
    return wordfreq(3000)


def wordfreq_10k() -> Concepts:
    """`wordfreq` of 10,000 words."""
    return wordfreq(10_000)


def wordfreq_20k() -> Concepts:
    """`wordfreq` of 20,000 words."""
    return wordfreq(20_000)


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
