"""Detect networks whose outputs aren't a function of the image: such features must not be stored.

`eval()` does not switch off everything: `F.dropout(x)`, Monte Carlo dropout, stochastic depth and
augmentation inside `forward` draw anew in each pass, and a norm that uses batch statistics mixes
the images of a batch. Under a cache key, the first draw would be served for ever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipdissect.capture.networks import EMBEDS, ModelRunner, networks
from clipdissect.capture.output_layout import Reading
from clipdissect.capture.settings import Settings
from clipdissect.encoder import Encoder
from clipdissect.images.decode import UnreadableImage
from clipdissect.images.transforms import apply
from clipdissect.probe import Probe
from clipdissect.targets import Target

DRAWN, MIXED = "drawn", "mixed"
TRIAL = 8  # images: a draw per image then shows in one of them
LOOKED_AT = 64  # images at most, where the first ones can't be read
REPEATS = 16  # passes where a generator has moved: a draw per batch may rarely change the output

# Relative to a unit's largest activation. The same batch twice differs only by the order of sums
# (atomic additions on CUDA): some 1e-6 in float32, one rounding of 2^-8 per sum in bfloat16. A
# dropped feature moves units by percents. Batches of other sizes take other kernels, whose rounding
# differs more (TF32: 2^-11 per product, added up over the depth); batch statistics of 4 instead of
# 8 images differ by tens of percents.
SAME_BATCH = {"fp32": 1e-4, "tf32": 1e-3, "bf16": 2e-2}
OTHER_BATCH = {"fp32": 1e-2, "tf32": 3e-2, "bf16": 2e-1}


@torch.no_grad()
def nondeterministic(
    target: Target, encoder: Encoder | None, probe: Probe, names: Sequence[str],
    readings: Mapping[str, Reading], settings: Settings,
) -> dict[str, str]:  # fmt: skip
    """Find the layers and embeddings that aren't a function of the image, by a trial on few images.

    The trial runs without `torch.compile`, which draws where the network does. The state of torch's
    generators is as before afterwards.

    Args:
        target, encoder: the networks.
        probe: its first readable images are used, 8 of them or a batch where that is smaller.
        names: layers and perhaps `EMBEDS`; those that are about to be computed.
        readings: layer to how its output is read.
        settings: how to run.

    Returns:
        Name to `DRAWN` (two passes over the same batch differ) or `MIXED` (an image's output
        depends on the others in its batch); the other names are missing.

    Raises:
        DissectError: as a pass over the probe.
    """
    wanted = {name: readings[name] for name in names if name != EMBEDS}
    inputs = _first_images(target, encoder if EMBEDS in names else None, probe, settings)
    if not names or inputs is None:
        return {}
    device = torch.device(settings.torch_device)
    eager = replace(settings, compile=False)
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        networks(target, wanted, encoder, eager) as run,
    ):
        is_short = run.dtype in (torch.float16, torch.bfloat16)
        return _trial(run, names, inputs, "bf16" if is_short else settings.mode)


def notes(found: Mapping[str, str], target: str, encoder: str = "") -> tuple[str, ...]:
    """Word the results of `nondeterministic` for the log and for `run.json`.

    Args:
        found: of `nondeterministic`.
        target, encoder: the networks' names.
    """
    worded = []
    for kind, what in (
        (DRAWN, "differ between two passes over the same images: the network draws random numbers "
                "that eval() does not switch off (such as F.dropout without training=self.training)"
                ". The results are those of one draw"),
        (MIXED, "depend on the other images of a batch (such as a norm that uses batch "
                "statistics). The results hold for this order of images and this batch size"),
    ):  # fmt: skip
        layers = [name for name in found if found[name] == kind and name != EMBEDS]
        of_target = f"{target}: the activations of {', '.join(layers[:5])}" + (
            f" and {len(layers) - 5} more layers" if len(layers) > 5 else "")  # fmt: skip
        of_encoder = f"{encoder}: the image embeddings"
        for subject, is_so in ((of_target, layers), (of_encoder, found.get(EMBEDS) == kind)):
            if is_so:
                worded.append(f"{subject} {what}, and were not kept in the store")
    return tuple(worded)


def _trial(
    run: ModelRunner, names: Sequence[str], inputs: tuple[Tensor | None, Tensor | None], mode: str
) -> dict[str, str]:
    before = _generators()
    first = run(names, *inputs)
    moved = _generators() != before
    found: dict[str, str] = {}
    for _ in range(REPEATS if moved else 1):
        again = run(names, *inputs)
        found |= {n: DRAWN for n in names if _differ(first[n], again[n], SAME_BATCH[mode])}
    size = len(next(iter(first.values())))
    if size >= 4:  # exported programs may take any number of images but one
        part = run(names, *(None if x is None else x[: size // 2] for x in inputs))
        mixed = [n for n in names if _differ(first[n][: size // 2], part[n], OTHER_BATCH[mode])]
        found = dict.fromkeys(mixed, MIXED) | found
    return {name: found[name] for name in names if name in found}


def _first_images(
    target: Target, encoder: Encoder | None, probe: Probe, settings: Settings
) -> tuple[Tensor | None, Tensor | None] | None:
    """Inputs of both networks; None where there are none, or of several shapes (the pass says)."""
    transforms = [target.preprocess, *([encoder.preprocess] if encoder else [])]
    rows: list[list[Tensor]] = []
    for index in range(min(len(probe), LOOKED_AT)):
        if len(rows) == min(TRIAL, settings.images_a_batch):
            break
        try:
            picture = probe.read(index)
        except UnreadableImage:
            continue
        rows.append([apply(transform, picture) for transform in transforms])
    columns = list(zip(*rows, strict=True))
    if not columns or any(len({image.shape for image in column}) > 1 for column in columns):
        return None
    stacked = [torch.stack(column) for column in columns]
    return stacked[0], stacked[1] if encoder else None


def _generators() -> list[Any]:
    """States of the global generators that networks draw from (checkers of types use Python's)."""
    of_numpy = repr(np.random.get_state())  # noqa: NPY002 - the global one
    of_cuda = [state.tolist() for state in torch.cuda.get_rng_state_all()] if _has_cuda() else []
    return [torch.get_rng_state().tolist(), of_cuda, of_numpy]


def _has_cuda() -> bool:
    is_initialised: Any = torch.cuda.is_initialized
    return torch.cuda.is_available() and bool(is_initialised())


def _differ(first: Tensor, again: Tensor, tolerance: float) -> bool:
    """Whether any activation differs by more than rounding."""
    if first.shape != again.shape:
        return True
    first, again = first.float(), again.float()
    scale = torch.maximum(first.abs(), again.abs()).amax(0)
    # A unit that is nearly silent has the rounding of its inputs, which are as large as others.
    scale = torch.maximum(scale, scale.mean())
    return bool(((first - again).abs() > tolerance * scale).any())
