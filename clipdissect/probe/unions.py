"""Unions of probes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import Any, TypeVar

from clipdissect.errors import DissectError
from clipdissect.probe.base import Probe
from clipdissect.probe.options import ProbeOptions
from clipdissect.utils import registry

T = TypeVar("T")


def union(
    parts: list[Any],
    limit: int | None = None,
    sample: int | None = None,
    seed: int = 0,
    on_error: str = "skip",
) -> Probe:
    """Concatenate several probes; their cached features are shared with runs on each part.

    Args:
        parts: each a probe's name, `{name: folder, root: /x}`, or a `Probe`.
        limit, sample, seed: of the union's images; reduced parts are captured again.
        on_error: for all parts.
    """
    from clipdissect.probe import build  # which has `union` among its options

    options = ProbeOptions(limit, sample, seed, on_error=on_error)
    if isinstance(parts, (str, Mapping)) or not isinstance(parts, Sequence):
        raise DissectError(f"probe.parts must be a list, such as [stamps, photos]; got {parts!r}")
    probes = [registry.part("probe", "probe", Probe, build, part) for part in parts]
    whole = join("union", probes, on_error)
    return whole.subset(options.pick(len(whole)))


def join(name: str, parts: Sequence[Probe], on_error: str = "skip") -> Probe:
    """Concatenate the parts' images, named `<part>/<image>`; nested unions are flattened."""
    flat = [plain for part in parts for plain in (part.parts or (part,))]
    if not flat:
        raise DissectError(f"probe {name} has no parts")
    part_names = _distinct([probe.name for probe in flat])
    probes = [
        replace(probe, name=part_name, on_error=on_error)
        for probe, part_name in zip(flat, part_names, strict=True)
    ]
    starts = tuple(accumulate((len(probe) for probe in probes[:-1]), initial=0))
    labels = [label for probe in probes for label in (probe.labels or [None] * len(probe))]
    notes = [(f"{p.name}: " if len(probes) > 1 else "") + note for p in probes for note in p.notes]
    return Probe.of(
        name,
        [f"{probe.name}/{image}" for probe in probes for image in probe.images],
        partial(_call_part, [probe.read for probe in probes], starts),
        # A custom probe may have only a digest.
        [
            identity
            for probe in probes
            for identity in probe.identities or (f"{probe.digest} {i}" for i in range(len(probe)))
        ],
        on_error=on_error,
        notes=tuple(notes),
        labels=tuple(labels) if any(labels) else None,
        file=partial(_call_part, [probe.path for probe in probes], starts),
        origins=tuple(probe.name for probe in probes for _ in probe.images),
        parts=tuple(probes),
        on_gpu=any(probe.on_gpu for probe in probes),
    )


def _call_part(functions: Sequence[Callable[[int], T]], starts: Sequence[int], index: int) -> T:
    part = bisect_right(starts, index) - 1
    return functions[part](index - starts[part])


def _distinct(names: Sequence[str]) -> list[str]:
    distinct: list[str] = []
    for name in names:
        number, candidate = 1, name
        while candidate in distinct:
            number += 1
            candidate = f"{name}-{number}"
        distinct.append(candidate)
    return distinct
