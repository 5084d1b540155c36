"""Detect networks whose outputs aren't a function of the image and must not be cached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipdissect.capture.gpu_decoding import check_decodes_on, decoded
from clipdissect.capture.networks import EMBEDS, ModelRunner, networks
from clipdissect.capture.output_layout import Reading
from clipdissect.capture.settings import BF16_WEIGHTS, Settings
from clipdissect.encoder import Encoder
from clipdissect.images.decode import Picture, UnreadableImage
from clipdissect.images.transforms import split
from clipdissect.probe import Probe
from clipdissect.targets import Target

# Two passes over a batch differ; or an output depends on the rest of the batch. A cache would serve
# the first draw forever.
DRAWN, MIXED = "drawn", "mixed"
EXPLANATIONS = {
    DRAWN: "differ between two passes over the same images: the network draws random numbers that "
    "eval() does not switch off (such as F.dropout without training=self.training). The results "
    "are those of one draw",
    MIXED: "depend on the other images of a batch (such as a norm that uses batch statistics). The "
    "results hold for this order of images and this batch size",
}
TRIAL = 8  # images: a draw per image then shows in one of them
MAX_READ = 64  # images, where the first ones can't be read
REPEATS = 16  # passes where a generator has moved: a draw per batch may rarely change the output

# Relative to a unit's largest activation. The same batch twice differs only by the order of sums
# (atomic additions on CUDA): some 1e-6 in float32, one rounding of 2^-8 per sum in bfloat16. A
# dropped feature moves units by percents. Batches of other sizes take other kernels, whose rounding
# differs more (TF32: 2^-11 per product, added up over the depth); batch statistics of 4 instead of
# 8 images differ by tens of percents.
SAME_BATCH = {"fp32": 1e-4, "tf32": 1e-3, "bf16": 2e-2, BF16_WEIGHTS: 2e-2}
OTHER_BATCH = {"fp32": 1e-2, "tf32": 3e-2, "bf16": 2e-1, BF16_WEIGHTS: 2e-1}

_Inputs = tuple[Tensor | None, Tensor | None]  # of the target and of the encoder


@torch.no_grad()
def nondeterministic(
    target: Target,
    encoder: Encoder | None,
    probe: Probe,
    names: Sequence[str],
    readings: Mapping[str, Reading],
    settings: Settings,
) -> dict[str, str]:
    """Return layers and embeddings that fail a trial on a few images, as `DRAWN` or `MIXED`.

    Latents count by their layer's activations: where an autoencoder keeps the largest codes, a
    difference in rounding may exchange two of them.
    """
    inputs = first_images(target, encoder if EMBEDS in names else None, probe, settings)
    if not names or inputs is None:
        return {}
    layers = {name: readings[name] for name in names if name != EMBEDS}
    device = torch.device(settings.torch_device)
    eager = replace(settings, compile=False)  # random draws occur in eager mode too
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        networks(target.without_saes, layers, encoder, eager) as run,
    ):
        is_half = run.dtype in (torch.float16, torch.bfloat16)
        return _compare(run, names, inputs, "bf16" if is_half else settings.mode)


def notes(reasons: Mapping[str, str], target: str, encoder: str = "") -> tuple[str, ...]:
    """Describe the results of `nondeterministic` for networks of these names."""
    lines = []
    for kind, explanation in EXPLANATIONS.items():
        subjects = []
        if layers := [name for name in reasons if reasons[name] == kind and name != EMBEDS]:
            more = f" and {len(layers) - 5} more layers" if len(layers) > 5 else ""
            subjects.append(f"{target}: the activations of {', '.join(layers[:5])}{more}")
        if reasons.get(EMBEDS) == kind:
            subjects.append(f"{encoder}: the image embeddings")
        lines += [f"{s} {explanation}, and were not cached" for s in subjects]
    return tuple(lines)


def _compare(run: ModelRunner, names: Sequence[str], inputs: _Inputs, mode: str) -> dict[str, str]:
    before = _generator_states()
    first = run(names, *inputs)
    repeats = 1 if _generator_states() == before else REPEATS
    drawn = set()
    for _ in range(repeats):
        again = run(names, *inputs)
        drawn |= {n for n in names if _differ(first[n], again[n], SAME_BATCH[mode])}
    half = len(next(iter(first.values()))) // 2
    mixed = set()
    if half > 1:  # exported programs may take any number of images but one
        part = run(names, *(None if x is None else x[:half] for x in inputs))
        mixed = {n for n in names if _differ(first[n][:half], part[n], OTHER_BATCH[mode])}
    return {n: DRAWN if n in drawn else MIXED for n in names if n in drawn | mixed}


def first_images(
    target: Target,
    encoder: Encoder | None,
    probe: Probe,
    settings: Settings,
    count: int | None = None,
) -> _Inputs | None:
    """Return both networks' images; None if none is readable or shapes differ.

    They are at most `count`, by default the trial's.
    """
    transforms = [split(network.preprocess) for network in (target, encoder) if network]
    rows: list[list[Tensor]] = []
    device = settings.torch_device
    for index in range(min(len(probe), MAX_READ)):
        if len(rows) == (count or min(TRIAL, settings.images_a_batch)):
            break
        try:
            image = _read(probe, index, device)
        except UnreadableImage:
            continue
        rows.append([transform.pixels(image).to(device) for transform in transforms])
    columns = list(zip(*rows, strict=True))
    if not columns or any(len({image.shape for image in column}) > 1 for column in columns):
        return None
    stacked = [torch.stack(column) for column in columns]
    return stacked[0], stacked[1] if encoder else None


def _read(probe: Probe, index: int, device: str) -> Picture:
    picture = probe.read(index)
    if not probe.on_gpu:
        return picture
    check_decodes_on(device)
    (decoded_picture,) = decoded([picture], torch.device(device))
    if isinstance(decoded_picture, UnreadableImage):
        raise decoded_picture
    return decoded_picture


def _generator_states() -> list[Any]:
    """Return the global generators' states except Python's, used by type checkers."""
    of_numpy = repr(np.random.get_state())  # noqa: NPY002 - the global one
    is_initialised: Any = torch.cuda.is_initialized
    has_cuda = torch.cuda.is_available() and is_initialised()
    of_cuda = [state.tolist() for state in torch.cuda.get_rng_state_all()] if has_cuda else []
    return [torch.get_rng_state().tolist(), of_cuda, of_numpy]


def _differ(first: Tensor, again: Tensor, tolerance: float) -> bool:
    if first.shape != again.shape:
        return True
    first, again = first.float(), again.float()
    scale = torch.maximum(first.abs(), again.abs()).amax(0)
    # A nearly silent unit has the rounding of its inputs, which are as large as those of others.
    scale = torch.maximum(scale, scale.mean())
    return bool(((first - again).abs() > tolerance * scale).any())
