"""Class names that serve as ground truth for a last layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from clipdissect.errors import DissectError, MissingResource

# WordNet has two synsets named `crane`, and timm ships the bare word for both. What tells them
# apart is no name of either.
_CRANES = {134: "crane, bird", 517: "crane, machine"}


@cache
def imagenet_names() -> tuple[str, ...]:
    """The 1000 ImageNet class names with all synonyms (`tench, Tinca tinca`), in class order.

    From timm's `ImageNetInfo`; the two cranes are told apart, so all are distinct.
    """
    from timm.data import ImageNetInfo

    names = ImageNetInfo("imagenet-1k")
    return tuple(_CRANES.get(i) or names.index_to_description(i) for i in range(1000))


@cache
def _imagenet_synonyms() -> dict[str, frozenset[str]]:
    """ImageNet's class names to WordNet's words for them, in small letters."""
    names = imagenet_names()
    words = {name: name.casefold().split(", ") for name in names}
    words |= {crane: ["crane", crane.casefold()] for crane in _CRANES.values()}
    return {name: frozenset(own) for name, own in words.items()}


def synonyms(name: str) -> frozenset[str]:
    """All names of a class in small letters: ImageNet's are lists, of which each is a name.

    A comma separates synonyms in ImageNet's own class names alone: `Washington, D.C.` has one name.
    """
    whole = frozenset({name.casefold()})
    return whole | _imagenet_synonyms().get(name, frozenset()) if ", " in name else whole


def is_a_name(labels: Iterable[str], names: Sequence[str]) -> list[bool]:
    """Whether each label is any name of its class, whatever the case of its letters.

    A label that is the whole name of another class isn't: `harp` is a class of its own, so it is
    wrong for `harmonica, mouth organ, harp, mouth harp`.

    Args:
        labels: one a class.
        names: the classes' names.
    """
    others = frozenset(names)
    if any(", " in name and name in _imagenet_synonyms() for name in others):
        others |= frozenset(imagenet_names())
    return [
        label == name or (label not in others and label.casefold() in synonyms(name))
        for label, name in zip(labels, names, strict=True)
    ]


def named_by(names: Iterable[str], texts: Iterable[str]) -> int:
    """How many classes have any of their names among the texts."""
    known = {text.casefold() for text in texts}
    return sum(not known.isdisjoint(synonyms(name)) for name in names)


def class_names(source: str, units: int | None = None) -> tuple[str, ...]:
    """Class names by where they come from.

    Args:
        source: `imagenet`, or a UTF-8 file with one name a line, in unit order.
        units: how many there must be.

    Raises:
        MissingResource: no such file.
        DissectError: another number of names than units; as `names_of_file`.
    """
    if source == "imagenet":
        names = imagenet_names()
    else:
        names = names_of_file(
            Path(source).expanduser(),
            "set target.classes to a file with one name a line, or to imagenet",
        )
    if units is not None and len(names) != units:
        raise DissectError(
            f"target.classes ({source}) has {len(names)} names, but the layer of classes has "
            f"{units} units"
        )
    return names


def names_of_file(path: Path, remedy: str) -> tuple[str, ...]:
    """The names in a UTF-8 file, one a line: a name's number is its line's.

    Args:
        path: the file.
        remedy: what to do where there is none.

    Raises:
        MissingResource: no such file.
        DissectError: a file that isn't text, or an empty line before the last name, which would
            shift the numbers.
    """
    if not path.is_file():
        raise MissingResource("the class names", [str(path.absolute())], remedy)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DissectError(f"{path} is not UTF-8: save it as UTF-8") from error
    names = tuple(line.strip() for line in text.rstrip().split("\n")) if text.strip() else ()
    if "" in names:
        raise DissectError(
            f"{path}: line {names.index('') + 1} is empty; a class's number is its line's, so "
            f"write every name on the line of its number"
        )
    return names


def synsets() -> tuple[str, ...]:
    """WordNet ids of the 1000 classes, in class order (that of the ids)."""
    from timm.data import ImageNetInfo

    return tuple(ImageNetInfo("imagenet-1k").label_names())
