"""Unions of probes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Generic, TypeVar

from clipdissect.errors import DissectError
from clipdissect.probe.base import Probe
from clipdissect.probe.options import ProbeOptions
from clipdissect.utils import registry

T = TypeVar("T")


@dataclass(frozen=True)
class Joined(Generic[T]):
    """A function of an image's number, from the functions of the parts.

    Args:
        functions: of each part.
        starts: number of each part's first image.
    """

    functions: tuple[Callable[[int], T], ...]
    starts: tuple[int, ...]

    def __call__(self, index: int) -> T:
        part = bisect_right(self.starts, index) - 1
        return self.functions[part](index - self.starts[part])


def union(
    parts: list[Any],
    limit: int | None = None,
    sample: int | None = None,
    seed: int = 0,
    on_error: str = "skip",
) -> Probe:
    """Several probes as one: the images of the first, then those of the second, and so on.

    The features of a whole part are those that it has when it is used alone, so a union of probes
    that were captured before costs no forward pass. A part that `limit` or `sample` takes something
    from is captured anew.

    Args:
        parts: each a probe's name, `{name: folder, root: /x}` with its parameters, or a `Probe`.
        limit, sample, seed: of the whole union's images; see `ProbeOptions`.
        on_error: for all parts.

    Raises:
        DissectError: no parts, or something that is none; a value that isn't allowed.
        MissingResource: from a part.
    """
    choices = ProbeOptions(limit, sample, seed, on_error=on_error)
    if isinstance(parts, (str, Mapping)) or not isinstance(parts, Sequence):
        raise DissectError(f"probe.parts must be a list, such as [stamps, photos]; got {parts!r}")
    whole = join("union", [_part(part) for part in parts], on_error)
    return whole.subset(choices.pick(len(whole)))


def join(name: str, parts: Sequence[Probe], on_error: str = "skip") -> Probe:
    """The parts' images one after the other, named `<part>/<image>`.

    Parts that are unions themselves are taken apart.

    Args:
        name: what to call it.
        parts: the probes; several of one name get numbers.
        on_error: for all parts.

    Raises:
        DissectError: no parts.
    """
    flat = [plain for part in parts for plain in (part.parts or (part,))]
    if not flat:
        raise DissectError(f"probe {name} has no parts")
    named = [
        replace(part, name=own, on_error=on_error)
        for part, own in zip(flat, _distinct([p.name for p in flat]), strict=True)
    ]
    starts = tuple(accumulate((len(p) for p in named[:-1]), initial=0))
    labels = [label for p in named for label in (p.labels or [None] * len(p))]
    return Probe.of(
        name,
        [f"{p.name}/{image}" for p in named for image in p.images],
        Joined(tuple(p.read for p in named), starts),
        [identity for p in named for identity in _identities(p)],
        on_error=on_error,
        notes=tuple(
            f"{p.name}: {note}" if len(named) > 1 else note for p in named for note in p.notes
        ),
        labels=tuple(labels) if any(labels) else None,
        file=Joined(tuple(p.path for p in named), starts),
        origins=tuple(p.name for p in named for _ in p.images),
        parts=tuple(named),
    )


def _part(part: Any) -> Probe:
    from clipdissect.probe import build  # which has `union` among its options

    return registry.part("probe", "probe", Probe, build, part)


def _identities(part: Probe) -> Sequence[str]:
    # A probe of somebody's own making may have a digest alone.
    return part.identities or [f"{part.digest} {i}" for i in range(len(part))]


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, a repeated one with a number that no other has."""
    found: list[str] = []
    for name in names:
        number, own = 1, name
        while own in found:
            number += 1
            own = f"{name}-{number}"
        found.append(own)
    return found
