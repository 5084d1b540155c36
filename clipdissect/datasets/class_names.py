"""Class names that serve as ground truth for a last layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from pathlib import Path

from clipdissect.errors import DissectError, MissingResource
from clipdissect.models.remembered import Facts, remembered
from clipdissect.utils.dependencies import depends_on

# timm has the bare word for both synsets named `crane`; the words added here aren't their synonyms.
_CRANES = {134: "crane, bird", 517: "crane, machine"}


@cache
def imagenet_names() -> tuple[str, ...]:
    """Return timm's 1000 distinct ImageNet names with synonyms (`tench, Tinca tinca`)."""
    # Importing timm takes seconds.
    found = remembered("class names", "imagenet", {}, _read_imagenet_names, _as_facts)
    return tuple(found.facts["names"])


def _read_imagenet_names() -> list[str]:
    from timm.data import ImageNetInfo

    names = ImageNetInfo("imagenet-1k")
    return [_CRANES.get(i) or names.index_to_description(i) for i in range(1000)]


def _as_facts(names: list[str]) -> Facts:
    return {"names": names}


@cache
def synsets() -> tuple[str, ...]:
    """Return the WordNet ids of ImageNet's 1000 classes, in class order."""
    from timm.data import ImageNetInfo

    return tuple(ImageNetInfo("imagenet-1k").label_names())


@cache
def _imagenet_synonyms() -> dict[str, frozenset[str]]:
    words = {name: name.casefold().split(", ") for name in imagenet_names()}
    words |= {crane: ["crane", crane.casefold()] for crane in _CRANES.values()}
    return {name: frozenset(synonyms) for name, synonyms in words.items()}


def synonyms(name: str) -> frozenset[str]:
    """Return all names of a class, case-folded; commas separate only ImageNet's synonyms."""
    # Only ImageNet's commas separate synonyms: `Washington, D.C.` is one name.
    whole = frozenset({name.casefold()})
    return whole | _imagenet_synonyms().get(name, frozenset()) if ", " in name else whole


def is_a_name(labels: Iterable[str], names: Sequence[str]) -> list[bool]:
    """Return whether each label is any name of its class, ignoring case."""
    # Another class's whole name is wrong: `harp` for `harmonica, mouth organ, harp, mouth harp`.
    others = frozenset(names)
    if any(", " in name and name in _imagenet_synonyms() for name in others):
        others |= frozenset(imagenet_names())
    return [
        label == name or (label not in others and label.casefold() in synonyms(name))
        for label, name in zip(labels, names, strict=True)
    ]


def named_by(names: Iterable[str], texts: Iterable[str]) -> int:
    """Count the classes that have any of their names among the texts."""
    return _named_by(tuple(names), tuple(texts))


@lru_cache(maxsize=8)  # the trials of a search ask for the same three
def _named_by(names: tuple[str, ...], texts: tuple[str, ...]) -> int:
    known = {text.casefold() for text in texts}
    return sum(not known.isdisjoint(synonyms(name)) for name in names)


def class_names(
    source: str, units: int | None = None, option: str = "target.classes"
) -> tuple[str, ...]:
    """Return the names of `imagenet` or of a file; `units` is the required number."""
    if source == "imagenet":
        names = imagenet_names()
    else:
        remedy = f"set {option} to a file with one name per line, or to imagenet"
        names = names_of_file(Path(source).expanduser(), remedy)
    if units is not None and len(names) != units:
        raise DissectError(
            f"target.classes ({source}) has {len(names)} names, but the layer of classes has "
            f"{units} units"
        )
    return names


def names_of_file(path: Path, remedy: str) -> tuple[str, ...]:
    """Read class names from a UTF-8 file, one per line, in class order.

    Raises:
        MissingResource: no such file; the error names the `remedy`.
        DissectError: not UTF-8, or an empty line before the last name.
    """
    depends_on(path)
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
