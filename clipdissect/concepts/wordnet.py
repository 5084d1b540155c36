"""The nouns of WordNet."""

from __future__ import annotations

import zipfile
from pathlib import Path

from clipdissect.concepts.base import Concepts, clean
from clipdissect.concepts.sources import NO_WORDS
from clipdissect.datasets.wordnet import INDEX, wordnet_places
from clipdissect.errors import DissectError, MissingResource


def wordnet_nouns(path: str | None = None, phrases: bool = True) -> Concepts:
    """Every noun of WordNet (117,798 in version 3.0), lower case, in alphabetical order.

    Nouns with a digit or of one letter are dropped (and recorded).

    Args:
        path: WordNet's folder, the one with `index.noun`, or nltk's `wordnet.zip`; by default where
            `clipdissect fetch wordnet`, Debian's `wordnet-base` or nltk puts it, or `wordnet` below
            `$CLIPDISSECT_DATA` or the user cache's `data` folder.
        phrases: also nouns of several words (more than half of them).

    Raises:
        MissingResource: it is in none of the places.
        DissectError: a file of another kind.

    Source:
        Fellbaum (ed.), "WordNet: an electronic lexical database", 1998.
    """
    lines = _index(path).splitlines()
    # The licence at the top is indented; an entry's first word is the noun.
    nouns = [line.split(" ", 1)[0] for line in lines if line and not line.startswith(" ")]
    words = [noun.replace("_", " ") for noun in nouns if phrases or "_" not in noun]
    return clean("wordnet_nouns", words, NO_WORDS)


def _index(path: str | None) -> str:
    places = [Path(path).expanduser()] if path else wordnet_places()
    for place in places:
        if (place / INDEX).is_file():
            return (place / INDEX).read_text(encoding="utf-8")
        if place.suffix == ".zip" and place.is_file():
            return _of_zip(place)
    raise MissingResource(
        f"WordNet ({INDEX})",
        [str(place.absolute()) for place in places],
        "clipdissect fetch wordnet, or install Debian's wordnet-base, or run python -m "
        "nltk.downloader wordnet, or set concepts.path to WordNet's folder",
    )


def _of_zip(archive: Path) -> str:
    try:
        with zipfile.ZipFile(archive) as files:
            return files.read(f"wordnet/{INDEX}").decode("utf-8")
    except (KeyError, zipfile.BadZipFile) as error:
        raise DissectError(f"{archive} isn't nltk's WordNet: {error}") from error
