"""Class names that serve as ground truth for a last layer."""

from __future__ import annotations

from pathlib import Path

from clipdissect.errors import DissectError, MissingResource

# WordNet has two synsets named `crane`, and timm ships the bare word for both.
_CRANES = {134: "crane, bird", 517: "crane, machine"}


def imagenet_names() -> tuple[str, ...]:
    """The 1000 ImageNet class names with all synonyms (`tench, Tinca tinca`), in class order.

    From timm's `ImageNetInfo`; the two cranes are told apart, so all are distinct.
    """
    from timm.data import ImageNetInfo

    names = ImageNetInfo("imagenet-1k")
    return tuple(_CRANES.get(i) or names.index_to_description(i) for i in range(1000))


def class_names(source: str, units: int | None = None) -> tuple[str, ...]:
    """Class names by where they come from.

    Args:
        source: `imagenet`, or a UTF-8 file with one name a line, in unit order.
        units: how many there must be.

    Raises:
        MissingResource: no such file.
        DissectError: another number of names than units, or a file that isn't text.
    """
    names = imagenet_names() if source == "imagenet" else _of_file(Path(source).expanduser())
    if units is not None and len(names) != units:
        raise DissectError(
            f"target.classes ({source}) has {len(names)} names, but the layer of classes has "
            f"{units} units"
        )
    return names


def _of_file(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise MissingResource(
            "the class names",
            [str(path.absolute())],
            "set target.classes to a file with one name a line, or to imagenet",
        )
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DissectError(f"{path} is not UTF-8: save it as UTF-8") from error
    return tuple(line.strip() for line in lines if line.strip())
