"""Short pieces of work, ours and the plain pipeline's in turn, at several sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from clipdissect.app.runtime.baseline import PARAMETERS, Plain, soft_wpmi
from clipdissect.capture.capture import capture
from clipdissect.method import Job
from clipdissect.similarity import ConceptActivations, Similarity
from clipdissect.store import Store
from clipdissect.utils import timing as stages
from clipdissect.utils.timing import Timers

OURS, PLAIN = "clip_dissect", "plain"
# Other ways to write the plain loop, measured at the base size.
VARIANTS: dict[str, dict[str, str]] = {
    PLAIN: {},
    "plain, images by index": {"rows": "index"},
    "plain, scores in an array": {"results": "array"},
    "plain, both": {"rows": "index", "results": "array"},
}
AXES = ("images", "units", "concepts")

Work = Callable[[], float]


def scoring(
    similarity: Similarity,
    sizes: Mapping[str, Sequence[int]],
    base: Mapping[str, int],
    dims: int,
    repeats: int,
    plain: bool,
) -> pd.DataFrame:
    """Seconds of scoring one layer, over each of `AXES` with the others at their base.

    Embeddings and activations are random: speed doesn't depend on them.

    Args:
        similarity: the function.
        sizes: axis to the sizes to try.
        base: axis to the size that it has elsewhere.
        dims: of the embeddings.
        repeats: measurements of each size, after one that isn't counted.
        plain: whether to measure the plain loop beside.

    Returns:
        `axis, images, units, concepts, repeat, side, seconds`; axis `variants` has the ways to
        write the plain loop.
    """
    points = [(axis, {**base, axis: size}) for axis in AXES for size in sizes.get(axis, ())]
    jobs: list[tuple[str, dict[str, int], dict[str, dict[str, str]]]] = []
    for axis, point in points:
        jobs.append((axis, point, {OURS: {}, PLAIN: {}} if plain else {OURS: {}}))
    if plain:
        jobs.append(("variants", dict(base), {OURS: {}, **VARIANTS}))
    rows = []
    for axis, point, sides in jobs:
        factors, q = made_up(**point, dims=dims)
        works = {
            side: partial(_scored, similarity, factors, q, side, how) for side, how in sides.items()
        }
        rows += [{"axis": axis, **point, **one} for one in in_turn(works, repeats)]
    return _frame(rows)


def passes(job: Job, sizes: Sequence[int], repeats: int, plain: Job | None) -> pd.DataFrame:
    """Seconds of the pass over so many of the probe's images: decoding and both networks.

    Args:
        job: with all parts of a dissection.
        sizes: numbers of images; those beyond the probe's are left out.
        repeats: as of `scoring`.
        plain: the plain pipeline's job, which may have other batches; None leaves it out.

    Returns:
        `axis` (`pass`), `images`, `repeat`, `side`, `seconds`.
    """
    assert job.probe is not None
    rows = []
    for size in (n for n in sizes if n <= len(job.probe)):
        part = replace(job, probe=job.probe.subset(range(size)))
        works: dict[str, Work] = {OURS: partial(_captured, part)}
        if plain is not None:
            works[PLAIN] = partial(_passed, replace(plain, probe=part.probe))
        rows += [{"axis": "pass", "images": size, **one} for one in in_turn(works, repeats)]
    return _frame(rows)


def in_turn(works: Mapping[str, Work], repeats: int) -> Iterator[dict[str, Any]]:
    """Measure the works in turn, each repeat starting with another, after a warm-up.

    Args:
        works: a side's name to what gives its seconds.
        repeats: how often.

    Returns:
        `repeat, side, seconds` of each.
    """
    names = list(works)
    for repeat in range(-1, repeats):
        shift = repeat % len(names)
        for name in names[shift:] + names[:shift]:
            seconds = works[name]()
            if repeat >= 0:
                yield {"repeat": repeat, "side": name, "seconds": seconds}


def made_up(images: int, units: int, concepts: int, dims: int) -> tuple[ConceptActivations, Tensor]:
    """Embeddings with CLIP's spread of cosines, about 0.2 +- 0.04, and normal activations."""
    random = torch.Generator().manual_seed(0)
    factors = []
    for count in (images, concepts):
        embeds = torch.randn(count, dims, generator=random).mul_(dims**-0.5)
        embeds[:, 0] += 0.5
        factors.append(torch.nn.functional.normalize(embeds, dim=1))
    return ConceptActivations(*factors), torch.randn(images, units, generator=random)


