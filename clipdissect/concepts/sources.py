"""Concept sets from files, lists, packages and other sets."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from clipdissect.concepts.base import Concepts, Rule, clean
from clipdissect.datasets.wordnet import INDEX, wordnet_places
from clipdissect.errors import DissectError, MissingResource
from clipdissect.utils import registry
from clipdissect.utils.extras import install
from clipdissect.utils.paths import data_candidates, find_data
from clipdissect.utils.type_checks import check_range

# Reasons to drop words of unedited lists.
NO_WORDS: dict[str, Rule] = {
    "digit": lambda word: any(c.isdigit() for c in word),
    "one letter": lambda word: sum(c.isalpha() for c in word) < 2,
}


def file(path: str, duplicates: str = "drop") -> Concepts:
    """Use a UTF-8 file, one text per line; `duplicates` is `drop` or `keep`, see `clean`."""
    source = Path(path).expanduser()
    return clean(source.stem, read_lines(source), duplicates=duplicates)


def read_lines(source: Path) -> list[str]:
    """Return the lines of a UTF-8 file, unchanged."""
    if source.is_dir():
        raise DissectError(f"{source} is a folder; concepts.path must be a text file")
    if not source.is_file():
        raise MissingResource(
            "the concept file",
            [str(source.absolute())],
            "set concepts.path to a text file; to give the texts themselves, pass a list",
        )
    data = source.read_bytes()
    try:
        # str.splitlines would also split at characters that a text may hold, such as U+2028.
        lines = re.split(r"\r\n|\r|\n", data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DissectError(
            f"{source} is not UTF-8: line {line} has the byte 0x{data[error.start]:02x}. "
            f"Save it as UTF-8"
        ) from error
    return lines[:-1] if lines[-1] == "" else lines


def of_list(texts: list[str], duplicates: str = "drop") -> Concepts:
    """Use the texts of a list; `duplicates` is `drop` or `keep`, see `clean`."""
    wrong = [text for text in texts if not isinstance(text, str)]
    if wrong:
        raise DissectError(f"a concept must be a text; got {wrong[0]!r}")
    return clean("list", texts, duplicates=duplicates)


def union(parts: list[Any], duplicates: str = "drop") -> Concepts:
    """Concatenate several sets.

    Args:
        parts: each a set's name, `{name: file, path: words.txt}`, or a `Concepts`.
        duplicates: `drop` or `keep` repeated texts; see `clean`.
    """
    from clipdissect.concepts import build  # which has `union` among its options

    if isinstance(parts, (str, Mapping)) or not isinstance(parts, Sequence):
        raise DissectError(
            f"concepts.parts must be a list, such as [imagenet, broden]; got {parts!r}"
        )
    sets = [registry.part("concept set", "set", Concepts, build, part) for part in parts]
    texts = [text for concepts in sets for text in concepts.texts]
    whole = clean("union", texts, duplicates=duplicates)
    dropped = dict(whole.dropped)
    for concepts in sets:
        for reason, left_out in concepts.dropped.items():
            dropped[reason] = (*left_out, *dropped.get(reason, ()))
    names = dict.fromkeys(concepts.name for concepts in sets)
    return replace(whole, name=" + ".join(names), dropped=dropped)


def google_20k(path: str | None = None, duplicates: str = "drop") -> Concepts:
    """Use the paper's 20,000 most common English words of Google's web corpus.

    Args:
        path: the file; default: `concepts/google_20k.txt` in the data folders.
        duplicates: `drop` or `keep` repeated texts; see `clean`.
    """
    return _word_list("google_20k", path, duplicates, "wordfreq_20k")


def google_10k(path: str | None = None, duplicates: str = "drop") -> Concepts:
    """Use the 10,000 most common words without swear words (9,894); see `google_20k`."""
    return _word_list("google_10k", path, duplicates, "wordfreq_10k")


def ef_3k(path: str | None = None, duplicates: str = "drop") -> Concepts:
    """Use EF's 3,000 most common English words; otherwise as `google_20k`."""
    return _word_list("ef_3k", path, duplicates, "wordfreq_3k")


def _word_list(name: str, path: str | None, duplicates: str, substitute: str) -> Concepts:
    source = find_data(
        f"the concept list {name}.txt",
        data_candidates(path, f"concepts/{name}.txt"),
        f"clipdissect fetch {name}, or set concepts.path to the file, or use concepts={substitute} "
        f"(a similar list from a package)",
    )
    return clean(name, read_lines(source), duplicates=duplicates)


def wordfreq(n: int = 20000) -> Concepts:
    """Clean the `n` most frequent English words of the package `wordfreq`."""
    check_range("concepts.n", n, 1)
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
    return wordfreq(3000)


def wordfreq_10k() -> Concepts:
    return wordfreq(10_000)


def wordfreq_20k() -> Concepts:
    return wordfreq(20_000)


def wordnet_nouns(path: str | None = None, phrases: bool = True) -> Concepts:
    """Use WordNet's nouns (117,798 in 3.0; Fellbaum, 1998), lower case, alphabetical.

    Args:
        path: folder of `index.noun`, or nltk's `wordnet.zip`; default: the usual places.
        phrases: include nouns of several words (more than half of them).
    """
    lines = _read_wordnet(path).splitlines()
    # The licence at the top is indented; an entry's first word is the noun.
    nouns = [line.split(" ", 1)[0] for line in lines if line and not line.startswith(" ")]
    words = [noun.replace("_", " ") for noun in nouns if phrases or "_" not in noun]
    return clean("wordnet_nouns", words, NO_WORDS)


def _read_wordnet(path: str | None) -> str:
    places = [Path(path).expanduser()] if path else wordnet_places()
    for place in places:
        if (place / INDEX).is_file():
            return (place / INDEX).read_text(encoding="utf-8")
        if place.suffix == ".zip" and place.is_file():
            return _read_wordnet_zip(place)
    raise MissingResource(
        f"WordNet ({INDEX})",
        [str(place.absolute()) for place in places],
        "clipdissect fetch wordnet, or install Debian's wordnet-base, or run python -m "
        "nltk.downloader wordnet, or set concepts.path to WordNet's folder",
    )


def _read_wordnet_zip(archive: Path) -> str:
    try:
        with zipfile.ZipFile(archive) as files:
            return files.read(f"wordnet/{INDEX}").decode("utf-8")
    except (KeyError, zipfile.BadZipFile) as error:
        raise DissectError(f"{archive} isn't nltk's WordNet: {error}") from error
