"""WordNet's noun hypernyms: `basenji.n.01` is a dog, a canine, an animal."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from clipdissect.datasets.class_names import imagenet_names, synsets
from clipdissect.errors import MissingResource, unknown
from clipdissect.utils.paths import cache_dir, data_places

INDEX = "index.noun"
DATA = "data.noun"
DEBIAN = Path("/usr/share/wordnet")  # Debian's wordnet-base
FETCHED = "wordnet-base/usr/share/wordnet"  # `clipdissect fetch wordnet`, below the user cache
# Written by scripts/imagenet_hypernyms.
TABLE = Path(__file__).parent / "imagenet_hypernyms.tsv"
_ID = re.compile(r"n\d{8}")
_HYPERNYMS = ("@", "@i")  # WordNet's pointers: a kind of, an instance of


@dataclass(frozen=True)
class Synset:
    """A meaning of nouns."""

    id: str  # of WordNet 3.0, as in ImageNet (`n02084071`)
    name: str  # such as `dog.n.01`
    parents: tuple[str, ...]  # ids of its direct hypernyms
    lemmas: tuple[str, ...]  # lower case, with spaces


class WordNet:
    """Synsets, with all their hypernyms among them; `source` names their origin."""

    def __init__(self, synsets: Iterable[Synset], source: str) -> None:
        self.source = source
        self.synsets = {synset.id: synset for synset in synsets}
        self.ids = {synset.name: synset.id for synset in self.synsets.values()}
        self.senses: dict[str, list[str]] = {}
        for synset in self.synsets.values():
            for lemma in synset.lemmas:
                self.senses.setdefault(lemma, []).append(synset.id)

    def find(self, synset: str) -> str:
        """Return the id of a synset given by name or id."""
        if synset in self.synsets:
            return synset
        if synset not in self.ids:
            raise unknown("synset", synset, self.ids, most=8)
        return self.ids[synset]

    def ancestors(self, id: str) -> frozenset[str]:
        """Return the ids of the synset and of all its hypernyms."""
        ancestors: set[str] = set()
        waiting = [id]
        while waiting:
            current = waiting.pop()
            if current not in ancestors:
                ancestors.add(current)
                waiting += self.synsets[current].parents
        return frozenset(ancestors)

    def is_below(self, id: str, group: str) -> bool:
        """Return whether a synset is the group or a hyponym of it (both are ids)."""
        return group in self.ancestors(id)

    def place(self, label: str) -> frozenset[str]:
        """Return the ids of all meanings of an image label; empty if unknown.

        A label is an id, an ImageNet class name, or English; an unknown phrase counts as its
        last word (`aquarium fish` as `fish`).
        """
        if _ID.fullmatch(label):
            return frozenset({label} & set(self.synsets))
        of_class = _ids_of_names().get(label)
        if of_class in self.synsets:
            return frozenset({of_class})
        plain = label.lower().replace("_", " ").strip()
        senses = {id for part in plain.split(", ") for id in self.senses.get(part, ())}
        return frozenset(senses or self.senses.get(plain.rpartition(" ")[2], []))


@cache
def packaged() -> WordNet:
    """Return the table of ImageNet's 1000 classes and their hypernyms (WordNet 3.0)."""
    return WordNet(map(_of_line, TABLE.read_text("utf-8").splitlines()), "imagenet_hypernyms.tsv")


def installed() -> WordNet | None:
    try:
        return of_folder(wordnet_folder())
    except MissingResource:
        return None


@cache
def of_folder(folder: Path) -> WordNet:
    """Read WordNet's nouns from the folder of `data.noun` and `index.noun`."""
    number = _sense_numbers(folder / INDEX)
    lines = (folder / DATA).read_text("utf-8").splitlines()
    entries = (_of_entry(line, number) for line in lines if line and not line.startswith(" "))
    return WordNet(entries, "WordNet")


def classes_below(group: str, hypernyms: WordNet) -> tuple[int, ...]:
    """Return the numbers of the ImageNet classes that are the group or below it."""
    group_id = hypernyms.find(group)
    return tuple(i for i, id in enumerate(synsets()) if hypernyms.is_below(id, group_id))


def to_line(synset: Synset) -> str:
    return "\t".join((synset.id, synset.name, " ".join(synset.parents), "|".join(synset.lemmas)))


def _of_line(line: str) -> Synset:
    id, name, parents, lemmas = line.split("\t")
    return Synset(id, name, tuple(parents.split()), tuple(lemmas.split("|")))


def _of_entry(line: str, number: dict[tuple[str, str], int]) -> Synset:
    """Parse a line of `data.noun`; see WordNet's wndb(5)."""
    fields = line.split(" | ", 1)[0].split()
    offset, count = fields[0], int(fields[3], 16)
    words = [fields[4 + 2 * i].lower() for i in range(count)]
    pointers = fields[5 + 2 * count :]
    triples = zip(pointers[::4], pointers[1::4], strict=False)
    parents = tuple(f"n{to}" for kind, to in triples if kind in _HYPERNYMS)
    name = f"{words[0]}.n.{number[words[0], offset]:02d}"
    return Synset(f"n{offset}", name, parents, tuple(w.replace("_", " ") for w in words))


def _sense_numbers(index: Path) -> dict[tuple[str, str], int]:
    """Map word and offset to the number of the word's sense, from 1."""
    numbers = {}
    for line in index.read_text("utf-8").splitlines():
        if line and not line.startswith(" "):
            fields = line.split()
            offsets = fields[-int(fields[2]) :]
            numbers.update({(fields[0], offset): i for i, offset in enumerate(offsets, 1)})
    return numbers


@cache
def _ids_of_names() -> dict[str, str]:
    return dict(zip(imagenet_names(), synsets(), strict=True))


def wordnet_folder() -> Path:
    """Return WordNet's folder (`index.noun`, `data.noun`), or raise a MissingResource."""
    places = wordnet_places()
    for place in places:
        if (place / INDEX).is_file() and (place / DATA).is_file():
            return place
    raise MissingResource(
        f"WordNet ({INDEX}, {DATA})",
        [str(place.absolute()) for place in places],
        "clipdissect fetch wordnet, or install Debian's wordnet-base",
    )


def wordnet_places() -> list[Path]:
    listed = [Path(p).expanduser() for p in os.environ.get("NLTK_DATA", "").split(os.pathsep) if p]
    usual = [Path.home(), Path(sys.prefix), Path("/usr/share"), Path("/usr/local/share")]
    nltk = [top / "corpora" for top in (*listed, *(place / "nltk_data" for place in usual))]
    home = os.environ.get("WNHOME")
    return [
        *([Path(home) / "dict"] if home else []),
        DEBIAN,
        cache_dir() / FETCHED,
        *(place / "wordnet" for place in data_places()),
        *(top / name for top in nltk for name in ("wordnet", "wordnet.zip")),
    ]
