"""Simulation scores: correlation of a unit with activations that are simulated from its text.

Source: Oikarinen & Weng, "Linear Explanations for Individual Neurons", ICML 2024.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from clipdissect.encoder import Encoder
from clipdissect.encoder.lazy import LazyEncoder
from clipdissect.encoder.prompts import PromptEncoder
from clipdissect.errors import DissectError
from clipdissect.scores import kernels
from clipdissect.scores.base import Pairs, Scores
from clipdissect.similarity import checks
from clipdissect.utils import hashing

_NUMBERS_AT_ONCE = 4_000_000  # of a block of columns
# Seconds of one pair's product of rows in a loop, over those of a pair in a matrix product.
_LOOP_COST = 16

Rows = Float[np.ndarray, "rows images"]

KINDS: dict[str, Callable[[Rows], Rows]] = {
    "simulation": lambda rows: rows,  # Pearson's correlation
    "simulation_spearman": kernels.average_ranks,
}


def simulation_scores(
    activations: Float[Tensor, "images units"],
    simulated: Float[Tensor, "images texts"],
    pairs: Pairs,
) -> Scores:
    """Return Pearson's and Spearman's correlation of activations with simulated ones per pair.

    Ties get their mean rank. NaN where the activations or the simulated ones never vary.

    Args:
        activations: on held-out images.
        simulated: on the same images, per text; see `Calibration.simulate`.

    Raises:
        DissectError: other numbers of images, NaN or infinite values, units or texts out of range.
    """
    _check(activations, simulated, pairs)
    units, unit_rows = np.unique(pairs.units, return_inverse=True)
    texts, text_rows = np.unique(pairs.texts, return_inverse=True)
    first = _standardised(activations, units)
    # Pairs of a block of texts at a time: the simulated activations may be many.
    step = max(1, _NUMBERS_AT_ONCE // len(simulated))
    order = np.argsort(text_rows, kind="stable")
    ends = np.searchsorted(text_rows[order], np.arange(0, len(texts) + step, step))
    result = {name: np.full(len(pairs), np.nan) for name in KINDS}
    for block, start in enumerate(range(0, len(texts), step)):
        second = _standardised(simulated, texts[start : start + step])
        chosen = order[ends[block] : ends[block + 1]]
        rows = unit_rows[chosen], text_rows[chosen] - start
        for name in KINDS:
            result[name][chosen] = _products(first[name], second[name], *rows).clip(-1, 1)
    return result


def _check(
    activations: Float[Tensor, "images units"],
    simulated: Float[Tensor, "images texts"],
    pairs: Pairs,
) -> None:
    checks.matrix("activations", activations, "images", "units")
    checks.matrix("simulated activations", simulated, "images", "texts")
    checks.same("images", len(activations), "activations", len(simulated), "simulated activations")
    sides = {"unit": (pairs.units, activations), "text": (pairs.texts, simulated)}
    for side, (numbers, values) in sides.items():
        count = values.shape[1]
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < count:
            wrong = numbers[(numbers < 0) | (numbers >= count)][0]
            raise DissectError(f"a pair has {side} {wrong}, but there are {count} {side}s")


def _standardised(
    values: Float[Tensor, "images columns"], columns: Int[np.ndarray, " some"]
) -> dict[str, Rows]:
    """Return columns as rows of mean 0 and length 1 per kind of correlation."""
    result = {name: np.empty((len(columns), len(values)), dtype=np.float32) for name in KINDS}
    step = max(1, _NUMBERS_AT_ONCE // len(values))
    for start in range(0, len(columns), step):
        chosen = torch.from_numpy(columns[start : start + step]).to(values.device)
        rows = values.index_select(1, chosen).T.contiguous().float().cpu().numpy()
        for name, transform in KINDS.items():
            result[name][start : start + step] = kernels.unit_rows(transform(rows))
    return result


def _products(
    first: Float[np.ndarray, "m images"],
    second: Float[np.ndarray, "n images"],
    first_rows: Int[np.ndarray, " pairs"],
    second_rows: Int[np.ndarray, " pairs"],
) -> Float[np.ndarray, " pairs"]:
    if len(first_rows) * _LOOP_COST < len(first) * len(second):
        return kernels.pair_products(first, second, first_rows, second_rows)
    products: Float[np.ndarray, " pairs"] = (first @ second.T)[first_rows, second_rows]
    return products


def check_encoders(
    describer: Encoder, scorer: Encoder, allow_same: bool = False
) -> tuple[str, ...]:
    """Return notes on what two encoders share: the labels' and that of the simulated activations.

    Raises:
        DissectError: the network of images is the same, unless `allow_same`.
    """
    describer, scorer = _without_prompts(describer), _without_prompts(scorer)
    if _share_images(describer, scorer):
        shared = (
            f"the scorer {scorer.name} has the network of images that the labels were made with "
            f"({describer.name}), so its scores are too high"
        )
        if allow_same:
            return (f"{shared} (scorer.same_encoder=true)",)
        raise DissectError(
            f"{shared}: choose another, such as ConSE with the classifier efficientnet_lite1, "
            f"which needs no download; or accept such scores with scorer.same_encoder=true"
        )
    if describer.text_digest == scorer.text_digest:
        return (
            f"the scorer {scorer.name} shares its text network, but not that of images, with the "
            f"encoder of the labels, {describer.name}",
        )
    return ()


def _without_prompts(encoder: Encoder) -> Encoder:
    return encoder.encoder if isinstance(encoder, PromptEncoder) else encoder


def _share_images(first: Encoder, second: Encoder) -> bool:
    if first.image_digest == second.image_digest:
        return True
    # ConSE's embeddings of images depend on its texts as well: two of them may share a classifier.
    networks = [_image_network(encoder) for encoder in (first, second)]
    if networks[0] is None or networks[1] is None:
        return False
    return networks[0] is networks[1] or (
        hashing.hash_model(networks[0]) == hashing.hash_model(networks[1])
    )


def _image_network(encoder: Encoder) -> nn.Module | None:
    built = encoder.built if isinstance(encoder, LazyEncoder) else encoder
    return getattr(built, "image_network", None)