def exponents(table: pd.DataFrame) -> pd.DataFrame:
    """`seconds ~ size ** exponent`: least squares of the logarithms of medians, by axis and side.

    Args:
        table: of `scoring` and `passes`.

    Returns:
        `axis, side, from, to, exponent, ratio`: the sizes' range, and at the largest size how many
        times our seconds the side took (median over repeats).
    """
    rows = []
    for (axis, side), own in table[table["axis"] != "variants"].groupby(
        ["axis", "side"], sort=False
    ):
        size = "images" if axis == "pass" else str(axis)
        medians = own.groupby(size)["seconds"].median()
        slope = np.nan
        if len(medians) > 1:
            slope = np.polyfit(np.log(medians.index), np.log(medians), 1)[0]
        rows.append(
            {
                "axis": axis,
                "side": side,
                "from": int(medians.index[0]),
                "to": int(medians.index[-1]),
                "exponent": float(slope),
            }
        )
    return _frame(rows)


def ratios(rows: pd.DataFrame, side: str, by: str = "repeat") -> list[float]:
    """A side's seconds over ours, of each repeat."""
    own = rows[rows["side"] == side].set_index(by)["seconds"]
    ours = rows[rows["side"] == OURS].set_index(by)["seconds"]
    return [float(value) for value in (own / ours)]


def model(table: pd.DataFrame, side: str) -> tuple[float, float, float]:
    """`seconds = a * images * concepts + b * units * concepts + c`, none negative.

    Fitted by least squares of relative errors.

    Args:
        table: of `scoring`.
        side: whose.
    """
    from scipy.optimize import nnls

    own = table[(table["side"] == side) & table["axis"].isin(AXES)]
    terms = np.stack(
        [
            own["images"] * own["concepts"],
            own["units"] * own["concepts"],
            np.ones(len(own)),
        ],
        axis=1,
    ).astype(float)
    seconds = own["seconds"].to_numpy(float)
    scale = terms.max(0)
    found, _ = nnls(terms / scale / seconds[:, None], np.ones(len(own)))
    a, b, c = found / scale
    return float(a), float(b), float(c)


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    table: pd.DataFrame = pd.DataFrame(rows)
    return table


def _scored(
    similarity: Similarity, factors: ConceptActivations, q: Tensor, side: str, how: dict[str, Any]
) -> float:
    start = stages.clock()
    if side == OURS:
        similarity.top(factors, q, 1)
    else:
        own = {k: v for k, v in similarity.parameters.items() if k in PARAMETERS}
        soft_wpmi(factors.image_embeds @ factors.text_embeds.T, q, **own, **how).max(1)
    return stages.clock() - start


def _captured(job: Job) -> float:
    assert job.target and job.encoder and job.probe
    with TemporaryDirectory() as folder:
        found = capture(
            job.target, job.target.layers, job.encoder, job.probe, Store(Path(folder)), job.settings
        )
    return found.seconds["decode"] + found.seconds["forward"]


def _passed(job: Job) -> float:
    assert job.target and job.encoder and job.probe and job.concepts and job.similarity
    spent = Timers()
    with TemporaryDirectory() as folder:
        Plain(
            job.target,
            job.probe,
            job.concepts.texts,
            job.encoder,
            job.similarity,
            job.settings,
            Path(folder),
            spent,
        ).features()
    return spent.seconds["decode"] + spent.seconds["forward"]
